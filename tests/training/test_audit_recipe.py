"""The audit of a recipe's sources: numbers by hand, a model's opinion, and a benchmark found in the training data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from basereward import load_recipe
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError, TooManyRowsLost
from basereward.training import audit as module
from basereward.training.audit import audit
from basereward.training.build import backbone_path as find_backbone
from basereward.training.build import build_data, recipe_encoder
from tests.helpers.support import SMALL

ROWS = [
    {"prompt": "Name a prime number that is even.", "chosen": "Two.", "rejected": "Four."},
    {"prompt": "Which colour has the sky at noon?", "chosen": "It is blue.", "rejected": "Red."},
    {"prompt": "Which colour has the sky at noon?", "chosen": "It is blue.", "rejected": "Red."},
    {"prompt": "How many legs has a spider?", "chosen": "Eight", "rejected": ""},
]
MAPPING = "{prompt: query, responses: response, ranking: human_ranking}"


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe(*overrides: str, file: Path | None = None) -> Any:
    """The small recipe; with a file that alone is its source, `rows`."""
    alone = ["data.sources.digits=null", "data.sources.numbers=null"] if file else []
    source = [f"data.sources.rows={{_target_: jsonl, path: {file}, val: 0, test: 0}}"] if file else []
    small = [override for override in SMALL if not (file and override.startswith("data.sources"))]
    return load_recipe("basereward", overrides=[*small, *alone, *source, *overrides])


def test_sources_are_described_before_anything_is_curated(tmp_path: Path) -> None:
    """Three of four rows can be used: one is lost under its reason, and one of two equal ones would be left out. Of the
    winners `Two.` (4 letters) loses to `Four.` (5) in length, and `It is blue.` (11) twice wins against `Red.` (4)."""
    file = write(tmp_path / "rows.jsonl", ROWS)
    result = audit(recipe("data.curation.duplicates=true", file=file))
    assert list(result["sources"]) == ["rows"]
    audited = result["sources"]["rows"]
    assert (audited["num_groups"], audited["num_responses"], audited["num_decided"]) == (3, 6, 3)
    assert (audited["longer_wins"]["count"], audited["longer_wins"]["total"]) == (2, 3)
    assert audited["images"] == {0: 3}
    assert (audited["noise"], audited["unscored"], result["model"]) == (None, 0, None)
    assert result["lost"] == {"rows": {"empty_response": 1}}
    assert result["curation"] == {
        "left_out": {"rows": {"duplicate": 1}},
        "overlaps": [],
        "unread": {},
        "relabelled": None,
    }
    assert audit(recipe(file=file))["curation"] is None


def test_a_model_says_how_many_labels_it_doubts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This one likes short answers: it disagrees with two of three labels, strongly, by 7; a group that it cannot read
    is counted and stops nothing."""

    class LikesShort:
        def score_groups(self, groups: Iterable[Group]) -> Iterator[list[float]]:
            for group in groups:
                if "Unread." in group.responses:
                    raise DataError("too long") from RowRejected("too_long", "too long")
                yield [-float(len(response)) for response in group.responses]

    opened = []
    monkeypatch.setattr(module, "load", lambda model: opened.append(model) or LikesShort())
    unread = {"prompt": "What is it?", "chosen": "Unread.", "rejected": "A book."}
    result = audit(recipe(file=write(tmp_path / "rows.jsonl", [*ROWS[:3], unread])), model="m")
    audited = result["sources"]["rows"]
    assert opened == ["m"]
    assert (audited["num_groups"], audited["unscored"]) == (4, 1)
    for share in ("disagrees", "strongly"):
        assert (audited["noise"][share]["count"], audited["noise"][share]["total"]) == (2, 3)
    assert sum(count for _, _, count in audited["noise"]["bins"]) == 3


def test_a_fault_of_the_model_is_not_taken_for_a_group_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised."""

    class Broken:
        def score_groups(self, groups: Iterable[Group]) -> Iterator[list[float]]:
            raise DataError("the tokenizer is not there")

    monkeypatch.setattr(module, "load", lambda model: Broken())
    with pytest.raises(DataError, match="the tokenizer is not there"):
        audit(recipe(file=write(tmp_path / "rows.jsonl", ROWS[:3])), model="m")


def test_streams_are_not_audited() -> None:
    """It is said what to leave out."""
    with pytest.raises(DataError, match=r"remove data\.streaming"):
        audit(recipe("data.streaming={buffer: 10}", "data.mixture.weights={digits: 1, numbers: 1}"))


@pytest.fixture
def annotations(real_rows: Path, tmp_path: Path) -> Path:
    """VL-RewardBench's 1,250 rows as JSON Lines, without the pictures' names: the pictures are not there."""
    rows = json.loads((real_rows / "benchmarks" / "vl_rewardbench.json").read_text())
    return write(tmp_path / "vl.jsonl", ({k: v for k, v in row.items() if k != "image"} for row in rows))


def against(file: Path) -> str:
    """VL-RewardBench as a benchmark, as its YAML says, but from a file."""
    return (
        f"data.curation.against.vl_rewardbench={{include: sources/vl_rewardbench, path: {file}, split: train, "
        "val: 0, test: 0}"
    )


def test_a_benchmark_that_is_trained_on_is_found_to_the_last_row(annotations: Path) -> None:
    """1,250 of 1,250 of its rows, under the reason `contaminated`; of scanned digits and of numbers none."""
    source = f"data.sources.vl={{_target_: jsonl, path: {annotations}, columns: {MAPPING}, val: 0, test: 0}}"
    result = audit(recipe(source, against(annotations), "data.encoding.max_tokens=100000"))
    assert result["sources"]["vl"]["num_groups"] == 1250
    assert result["curation"]["left_out"] == {"vl": {"contaminated": 1250}}
    counts = {row["source"]: (row["rows"], row["contaminated"]) for row in result["curation"]["overlaps"]}
    assert counts == {"digits": (24, 0), "numbers": (40, 0), "vl": (1250, 1250)}
    [row] = [row for row in result["curation"]["overlaps"] if row["source"] == "vl"]
    assert (row["benchmark"], row["kinds"]["prompt_response"]) == ("vl_rewardbench", 1250)


def test_training_stops_where_nothing_is_left(annotations: Path, tmp_path: Path) -> None:
    """The same benchmark as the only source: every row is listed as `contaminated`, and the run does not begin."""
    chosen = recipe(against(annotations), "data.encoding.max_tokens=100000", file=annotations)
    chosen.data.sources["rows"]["columns"] = {"prompt": "query", "responses": "response", "ranking": "human_ranking"}
    encoder = recipe_encoder(chosen, path=find_backbone(chosen.model.backbone))
    data = build_data(chosen, encoder=encoder, rejections_file=tmp_path / "lost.jsonl")
    with pytest.raises(TooManyRowsLost, match="every row of rows is rejected"):
        data.setup()
    listed = [json.loads(line)["reason"] for line in (tmp_path / "lost.jsonl").read_text().splitlines()]
    assert listed == ["contaminated"] * 1250
