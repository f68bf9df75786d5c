"""Options of the trainer, each in a run of seconds."""

from __future__ import annotations

import json

import pytest
import torch

from basereward import load, load_recipe
from basereward.data.sources.numbers import Numbers
from basereward.runs.run_folder import find
from basereward.training.fit import train
from tests.helpers.support import SMALL


def test_early_stopping_ends_a_run_that_gains_nothing() -> None:
    """No validation gains 100 %, so after the first and one more the run stops, and tests the best weights so far."""
    options = ["trainer.steps=8", "trainer.validations=4", "trainer.early_stopping={patience: 1, min_delta: 1.0}"]
    run = train(load_recipe("basereward", overrides=[*SMALL, *options]))
    folder = find(run["run_id"])
    assert torch.load(folder.checkpoints / "last.ckpt", weights_only=True)["global_step"] == 4
    assert run["metrics"]["test/numbers/pairs"] > 0


def test_half_precision_trains_and_scores_as_it_was_trained() -> None:
    """With bf16-mixed the scores of the test part are those of the loaded model, and the head is in float32."""
    run = train(load_recipe("basereward", overrides=[*SMALL, "trainer.precision=bf16-mixed"]))
    scorer = load(run["model"])
    assert next(scorer.model.head.parameters()).dtype == torch.float32
    lines = (find(run["run_id"]).scores / "test.jsonl").read_text().splitlines()
    tested = {row["id"]: row["scores"] for row in map(json.loads, lines)}
    groups = list(Numbers("numbers", size=40, val_size=12, test_size=12).groups("test"))
    for group, scores in zip(groups, scorer.score_groups(groups), strict=True):
        assert scores == pytest.approx(tested[group.id], abs=2e-2)  # rows of other lengths round to bfloat16 elsewhere
