"""Test the audit of a recipe's sources: counts by hand, a model's disagreement, and a benchmark in the training
data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from basereward import load_recipe
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.errors import BaseRewardError, DataError, TooManyRowsLost
from basereward.inference.group_scores import ScoresEncodedGroups
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
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe(*overrides: str, file: Path | None = None) -> Any:
    """Return the small recipe; with a file, that file is its only source, named `rows`."""
    without_others = ["data.sources.digits=null", "data.sources.numbers=null"] if file else []
    source = [f"data.sources.rows={{_target_: jsonl, path: {file}, val: 0, test: 0}}"] if file else []
    small = [override for override in SMALL if not (file and override.startswith("data.sources"))]
    return load_recipe("basereward", overrides=[*small, *without_others, *source, *overrides])


def test_audit_describes_the_sources_before_curation(tmp_path: Path) -> None:
    """Three of four rows are usable: one is lost under its reason, and curation would leave out one of two equal rows.
    By length `Two.` (4 characters) loses to `Four.` (5), and `It is blue.` (11) wins twice against `Red.` (4)."""
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


def test_audit_counts_the_labels_that_a_model_contradicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model prefers short answers: it disagrees with two of three labels by 7, which is strong. A group that it
    cannot read is counted without an error."""

    class LikesShort(ScoresEncodedGroups):
        def encode(self, group: Group) -> Group:
            if "Unread." in group.responses:
                raise DataError("too long") from RowRejected("too_long", "too long")
            return group

        def score_encoded(self, groups: Iterable[Group], **options: object) -> Iterator[list[list[float]]]:
            for group in groups:
                yield [[-float(len(response)) for response in group.responses]]

    loaded = []
    monkeypatch.setattr(module, "load", lambda model: loaded.append(model) or LikesShort())
    unreadable = {"prompt": "What is it?", "chosen": "Unread.", "rejected": "A book."}
    result = audit(recipe(file=write(tmp_path / "rows.jsonl", [*ROWS[:3], unreadable])), model="m")
    audited = result["sources"]["rows"]
    assert loaded == ["m"]
    assert (audited["num_groups"], audited["unscored"]) == (4, 1)
    for share in ("disagrees", "strongly"):
        assert (audited["noise"][share]["count"], audited["noise"][share]["total"]) == (2, 3)
    assert sum(count for _, _, count in audited["noise"]["bins"]) == 3


def test_audit_raises_a_fault_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the model is not counted as an unreadable group."""

    class Broken(ScoresEncodedGroups):
        def encode(self, group: Group) -> Group:
            raise DataError("the tokenizer is not there")

        def score_encoded(self, groups: Iterable[Group], **options: object) -> Iterator[list[list[float]]]:
            for _ in groups:
                yield []

    monkeypatch.setattr(module, "load", lambda model: Broken())
    with pytest.raises(DataError, match="the tokenizer is not there"):
        audit(recipe(file=write(tmp_path / "rows.jsonl", ROWS[:3])), model="m")


def test_audit_refuses_streams() -> None:
    """The message says which key to remove."""
    with pytest.raises(BaseRewardError, match=r"Remove data\.streaming"):
        audit(recipe("data.streaming={buffer: 10}", "data.mixture.weights={digits: 1, numbers: 1}"))


@pytest.fixture
def annotations(real_rows: Path, tmp_path: Path) -> Path:
    """Write VL-RewardBench's 1,250 rows as JSON Lines without picture names, since the pictures are missing."""
    rows = json.loads((real_rows / "benchmarks" / "vl_rewardbench.json").read_text())
    return write(tmp_path / "vl.jsonl", ({key: cell for key, cell in row.items() if key != "image"} for row in rows))


def against(file: Path) -> str:
    """Return an override that compares with VL-RewardBench from a file."""
    return (
        f"data.curation.against.vl_rewardbench={{include: sources/vl_rewardbench, path: {file}, split: train, "
        "val: 0, test: 0}"
    )


def test_audit_finds_every_benchmark_row_in_the_training_data(annotations: Path) -> None:
    """All 1,250 rows have the reason `contaminated`; digits and numbers have none."""
    source = f"data.sources.vl={{_target_: jsonl, path: {annotations}, columns: {MAPPING}, val: 0, test: 0}}"
    result = audit(recipe(source, against(annotations), "data.encoding.max_tokens=100000"))
    assert result["sources"]["vl"]["num_groups"] == 1250
    assert result["curation"]["left_out"] == {"vl": {"contaminated": 1250}}
    counts = {row["source"]: (row["rows"], row["contaminated"]) for row in result["curation"]["overlaps"]}
    assert counts == {"digits": (24, 0), "numbers": (40, 0), "vl": (1250, 1250)}
    [row] = [row for row in result["curation"]["overlaps"] if row["source"] == "vl"]
    assert (row["benchmark"], row["kinds"]["prompt_response"]) == ("vl_rewardbench", 1250)


def test_training_on_contaminated_rows_alone_is_refused(annotations: Path, tmp_path: Path) -> None:
    """The benchmark is the only source: every row is listed as `contaminated`, and the run does not start."""
    benchmark_recipe = recipe(against(annotations), "data.encoding.max_tokens=100000", file=annotations)
    benchmark_recipe.data.sources["rows"]["columns"] = {
        "prompt": "query",
        "responses": "response",
        "ranking": "human_ranking",
    }
    encoder = recipe_encoder(benchmark_recipe, path=find_backbone(benchmark_recipe.model.backbone))
    data = build_data(benchmark_recipe, encoder=encoder, rejections_file=tmp_path / "lost.jsonl")
    with pytest.raises(TooManyRowsLost, match="every row of rows is rejected"):
        data.setup()
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "lost.jsonl").read_text().splitlines()]
    assert reasons == ["contaminated"] * 1250
