"""The content hash covers what a model reads of a group."""

from __future__ import annotations

from dataclasses import replace

from basereward.data.encoding.content_hash import encoded_content
from basereward.data.schema.group import Preference, Turn
from tests.helpers.support import group, picture


def test_content_depends_on_what_is_encoded() -> None:
    """Other words, order, role or image change it; id, source, preferences, ratings and critiques do not."""
    sample = group(images=1)
    same_content = [
        replace(sample, id="other", source="other"),
        replace(sample, preferences=(Preference(2, 0, weight=3.0),)),
        replace(sample, ratings=(0.0, 0.5, 1.0), critiques=("a", "b", "c")),
        group(images=1),
    ]
    assert {encoded_content(sample_group) for sample_group in same_content} == {encoded_content(sample)}
    other_content = [
        replace(sample, responses=sample.responses[::-1]),
        replace(sample, responses=sample.responses[:2]),
        replace(sample, prompt=(Turn("system", sample.prompt[0].parts),)),
        replace(sample, images=(picture(5),)),
        group("Which digit is it?", images=1),
    ]
    assert len({encoded_content(sample_group) for sample_group in (sample, *other_content)}) == 6
