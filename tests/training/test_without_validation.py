"""Test a run without validation rows."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from basereward import load_recipe
from basereward.runs.run_folder import find
from basereward.training.fit import train
from tests.helpers.support import SMALL


@pytest.mark.usefixtures("ready_store")
def test_run_without_validation_rows_saves_its_last_weights() -> None:
    """Without a validation there is no best checkpoint, so the saved head is that of the last step."""
    overrides = ["data.sources.digits.val_size=0", "data.sources.numbers.val_size=0"]
    run = train(load_recipe("basereward", overrides=[*SMALL, *overrides]))
    assert run["metrics"]["test/digits/pairs"] > 0
    folder = find(run["run_id"])
    last = torch.load(folder.checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    saved = load_file(folder.model / "head.safetensors")
    assert saved
    for name, weight in saved.items():
        assert torch.equal(weight, last[f"head.{name}"])
