"""Files in the formats of other projects are read as they are, or refused with the line to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from basereward.data.conversion import convert
from basereward.data.formats.recognise import FORMATS, recognise
from basereward.data.images.open_images import read_image
from basereward.data.schema.group import Group
from basereward.data.sources.jsonl import Jsonl, read_rows
from basereward.errors import BaseRewardError
from basereward.evaluation.benchmarks.pairs import Pairs
from basereward.recipe import make
from basereward.recipe.fragment import load_source
from tests.helpers.format_shapes import FOLDER, READ, REFUSED, Expected, rows_of
from tests.helpers.support import write_rows


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the library's cache into a folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def open_source(path: Path) -> Jsonl:
    """Return the source that `look`, `data` and `convert` make of a path."""
    name, node = load_source(str(path))
    source: Jsonl = make(node, "sources", name)
    return source


def rejections(path: Path) -> list[str]:
    """Return the reasons for which rows of a file are rejected."""
    return [row.reason for row in open_source(path).rejected("train")]


def mixed_with_usable(name: str, *, folder: Path) -> Jsonl:
    """Return a source of the rows of a file after a usable one."""
    rows = [{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, *rows_of(name)]
    return open_source(write_rows(folder / "mixed.jsonl", rows))


def facts(group: Group) -> dict[str, Any]:
    """Return what a group says, in plain values."""
    decided = [preference for preference in group.preferences if not preference.tie]
    tied = [preference for preference in group.preferences if preference.tie]
    return {
        "turns": [(turn.role, [part.text for part in turn.parts]) for turn in group.prompt],
        "better": {(group.responses[item.winner], group.responses[item.loser]) for item in decided},
        "ties": {frozenset({group.responses[item.winner], group.responses[item.loser]}) for item in tied},
        "images": [read_image(image) for image in group.images],
    }


def check(group: Group, expected: Expected) -> None:
    """Compare a group with what another reader found in the row."""
    assert facts(group) == {
        "turns": expected.turns,
        "better": expected.better,
        "ties": expected.ties,
        "images": expected.images,
    }
    if expected.margins is not None:
        assert [preference.margin for preference in group.preferences] == expected.margins
    if expected.ratings is not None:
        assert list(group.ratings) == expected.ratings


def test_every_file_is_read_or_refused() -> None:
    """At least sixty files; none of the folder is left out."""
    names = {path.name for path in FOLDER.iterdir()} - {"pictures"}
    assert names == {*READ, *REFUSED}
    assert len(names) >= 60


@pytest.mark.parametrize("name", READ)
def test_file_is_read_as_it_is(name: str) -> None:
    """Label direction, system turns, images and turns are those that a reader with json, csv or pyarrow finds."""
    source = open_source(FOLDER / name)
    assert [row.detail for row in source.rejected("train")] == []
    groups = source.groups("train")
    rows = rows_of(name)
    assert len(groups) == len(rows) > 0
    for group, row in zip(groups, rows, strict=True):
        check(group, READ[name](row))
    assert source.columns_read().formats


@pytest.mark.parametrize("name", READ)
def test_conversion_loses_nothing(name: str, tmp_path: Path) -> None:
    """The groups of the converted file are those of the file, with the same bytes of images."""
    before = open_source(FOLDER / name).groups("train")
    written = convert(FOLDER / name, tmp_path / "rows.jsonl")
    assert (written["rows"], written["lost"]) == (len(before), {})
    after = open_source(tmp_path / "rows.jsonl").groups("train")
    for one, other in zip(before, after, strict=True):
        assert facts(one) == facts(other)
        assert (one.id, one.prompt, one.responses, one.preferences) == (
            other.id, other.prompt, other.responses, other.preferences,
        )  # fmt: skip
        assert (one.critiques, one.reasonings, one.ratings) == (other.critiques, other.reasonings, other.ratings)


@pytest.mark.parametrize("name", READ)
def test_score_and_eval_read_the_same(name: str) -> None:
    """`score` reads the same prompts and responses, `eval` has one item for each preference that is no tie."""
    groups = open_source(FOLDER / name).groups("train")
    scored = read_rows(FOLDER / name)
    assert [(group.prompt, group.responses) for group in scored] == [
        (group.prompt, group.responses) for group in groups
    ]
    better: list[tuple[str, str]] = []
    for group in groups:
        better += [(group.responses[p.winner], group.responses[p.loser]) for p in group.preferences if not p.tie]
    assert [item.responses for item in Pairs("mine", path=str(FOLDER / name)).items] == better


@pytest.mark.parametrize("name", REFUSED)
def test_file_is_refused_with_the_line_to_write(name: str, tmp_path: Path) -> None:
    """Every row has the reason, and its detail has what to write; a file that holds no rows is an error."""
    reason, advice = REFUSED[name]
    with pytest.raises(BaseRewardError) as caught:
        rejections(FOLDER / name)
    assert advice in str(caught.value)
    # Among usable rows, the row alone is rejected, under its reason.
    if reason:
        assert {row.reason for row in mixed_with_usable(name, folder=tmp_path).rejected("train")} == {reason}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_example_of_a_format_is_recognised(form: Any) -> None:
    """By its own format and by none before it, also from a file in which nulls fill the other columns."""
    assert recognise(form.example) is form
    columns = {name for other in FORMATS for name in other.example}
    assert recognise(dict.fromkeys(columns) | dict(form.example)) is form
