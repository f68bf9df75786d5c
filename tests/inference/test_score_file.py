"""Scores for a file: what is written, and what is told of the work."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pytest

from basereward.errors import DataError, ModelError
from basereward.inference.score_file import load, score
from basereward.inference.scorer import Scorer
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, ModelRecipe, Recipe
from tests.helpers.support import checkpoint, pair_rows, write_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved model with random weights."""
    folder = tmp_path_factory.mktemp("models")
    path = checkpoint("llama", folder / "llama")
    recipe = Recipe(
        model=ModelRecipe(backbone=BackboneRecipe(path=str(path)), head={"_target_": "linear"}),
        data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
    )
    made = build_model(recipe.model, path=str(path), seed=0).eval()
    Scorer(made, encoder=load_encoder(path), recipe=recipe).save(folder / "model")
    return str(folder / "model")


def test_speed_is_told(model: str, tmp_path: Path) -> None:
    """Rows, responses and passes as they were, and times that fit together; the budget decides on the passes alone."""
    file = write_rows(tmp_path / "rows.jsonl", pair_rows(9))
    told = [score(model, str(file), out=str(tmp_path / f"{n}.jsonl"), tokens=n) for n in (1, 10_000)]
    assert [(each["rows"], each["responses"], each["forwards"]) for each in told] == [(9, 18, 9), (9, 18, 1)]
    for each in told:
        assert 0 < each["forward_ms"] <= each["forward_ms_95"] <= 1000 * each["seconds"] + 1
        assert each["responses_per_s"] == pytest.approx(18 / each["seconds"], rel=0.05, abs=20)
        json.dumps(each, allow_nan=False)
    one, other = ([json.loads(line) for line in Path(each["out"]).read_text().splitlines()] for each in told)
    assert [row["id"] for row in one] == [row["id"] for row in other] == [f"row-{n}" for n in range(9)]
    for row, same in zip(one, other, strict=True):
        assert row["scores"] == pytest.approx(same["scores"], abs=1e-5)


def test_the_dtype_goes_through(model: str, tmp_path: Path) -> None:
    """To the weights, by both doors."""
    file = write_rows(tmp_path / "rows.jsonl", pair_rows(3))
    told = [
        score(model, str(file), out=str(tmp_path / f"{name}.jsonl"), dtype=name) for name in ("float32", "bfloat16")
    ]
    one, other = (Path(each["out"]).read_text() for each in told)
    assert one != other
    asked = load(model, dtype="bfloat16")
    assert str(next(asked.model.backbone.parameters()).dtype) == "torch.bfloat16"
    with pytest.raises(ModelError, match="unknown dtype 'half'"):
        load(model, dtype="half")


def test_every_kind_of_file_is_scored(model: str, tmp_path: Path) -> None:
    """The same rows get the same scores, and the file of scores is named as the rows."""
    rows = pair_rows(4)
    write_rows(tmp_path / "lines.jsonl", rows)
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress((tmp_path / "lines.jsonl").read_bytes()))
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "table.parquet")
    outs = [score(model, str(tmp_path / name), out=str(tmp_path / f"{name}.scores"))["out"] for name in KINDS]
    first, *others = [Path(out).read_text() for out in outs]
    assert first.count("\n") == 4
    assert others == [first] * 3


KINDS = ("lines.jsonl", "array.json", "packed.jsonl.gz", "table.parquet")


def test_half_a_surrogate_is_named(model: str, tmp_path: Path) -> None:
    """In a file with its line, and in a text that is given to the model."""
    file = write_rows(tmp_path / "rows.jsonl", [{**pair_rows(1)[0], "chosen": "good \ud83d"}])
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .*surrogate"):
        score(model, str(file), out=str(tmp_path / "out.jsonl"))
    with pytest.raises(DataError, match="surrogate"):
        load(model).score("What?", ["good \ud83d", "b"])
