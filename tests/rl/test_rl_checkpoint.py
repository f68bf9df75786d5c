"""The best weights and their card in one file, and last checkpoints that lack a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from basereward.errors import DamagedCheckpointError
from basereward.rl.running.checkpoint import (
    NEEDED,
    WEIGHTS,
    LastCheckpoint,
    read_last,
    restore_best,
    trained_weights,
    write_best,
    write_last,
)
from basereward.runs.run_folder import RunFolder
from basereward.training.recording.best_weights import BEST, restore_scores


def linear(value: float) -> nn.Linear:
    """Return a layer whose parameters have one value."""
    layer = nn.Linear(2, 1)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def test_best_weights_and_their_step_are_one_file(tmp_path: Path) -> None:
    """Each validation replaces one file, so that no kill can leave the weights of one with the step or the scores of
    another. The file of the scores is written again from it."""
    run = RunFolder(tmp_path)
    model = linear(0.0)
    assert restore_best(run, model) is None
    for step in (2, 4):
        metrics = {"val/a": step / 8, "val/b": float("nan")}
        scores = f"{step} \N{BULLET}\n"
        write_best(run, trained_weights(linear(step)), step=step, metrics=metrics, scores=scores)
        assert [path.name for path in run.checkpoints.iterdir()] == [BEST]
        assert restore_best(run, model) == {"step": step, "metrics": {"val/a": step / 8}}
        assert model.weight.tolist() == [[step, step]]
        restore_scores(run.checkpoints / BEST, tmp_path / "val.jsonl")
        assert (tmp_path / "val.jsonl").read_text() == scores


def test_best_weights_without_their_step_are_refused(tmp_path: Path) -> None:
    """Weights that do not name their step may be those of any validation."""
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    save_file(dict(linear(1.0).state_dict()), run.checkpoints / BEST)
    with pytest.raises(DamagedCheckpointError):
        restore_best(run, linear(0.0))


@pytest.mark.parametrize("missing", NEEDED)
def test_checkpoint_without_a_file_is_refused(missing: str, tmp_path: Path) -> None:
    """Without the state of the optimizer, the schedule or the weights, training would go on from other ones."""
    run = RunFolder(tmp_path)
    folder = run.checkpoints / "checkpoint-2"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    save_file(dict(linear(1.0).state_dict()), folder / WEIGHTS)
    for name in NEEDED[1:]:
        torch.save({}, folder / name)
    write_last(run, LastCheckpoint("checkpoint-2", step=2))
    assert read_last(run) == LastCheckpoint("checkpoint-2", step=2)
    (folder / missing).unlink()
    with pytest.raises(DamagedCheckpointError, match=missing):
        read_last(run)
