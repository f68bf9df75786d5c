"""A run that saves merged weights holds one model at a time."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward import load_recipe
from basereward.inference.scorer import Scorer, load_scorer
from basereward.runs.run_folder import find
from basereward.training import fit
from basereward.training.module import RewardModule
from tests.helpers.support import SMALL


def held_bytes() -> int:
    """Return the bytes of the weights of all modules that are trained or were trained in this process."""
    modules = [thing for thing in gc.get_objects() if isinstance(thing, RewardModule)]
    return sum(p.untyped_storage().nbytes() for module in modules for p in module.parameters())


@pytest.mark.usefixtures("ready_store")
def test_weights_are_released_before_the_saved_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the model is loaded for merging, the trained module holds no bytes; the merged model is saved and scores."""
    gc.collect()
    before, held = held_bytes(), []

    def load(folder: Path, **options: Any) -> Scorer:
        held.append(held_bytes() - before)
        return load_scorer(folder, **options)

    monkeypatch.setattr(fit, "load_scorer", load)
    overrides = [*SMALL, "model.lora.rank=4", "model.lora.merge=true", "trainer.steps=2"]
    result = fit.train(load_recipe("basereward", overrides=overrides))
    assert held == [0]
    model = find(result["run_id"]).model
    assert not (model / "adapter").exists()
    (score,) = load_scorer(model).score("Which is larger, 4 or 7?", ["7"])
    assert torch.isfinite(torch.tensor(score))
