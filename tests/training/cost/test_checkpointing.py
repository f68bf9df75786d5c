"""The number of checkpointed layers that a run chooses, compared with hand arithmetic."""

from __future__ import annotations

import logging
import math

import pytest

from basereward import build, load_recipe
from basereward.model.cost.memory import PassTokens
from basereward.model.families.parts import decoder_layers
from basereward.model.reward_model import RewardModel, build_model
from basereward.model.tiny_models.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from basereward.recipe.schema import BackboneRecipe, ModelRecipe, Recipe
from basereward.training.cost.checkpointing import choose_checkpointed_layers
from basereward.training.cost.run_memory import USABLE, run_memory
from tests.helpers.support import SMALL

LAYERS, WIDTH, TOKENS = 6, 64, 1000


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Return a recipe of six layers in float32 that are all trained."""
    folder = tmp_path_factory.mktemp("deep")
    tiny_qwen2_5_vl(folder, hidden_size=WIDTH, layers=LAYERS, vision_layers=2)
    backbone = BackboneRecipe(
        path=str(folder), gradient_checkpointing=True, checkpoint_layers="auto", freeze=["vision", "merger"]
    )
    return Recipe(model=ModelRecipe(backbone=backbone, head={"_target_": "linear"}))


@pytest.fixture(scope="module")
def model(recipe: Recipe) -> RewardModel:
    """Return its model."""
    assert recipe.model.backbone.path is not None
    return build_model(recipe.model, path=recipe.model.backbone.path, seed=0)


@pytest.mark.parametrize("missing", [-1, 1, 500_000, 2_000_000, 3_000_000, 10**9])
def test_number_of_layers_is_that_of_hand_arithmetic(missing: int, recipe: Recipe, model: RewardModel) -> None:
    """With `missing` bytes less than the run needs without checkpointing."""
    largest = PassTokens(tokens=TOKENS, pooled=4)
    config = model.backbone.transformer.config.get_text_config()
    heads, keys = config.num_attention_heads, config.num_key_value_heads
    channels = WIDTH // heads
    # Of a token and a layer, in numbers of four bytes: two norms with their inputs and results; the inputs of the
    # projections, of their output layer, of the feed-forward network and of its last layer; queries, outputs, keys and
    # values; gate, activated gate and product.
    norms, inputs = 2 * 2 * WIDTH, WIDTH + heads * channels + WIDTH + config.intermediate_size
    attention, gated = 2 * heads * channels + 2 * keys * channels, 3 * config.intermediate_size
    stored = 4 * (norms + inputs + attention + gated) * TOKENS
    kept = 4 * WIDTH * TOKENS
    # The first checkpointed layer saves nothing: it stores its input besides, and is computed again as a whole. Each
    # one saves what it stores, less its input.
    needed = 0 if missing <= 0 else math.ceil((stored + missing) / (stored - kept))
    # The last layer is restricted to four tokens and stores less; with it, nothing more is saved in this example.
    expected = min(needed, LAYERS)
    peak = run_memory(recipe, model, largest, checkpointed=0).peak
    choice = choose_checkpointed_layers(recipe, model, largest, available=math.ceil((peak - missing) / USABLE))
    assert choice.layers == expected
    assert choice.of == LAYERS
    assert (choice.peak <= choice.usable) is (missing < 10**9)
    assert (choice.fewer is None) is (expected == 0)


def test_run_says_what_it_chose(caplog: pytest.LogCaptureFixture) -> None:
    """A small model fits as it is: no layer is checkpointed, and one line gives the numbers."""
    overrides = ["model.backbone.gradient_checkpointing=true", "model.backbone.checkpoint_layers=auto"]
    with caplog.at_level(logging.INFO, logger="basereward.training.build"):
        module, _, _ = build(load_recipe("basereward", overrides=[*SMALL, *overrides]))
    layers = decoder_layers(module.model.backbone.transformer)
    assert [layer.gradient_checkpointing for layer in layers] == [False, False]
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("checkpointing")]
    assert line.startswith("checkpointing: the first 0 of 2 layers; by count the peak is ")
