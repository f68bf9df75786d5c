"""Test options of the trainer in short runs."""

from __future__ import annotations

import json

import pytest
import torch

from basereward import load, load_recipe
from basereward.data.sources.numbers import Numbers
from basereward.runs.run_folder import find
from basereward.training.fit import train
from tests.helpers.support import SMALL


@pytest.mark.usefixtures("ready_store")
def test_early_stopping_ends_a_run_without_improvement() -> None:
    """No validation gains 100 %, so the run stops after the second validation and tests its best weights."""
    options = ["trainer.steps=8", "trainer.validations=4", "trainer.early_stopping={patience: 1, min_delta: 1.0}"]
    run = train(load_recipe("basereward", overrides=[*SMALL, *options]))
    folder = find(run["run_id"])
    assert torch.load(folder.checkpoints / "last.ckpt", weights_only=True)["global_step"] == 4
    assert run["metrics"]["test/numbers/pairs"] > 0


@pytest.mark.usefixtures("ready_store")
def test_mixed_precision_run_scores_as_in_its_test() -> None:
    """With bf16-mixed the loaded model has the run's test scores, and the head is in float32."""
    run = train(load_recipe("basereward", overrides=[*SMALL, "trainer.precision=bf16-mixed"]))
    scorer = load(run["model"])
    assert next(scorer.model.head.parameters()).dtype == torch.float32
    lines = (find(run["run_id"]).scores / "test.jsonl").read_text().splitlines()
    tested = {row["id"]: row["scores"] for row in map(json.loads, lines)}
    groups = list(Numbers("numbers", size=40, val_size=12, test_size=12).groups("test"))
    for group, scores in zip(groups, scorer.score_groups(groups), strict=True):
        assert scores == pytest.approx(tested[group.id], abs=2e-2)  # other row lengths round differently in bfloat16
