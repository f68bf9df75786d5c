"""What of a group counts for what a model makes of it."""

from __future__ import annotations

from dataclasses import replace

from basereward.data.encoding.content_hash import encoded_content
from basereward.data.schema.group import Preference, Turn
from tests.helpers.support import group, picture


def test_only_what_is_read_counts() -> None:
    """Another word, order, role or picture is other content; another name, source or label is not."""
    sample = group(images=1)
    alike = [
        replace(sample, id="other", source="other"),
        replace(sample, preferences=(Preference(2, 0, weight=3.0),)),
        replace(sample, ratings=(0.0, 0.5, 1.0), critiques=("a", "b", "c")),
        group(images=1),
    ]
    assert {encoded_content(each) for each in alike} == {encoded_content(sample)}
    others = [
        replace(sample, responses=sample.responses[::-1]),
        replace(sample, responses=sample.responses[:2]),
        replace(sample, prompt=(Turn("system", sample.prompt[0].parts),)),
        replace(sample, images=(picture(5),)),
        group("Which digit is it?", images=1),
    ]
    assert len({encoded_content(each) for each in (sample, *others)}) == 6
