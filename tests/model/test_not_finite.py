"""Scores that are NaN or infinite come out of nothing that scores."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from basereward.errors import ModelError
from basereward.inference.score_file import score
from basereward.inference.scorer import load_scorer
from basereward.io.files import json_text
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.model.saving.saved_model import save_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, ModelRecipe, Recipe
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, read_scores, write_scores
from tests.helpers.support import checkpoint, group, write_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of a whole small Llama."""
    place = tmp_path_factory.mktemp("finite")
    base = str(checkpoint("llama", place / "base"))
    model = ModelRecipe(backbone=BackboneRecipe(path=base), head={"_target_": "linear"})
    recipe = Recipe(model=model, data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}))
    built = build_model(model, path=base, seed=0)
    save_model(built, place / "model", recipe=recipe, encoder=load_encoder(base), scores={"mean": math.nan, "std": 1.0})
    return place / "model"


@pytest.fixture
def poisoned(folder: Path, tmp_path: Path) -> Path:
    """The model with an infinite value in the embedding of one letter, so that one answer alone is met by it."""
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "backbone" / "model.safetensors"
    weights = load_file(file)
    letter = load_encoder(tmp_path / "model" / "backbone").plain("z")
    weights["embed_tokens.weight"][letter] = torch.inf
    save_file(weights, file, metadata={"format": "pt"})
    return tmp_path / "model"


def test_the_row_and_the_weight_are_named(poisoned: Path, tmp_path: Path) -> None:
    """Rows before it are scored; nothing is written, and an older file of scores stays."""
    rows = [{"id": name, "prompt": "?", "responses": ["a", last]} for name, last in (("good", "b"), ("bad", "z"))]
    out = tmp_path / "scores.jsonl"
    out.write_text("from before\n")
    with pytest.raises(ModelError) as caught:
        score(str(poisoned), str(write_rows(tmp_path / "rows.jsonl", rows)), out=str(out))
    assert "'bad'" in str(caught.value)
    assert "embed_tokens.weight" in str(caught.value)
    assert out.read_text() == "from before\n"
    found = load_scorer(poisoned).score_groups([group("?", ("a", "b"), name="good"), group("?", ("z",), name="bad")])
    assert all(map(math.isfinite, next(found)))


@pytest.mark.parametrize(
    "ask",
    [
        lambda scorer: scorer.score("?", ["z"]),
        lambda scorer: scorer.prompt("?").score(["a", "z"]),
        lambda scorer: list(scorer.score_groups([group("?", ("z",))], tokens=1)),
    ],
    ids=["score", "prompt", "groups"],
)
def test_no_way_to_ask_gives_them(ask: Callable[[Any], Any], poisoned: Path) -> None:
    """Whether the answers come at once or in several calls."""
    with pytest.raises(ModelError, match="NaN or infinite"):
        ask(load_scorer(poisoned))


def test_a_spread_that_is_no_number_is_not_saved(folder: Path) -> None:
    """The card is strict JSON, and opens."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    card = json.loads((folder / "reward_model.json").read_text(), parse_constant=refuse)
    assert card["scores"] == {"std": 1.0}
    assert load_scorer(folder).scores == {"std": 1.0}


def test_what_a_run_writes_is_strict_json_and_is_read_as_it_was(tmp_path: Path) -> None:
    """A metric or a score that is no number is null in the file, and NaN again for who reads it."""
    run = RunFolder(tmp_path)
    run.write_result({"run_id": "r", "metrics": {"test/pair_accuracy": math.nan, "test/margin": 0.5}})
    assert "NaN" not in (tmp_path / "result.json").read_text()
    result = run.result()
    assert result is not None
    assert math.isnan(result["metrics"]["test/pair_accuracy"])
    assert result["metrics"]["test/margin"] == 0.5
    groups = [ScoredGroup("g", "s", [math.nan, 1.0], [1, 2], [(0, 1, False)])]
    write_scores(tmp_path / "scores.jsonl", groups)
    assert "NaN" not in (tmp_path / "scores.jsonl").read_text()
    (read,) = read_scores(tmp_path / "scores.jsonl")
    assert math.isnan(read.scores[0])
    assert (read.scores[1], read.lengths, read.preferences) == (1.0, [1, 2], [(0, 1, False)])


def test_strict_json_keeps_all_but_what_is_no_number() -> None:
    """In every nesting."""
    value = {"a": [1, 2.5, math.inf, {"b": -math.inf}], "c": (math.nan, "NaN", True, None)}
    assert json.loads(json_text(value)) == {"a": [1, 2.5, None, {"b": None}], "c": [None, "NaN", True, None]}
