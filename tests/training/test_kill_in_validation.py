"""Test that a run killed with SIGKILL in or around a validation and resumed equals an uninterrupted run."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from basereward.runs.run_folder import RunFolder, list_runs
from basereward.training.recording.best_weights import BEST, read_best_scores, read_card
from tests.helpers.killed_process import Moment, train_in_process

pytestmark = pytest.mark.slow

PROFILE = "tests/small.yaml"
TIMED = ("time/", "perf/", "mem/")  # metrics that differ between two runs of one recipe
CHECKPOINTS = "basereward.training.callbacks.checkpoints:"
VALIDATION_STEP = "basereward.training.module:RewardModule.validation_step"  # a validation has 3 batches of 4 groups
IN_FIRST, IN_SECOND = Moment(VALIDATION_STEP, 2), Moment(VALIDATION_STEP, 5)
RECORDED = Moment(CHECKPOINTS + "Checkpoints.on_validation_end")  # the metrics are in the journal
WEIGHTS_WRITTEN = Moment(CHECKPOINTS + "write_state")  # best.safetensors exists, scores/val.jsonl does not
BEST_WRITTEN = Moment(CHECKPOINTS + "Checkpoints.on_train_epoch_end")  # everything exists except the checkpoint
TRAINED = Moment("basereward.training.callbacks.recorder:Recorder.on_fit_end")

EVERY = "trainer.checkpoint_every=3"  # the last step of both stages
ONE = "trainer.validations=1"
STOPS = ("trainer.validations=6", "trainer.early_stopping={patience: 1, min_delta: 1.0}")  # after two validations
CASES = {  # overrides, and the moments at which the run and its resumptions are killed
    "two": ([EVERY], [IN_FIRST, RECORDED, WEIGHTS_WRITTEN, BEST_WRITTEN, IN_SECOND]),
    "single": ([ONE, EVERY], [IN_FIRST]),
    "stage-checkpoints-only": ([], [IN_FIRST, IN_SECOND]),
    "early-stopping": ([*STOPS, "trainer.checkpoint_every=1"], [IN_SECOND, TRAINED]),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the outcomes of uninterrupted runs by their overrides."""
    return {}


@pytest.fixture
def shared_folders(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Share the lengths of the groups and a tracking store."""
    folder = tmp_path_factory.getbasetemp() / "killed-in-validation"
    if not folder.exists():
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.setenv("BASEREWARD_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")


@pytest.mark.usefixtures("shared_folders")
@pytest.mark.parametrize("case", CASES)
def test_run_killed_in_validation_and_resumed_equals_uninterrupted_run(
    case: str, whole: dict[tuple[str, ...], dict[str, Any]]
) -> None:
    """The best checkpoint, the saved model, the scores, the result and every metric are equal, and each metric is
    recorded once a step."""
    overrides, moments = CASES[case]
    run_id = None
    for moment in moments:
        exit_code = train_in_process("basereward", overrides, profile=PROFILE, resume=run_id, kill=moment)
        assert exit_code == -moment.signal
        (run,) = list_runs()
        assert run.state == "killed"
        run_id = run.run_id
        if moment is TRAINED:
            # As when the process was killed before it wrote this file: no validation follows that would write it.
            (run.scores / "val.jsonl").unlink()
    assert train_in_process("basereward", overrides, profile=PROFILE, resume=run_id) == 0
    resumed = outcome(run)

    # Checkpoints change no result, so runs that differ only in their checkpoints are compared with one run.
    key = tuple(override for override in overrides if "checkpoint_every" not in override)
    if key not in whole:
        run = uninterrupted(key)
        whole[key] = outcome(run)
    assert resumed.keys() == whole[key].keys()
    for name, value in whole[key].items():
        assert resumed[name] == value, name


def uninterrupted(overrides: tuple[str, ...]) -> RunFolder:
    """Train a run without a stop."""
    before = {run.run_id for run in list_runs()}
    assert train_in_process("basereward", overrides, profile=PROFILE) == 0
    (run,) = (run for run in list_runs() if run.run_id not in before)
    return run


def outcome(run: RunFolder) -> dict[str, Any]:
    """Return everything that two runs of one recipe have in common."""
    weights = [run.checkpoints / "best.safetensors", *sorted(run.model.rglob("*.safetensors"))]
    records = [json.loads(line) for line in run.journal.file.read_text().splitlines()]
    points = [
        (name, record["step"], value)
        for record in records
        if record["kind"] == "metrics"
        for name, value in record["values"].items()
    ]
    assert max(Counter(point[:2] for point in points).values()) == 1
    best = read_card(run.checkpoints / BEST)
    assert best is not None
    assert (run.scores / "val.jsonl").read_text() == read_best_scores(run.checkpoints / BEST)
    result = run.result()
    assert result is not None
    return {
        "best": (best["step"], comparable(best["metrics"]), best["scores"]),
        "weights": {str(file.relative_to(run.path)): bits(file) for file in weights},
        "scores": [(run.scores / f"{split}.jsonl").read_text() for split in ("val", "test")],
        "metrics": comparable(result["metrics"]),
        "journal": sorted(point for point in points if not point[0].startswith(TIMED)),
        "timed": sorted(point[:2] for point in points if point[0].startswith(TIMED)),
    }


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics without times."""
    return {name: value for name, value in metrics.items() if not name.startswith(TIMED)}


def bits(file: Path) -> dict[str, tuple[str, bytes]]:
    """Return the weights of a file, bit for bit."""
    return {
        name: (str(weight.dtype), weight.view(torch.uint8).numpy().tobytes())
        for name, weight in load_file(file).items()
    }
