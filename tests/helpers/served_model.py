"""A saved model with random weights, for tests of the server and of reward functions."""

from __future__ import annotations

from pathlib import Path

from basereward.inference.scorer import Scorer
from basereward.model.families.processing import recipe_encoder
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, ModelRecipe, Recipe
from tests.helpers.support import checkpoint


def save_scored_model(folder: Path, *, head: str) -> Path:
    """Save a small Qwen2.5-VL whose scores on validation data have mean 0.5 and deviation 2, and return its folder."""
    path = checkpoint("qwen2_5_vl", folder / "backbone")
    recipe = Recipe(
        model=ModelRecipe(backbone=BackboneRecipe(path=str(path)), head={"_target_": head}),
        data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
    )
    encoder = recipe_encoder(recipe, path=str(path))
    model = build_model(recipe.model, path=str(path), seed=0, encoder=encoder).eval()
    Scorer(model, encoder=encoder, recipe=recipe, scores={"mean": 0.5, "std": 2.0}).save(folder / "model")
    return folder / "model"
