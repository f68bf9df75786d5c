"""The contract of losses: checks at construction, and losses with trained parameters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from basereward import load_recipe
from basereward.errors import ModelError
from basereward.model.losses.contracts import build_loss, group_weights
from basereward.recipe.trust import trusting
from basereward.runs.run_folder import find
from basereward.training.fit import train
from tests.helpers.support import SMALL


@pytest.fixture(autouse=True)
def trusted() -> Iterator[None]:
    """Allow losses from outside of the package."""
    with trusting(True):
        yield


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("NotALoss", "PreferenceLoss"),
        ("OnePerPair", r"shape \(2,\)"),
        ("ScalarOnly", r"float32 of shape \(\)"),
        ("Infinite", "finite scalar"),
        ("Failing", "not today"),
        ("PairOfValues", r"shape \(2,\), dict\) for 3 pairs"),
        ("Detached", "without gradients"),
        ("Uninitialized", "super"),
    ],
)
def test_invalid_loss_is_refused(loss: str, message: str) -> None:
    """The error says what the loss returned and what is required."""
    with pytest.raises(ModelError, match=f"(?s){loss}.*{message}"):
        build_loss({"_target_": f"tests.helpers.odd_losses.{loss}"})


@pytest.mark.usefixtures("ready_store")
def test_loss_parameters_are_trained_and_saved() -> None:
    """A parameter of the loss moves by its own learning rate and is in the checkpoint beside the model's weights."""
    overrides = [
        *SMALL,
        "loss={_target_: tests.helpers.odd_losses.Tempered}",
        "optimizer.lr_by_part.loss=0.1",
        "schedule={shape: constant, warmup: 0.0}",
        "trainer.steps=1",
        "trainer.validations=1",
    ]
    run_id = train(load_recipe("basereward", overrides=overrides))["run_id"]
    state_dict = torch.load(find(run_id).checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    # The first step of AdamW moves every number by the learning rate.
    assert abs(float(state_dict["objective.loss.log_temperature"])) == pytest.approx(0.1, rel=1e-3)
    assert any(name.startswith("head.") for name in state_dict)


def test_group_weights() -> None:
    """The weights of two groups with three and one terms, one of them not counted, are calculated by hand."""
    counted = torch.tensor([True, True, False, True])
    group = torch.tensor([0, 0, 0, 1])
    weights = group_weights(torch.tensor([1.0, 2.0, 5.0, 1.0]), counted=counted, group=group, num_groups=2)
    assert weights.tolist() == [0.25, 0.5, 0.0, 0.5]
