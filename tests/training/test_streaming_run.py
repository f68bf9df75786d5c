"""Test real runs on a stream: held-out rows, lost rows, and resuming after SIGKILL."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from basereward.cli import main
from basereward.recipe import load_recipe
from basereward.runs.run_folder import find
from basereward.training.fit import train
from tests.helpers.support import only, pair_rows, write_rows

STREAMED = ("data.streaming={buffer: 20, held_out: 8}", "data.max_lost=0.2", "trainer.checkpoint_every=1")
LOST = {"empty_response": 1, "image_missing": 1, "malformed_json": 1}


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """Write 60 rows with pictures, three of which are unusable; six steps of eight groups read most of them."""
    rows: list[Any] = pair_rows(60, folder=tmp_path)
    rows[1]["chosen"][0]["content"] = " "
    rows[2] = "not JSON"
    (tmp_path / "3.png").unlink()
    return [*only(write_rows(tmp_path / "pairs.jsonl", rows)), *STREAMED]


def killed_run(overrides: list[str], *, at_step: int) -> str:
    """Start a run in a process of its own and kill it after it has written the checkpoint of a step."""
    command = [sys.executable, "-m", "basereward", "train", "basereward", *overrides]
    before = set(Path(os.environ["BASEREWARD_RUNS"]).iterdir())
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for run in set(Path(os.environ["BASEREWARD_RUNS"]).iterdir()) - before:
            last = run / "checkpoints" / "last.ckpt"
            if last.exists() and torch.load(last, weights_only=True)["global_step"] >= at_step:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return run.name
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"the run ended before step {at_step}")


@pytest.mark.usefixtures("ready_store")
def test_streaming_run_killed_in_a_stage_and_resumed_equals_uninterrupted_run(overrides: list[str]) -> None:
    """The run is killed after the second of three steps of its first stage. Metrics and weights are equal, and every
    lost row is counted once in the result, the folder and MLflow."""
    uninterrupted = train(load_recipe("basereward", overrides=overrides))
    assert uninterrupted["skipped"] == {"mine": LOST}
    assert uninterrupted["metrics"]["test/mine/pairs"] > 0
    run_id = killed_run(overrides, at_step=2)
    resumed = train(load_recipe("basereward", overrides=overrides), resume=run_id)
    assert resumed["metrics"] == uninterrupted["metrics"]
    assert resumed["skipped"] == {"mine": LOST}
    reasons = [json.loads(line)["reason"] for line in find(run_id).rejections.read_text().splitlines()]
    assert sorted(reasons) == sorted(LOST)
    weights = [load_file(find(run).model / "head.safetensors") for run in (run_id, uninterrupted["run_id"])]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])

    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    for run in (run_id, uninterrupted["run_id"]):
        metrics = client.get_run(find(run).mlflow_run_id or "").data.metrics
        assert {name: metrics[f"data/skipped/{name}"] for name in LOST} == LOST


@pytest.mark.usefixtures("ready_store")
def test_stream_without_held_out_rows_finishes(overrides: list[str]) -> None:
    """There is no validation, and the last weights are saved."""
    changes = ("data.sources.mine.val=0", "data.sources.mine.test=0", "trainer.steps=2", "trainer.validations=1")
    run = train(load_recipe("basereward", overrides=[*overrides, *changes]))
    assert (find(run["run_id"]).model / "head.safetensors").exists()
    assert not any(name.endswith("pair_accuracy") for name in run["metrics"])


@pytest.mark.usefixtures("ready_store")
def test_killed_data_worker_ends_the_run_with_advice(overrides: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """The system kills a worker when memory runs out: exit code 2, no traceback, and no advice about disks."""
    killer = threading.Thread(target=_kill_first_loader, args=(multiprocessing.active_children(),), daemon=True)
    killer.start()
    assert main(["train", "basereward", *overrides, "data.workers=1", "trainer.steps=40"]) == 2
    killer.join()
    printed = capfd.readouterr().err
    assert "data.workers=0" in printed
    assert "Traceback" not in printed
    assert "Make room" not in printed


def _kill_first_loader(earlier_children: list[Any]) -> None:
    """Kill the first data worker after the loader has registered it; torch notices an earlier death only after the
    loader's timeout."""
    while True:
        for child in multiprocessing.active_children():
            if child not in earlier_children:
                time.sleep(0.5)
                child.kill()
                return
        time.sleep(0.001)
