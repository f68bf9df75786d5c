"""Rotary scalings for which transformers uses the longest sequence of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from basereward.data.schema.group import Group, Part, Turn
from basereward.errors import DataError
from basereward.inference.scorer import Scorer
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.model.tiny_models._byte_level import byte_level_tokenizer
from basereward.model.tiny_models._checkpoint import TinySizes, text_settings, write_checkpoint
from basereward.recipe.schema import BackboneRecipe, DataRecipe, ModelRecipe, Recipe

FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 4.0}
SCALED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "dynamic": (LlamaForCausalLM, LlamaConfig, {"max_position_embeddings": 128, "rope": {"factor": 2.0}}),
    "longrope": (
        Phi3ForCausalLM,
        Phi3Config,
        {
            "max_position_embeddings": 512,
            "original_max_position_embeddings": 128,
            "rope": {**FACTORS, "original_max_position_embeddings": 128},
        },
    ),
}


def build_scorer(rope_type: str, folder: Path) -> Scorer:
    """Return a scorer of a small model with this rotary scaling, which begins beyond 128 tokens."""
    model, config, settings = SCALED[rope_type]
    tokenizer = byte_level_tokenizer()
    size: dict[str, Any] = text_settings(TinySizes(64, 2), tokenizer) | {"intermediate_size": 128} | settings
    size["rope_parameters"] = {"rope_type": rope_type, "rope_theta": 10_000.0, **size.pop("rope")}
    write_checkpoint(folder, lambda: model(config(**size)), tokenizer=tokenizer, seed=0)
    recipe = Recipe(
        model=ModelRecipe(backbone=BackboneRecipe(path=str(folder)), head={"_target_": "linear"}),
        data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
    )
    reward_model = build_model(recipe.model, path=str(folder), seed=0).eval()
    return Scorer(reward_model, encoder=load_encoder(folder), recipe=recipe)


@pytest.mark.parametrize("rope_type", SCALED)
def test_long_row_does_not_change_other_scores(rope_type: str, tmp_path: Path) -> None:
    """Up to the limit a response has the same score alone and with others.

    A longer response is refused, and the error says why.
    """
    scorer = build_scorer(rope_type, tmp_path / "base")
    alone = scorer.score("Is 3 even?", ["no"])[0]
    num_free = 128 - scorer.encode(_group("")).longest
    longest = "9" * num_free
    together = scorer.score("Is 3 even?", ["no", longest])
    assert together[0] == pytest.approx(alone, abs=1e-5)
    with pytest.raises(DataError, match=r"129 tokens; beyond 128 .*rotary positions"):
        scorer.score("Is 3 even?", ["no", longest + "9"])
    with pytest.raises(DataError, match="beyond 128"):
        scorer.prompt("Is 3 even?").score(["no", longest + "9"])
    assert scorer.score("Is 3 even?", ["no"])[0] == pytest.approx(alone, abs=1e-6)


def _group(answer: str) -> Group:
    """Return a group with one question and one response."""
    turn = Turn("user", (Part("Is 3 even?"),))
    return Group(id="g", source="s", prompt=(turn,), responses=(answer,), preferences=())
