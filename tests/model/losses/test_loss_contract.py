"""A loss is checked where it is built, and may have parameters that are trained."""

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
    """Losses from outside of the package run with the caller's word."""
    with trusting(True):
        yield


@pytest.mark.parametrize(
    ("loss", "gives"),
    [
        ("NotALoss", "PreferenceLoss"),
        ("OnePerPair", r"shape \(2,\)"),
        ("ScalarOnly", r"tensor of shape \(\)"),
        ("Infinite", "finite scalar"),
        ("Failing", "not today"),
    ],
)
def test_a_loss_that_does_not_meet_the_contract_is_refused(loss: str, gives: str) -> None:
    """The error says what it gave and what is needed."""
    with pytest.raises(ModelError, match=f"(?s){loss}.*{gives}"):
        build_loss({"_target_": f"tests.helpers.odd_losses.{loss}"})


def test_a_loss_learns_and_resumes() -> None:
    """Its parameter moves with a learning rate of its own, and is in the checkpoint beside the model's weights."""
    overrides = [
        *SMALL,
        "loss={_target_: tests.helpers.odd_losses.Tempered}",
        "optimizer.lr_by_part.loss=0.1",
        "schedule={shape: constant, warmup: 0.0}",
        "trainer.steps=1",
        "trainer.validations=1",
    ]
    run_id = train(load_recipe("basereward", overrides=overrides))["run_id"]
    state = torch.load(find(run_id).checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    # The first step of AdamW moves every number by the learning rate.
    assert abs(float(state["objective.loss.log_temperature"])) == pytest.approx(0.1, rel=1e-3)
    assert any(name.startswith("head.") for name in state)


def test_group_weights_are_means_of_means() -> None:
    """Two groups with three terms and one, of which one of the first does not count: by hand."""
    counted = torch.tensor([True, True, False, True])
    group = torch.tensor([0, 0, 0, 1])
    weights = group_weights(torch.tensor([1.0, 2.0, 5.0, 1.0]), counted=counted, group=group, num_groups=2)
    assert weights.tolist() == [0.25, 0.5, 0.0, 0.5]
