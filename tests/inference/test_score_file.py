"""Scoring a file of rows: the written scores, the reported timings and the accepted file formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pytest

from basereward.errors import DataError, ModelError
from basereward.inference.load_model import load
from basereward.inference.score_file import score
from basereward.inference.scorer import Scorer
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, ModelRecipe, Recipe
from tests.helpers.support import checkpoint, pair_rows, write_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a saved model with random weights."""
    folder = tmp_path_factory.mktemp("models")
    path = checkpoint("llama", folder / "llama")
    recipe = Recipe(
        model=ModelRecipe(backbone=BackboneRecipe(path=str(path)), head={"_target_": "linear"}),
        data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
    )
    reward_model = build_model(recipe.model, path=str(path), seed=0).eval()
    Scorer(reward_model, encoder=load_encoder(path), recipe=recipe).save(folder / "model")
    return str(folder / "model")


def test_score_reports_its_speed(model: str, tmp_path: Path) -> None:
    """The summary counts rows, responses and forward passes and has consistent timings; the token budget changes the
    number of forward passes only."""
    file = write_rows(tmp_path / "rows.jsonl", pair_rows(9))
    summaries = [
        score(model, str(file), out=str(tmp_path / f"{budget}.jsonl"), tokens=budget) for budget in (1, 10_000)
    ]
    assert [(summary["rows"], summary["responses"], summary["forwards"]) for summary in summaries] == [
        (9, 18, 9),
        (9, 18, 1),
    ]
    for summary in summaries:
        assert 0 < summary["forward_ms"] <= summary["forward_ms_95"] <= 1000 * summary["seconds"] + 1
        assert summary["responses_per_s"] == pytest.approx(18 / summary["seconds"], rel=0.05, abs=20)
        json.dumps(summary, allow_nan=False)
    rows, other_rows = (
        [json.loads(line) for line in Path(summary["out"]).read_text().splitlines()] for summary in summaries
    )
    assert [row["id"] for row in rows] == [row["id"] for row in other_rows] == [f"row-{n}" for n in range(9)]
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row["scores"] == pytest.approx(other_row["scores"], abs=1e-5)


def test_dtype_reaches_the_weights(model: str, tmp_path: Path) -> None:
    """`score` and `load` both apply the dtype, and an unknown dtype is refused."""
    file = write_rows(tmp_path / "rows.jsonl", pair_rows(3))
    summaries = [
        score(model, str(file), out=str(tmp_path / f"{dtype}.jsonl"), dtype=dtype) for dtype in ("float32", "bfloat16")
    ]
    float32_scores, bfloat16_scores = (Path(summary["out"]).read_text() for summary in summaries)
    assert float32_scores != bfloat16_scores
    scorer = load(model, dtype="bfloat16")
    assert str(next(scorer.model.backbone.parameters()).dtype) == "torch.bfloat16"
    with pytest.raises(ModelError, match="unknown dtype 'half'"):
        load(model, dtype="half")


def test_every_file_format_is_scored(model: str, tmp_path: Path) -> None:
    """The same rows give the same scores from JSON Lines, JSON, gzip and Parquet files."""
    rows = pair_rows(4)
    write_rows(tmp_path / "lines.jsonl", rows)
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress((tmp_path / "lines.jsonl").read_bytes()))
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "table.parquet")
    score_files = [score(model, str(tmp_path / name), out=str(tmp_path / f"{name}.scores"))["out"] for name in KINDS]
    first, *others = [Path(score_file).read_text() for score_file in score_files]
    assert first.count("\n") == 4
    assert others == [first] * 3


KINDS = ("lines.jsonl", "array.json", "packed.jsonl.gz", "table.parquet")


def test_lone_surrogate_is_refused(model: str, tmp_path: Path) -> None:
    """A lone surrogate in a file is refused with its line number, and so is one in a text passed to `score`."""
    file = write_rows(tmp_path / "rows.jsonl", [{**pair_rows(1)[0], "chosen": "good \ud83d"}])
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .*surrogate"):
        score(model, str(file), out=str(tmp_path / "out.jsonl"))
    with pytest.raises(DataError, match="surrogate"):
        load(model).score("What?", ["good \ud83d", "b"])
