"""NaN and infinite scores: scoring raises an error, and saved files are strict JSON."""

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
    """Return a saved model of a small Llama."""
    directory = tmp_path_factory.mktemp("finite")
    base = str(checkpoint("llama", directory / "base"))
    model = ModelRecipe(backbone=BackboneRecipe(path=base), head={"_target_": "linear"})
    recipe = Recipe(model=model, data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}))
    reward_model = build_model(model, path=base, seed=0)
    save_model(
        reward_model,
        directory / "model",
        recipe=recipe,
        encoder=load_encoder(base),
        scores={"mean": math.nan, "std": 1.0},
    )
    return directory / "model"


@pytest.fixture
def poisoned(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the model with an infinite embedding of one letter, so that only responses with this letter are
    affected."""
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "backbone" / "model.safetensors"
    weights = load_file(file)
    letter = load_encoder(tmp_path / "model" / "backbone").plain("z")
    weights["embed_tokens.weight"][letter] = torch.inf
    save_file(weights, file, metadata={"format": "pt"})
    card = tmp_path / "model" / "reward_model.json"
    content = json.loads(card.read_text())
    # As if training had ended with it.
    del content["backbone"]["hashes"]
    card.write_text(json.dumps(content))
    return tmp_path / "model"


def test_error_names_the_row_and_the_weight(poisoned: Path, tmp_path: Path) -> None:
    """Rows before the invalid one are scored; no file is written, and an older score file stays unchanged."""
    rows = [
        {"id": name, "prompt": "?", "responses": ["a", second_response]}
        for name, second_response in (("good", "b"), ("bad", "z"))
    ]
    out = tmp_path / "scores.jsonl"
    out.write_text("from before\n")
    with pytest.raises(ModelError) as excinfo:
        score(str(poisoned), str(write_rows(tmp_path / "rows.jsonl", rows)), out=str(out))
    assert "'bad'" in str(excinfo.value)
    assert "embed_tokens.weight" in str(excinfo.value)
    assert out.read_text() == "from before\n"
    scores = load_scorer(poisoned).score_groups([group("?", ("a", "b"), name="good"), group("?", ("z",), name="bad")])
    assert all(map(math.isfinite, next(scores)))


@pytest.mark.parametrize(
    "call_scorer",
    [
        lambda scorer: scorer.score("?", ["z"]),
        lambda scorer: scorer.prompt("?").score(["a", "z"]),
        lambda scorer: list(scorer.score_groups([group("?", ("z",))], tokens=1)),
    ],
    ids=["score", "prompt", "groups"],
)
def test_every_scoring_method_refuses_them(call_scorer: Callable[[Any], Any], poisoned: Path) -> None:
    """All methods of a scorer raise an error for a score that is not finite."""
    with pytest.raises(ModelError, match="NaN or infinite"):
        call_scorer(load_scorer(poisoned))


def test_nan_statistic_is_not_saved(folder: Path) -> None:
    """The model card is strict JSON without the NaN value, and the model loads."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    card = json.loads((folder / "reward_model.json").read_text(), parse_constant=refuse)
    assert card["scores"] == {"std": 1.0}
    assert load_scorer(folder).scores == {"std": 1.0}


def test_run_files_are_strict_json(tmp_path: Path) -> None:
    """A metric or score that is NaN is written as null and read as NaN."""
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
    (loaded,) = read_scores(tmp_path / "scores.jsonl")
    assert math.isnan(loaded.scores[0])
    assert (loaded.scores[1], loaded.lengths, loaded.preferences) == (1.0, [1, 2], [(0, 1, False)])


def test_json_text_replaces_only_non_finite_numbers() -> None:
    """NaN and infinite numbers become null at any depth; all other values stay unchanged."""
    value = {"a": [1, 2.5, math.inf, {"b": -math.inf}], "c": (math.nan, "NaN", True, None)}
    assert json.loads(json_text(value)) == {"a": [1, 2.5, None, {"b": None}], "c": [None, "NaN", True, None]}
