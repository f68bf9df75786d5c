"""Real runs on a stream: their held-out rows, their lost rows, and their way on after SIGKILL."""

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
    """60 rows with pictures, three of which cannot be used; six steps of eight go through most of them."""
    rows: list[Any] = pair_rows(60, folder=tmp_path)
    rows[1]["chosen"][0]["content"] = " "
    rows[2] = "not JSON"
    (tmp_path / "3.png").unlink()
    return [*only(write_rows(tmp_path / "pairs.jsonl", rows)), *STREAMED]


def killed_run(overrides: list[str], *, at_step: int) -> str:
    """Starts a run in a process of its own and kills it once it has written the checkpoint of a step."""
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


def test_stopped_in_a_stage_and_resumed_equals_never_stopped(overrides: list[str]) -> None:
    """Killed after the second of three steps of its first stage: the same metrics, the same bits of the weights, and
    every lost row once, in the result, in the folder and in the record."""
    whole = train(load_recipe("basereward", overrides=overrides))
    assert whole["skipped"] == {"mine": LOST}
    assert whole["metrics"]["test/mine/pairs"] > 0
    run_id = killed_run(overrides, at_step=2)
    resumed = train(load_recipe("basereward", overrides=overrides), resume=run_id)
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["skipped"] == {"mine": LOST}
    listed = [json.loads(line)["reason"] for line in find(run_id).rejections.read_text().splitlines()]
    assert sorted(listed) == sorted(LOST)
    weights = [load_file(find(run).model / "head.safetensors") for run in (run_id, whole["run_id"])]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])

    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    for run in (run_id, whole["run_id"]):
        metrics = client.get_run(find(run).mlflow_run_id or "").data.metrics
        assert {name: metrics[f"data/skipped/{name}"] for name in LOST} == LOST


def test_a_stream_without_held_out_rows_trains_to_its_end(overrides: list[str]) -> None:
    """Nothing is validated, and the last weights are saved."""
    none = ("data.sources.mine.val=0", "data.sources.mine.test=0", "trainer.steps=2", "trainer.validations=1")
    run = train(load_recipe("basereward", overrides=[*overrides, *none]))
    assert (find(run["run_id"]).model / "head.safetensors").exists()
    assert not any(name.endswith("pair_accuracy") for name in run["metrics"])


def test_a_killed_loading_process_ends_the_run_with_what_to_do(
    overrides: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """As the system kills one for want of memory: exit code 2, no traceback, and nothing about disks."""
    killer = threading.Thread(target=_kill_first_loader, args=(multiprocessing.active_children(),), daemon=True)
    killer.start()
    assert main(["train", "basereward", *overrides, "data.workers=1", "trainer.steps=40"]) == 2
    killer.join()
    printed = capfd.readouterr().err
    assert "data.workers=0" in printed
    assert "Traceback" not in printed
    assert "Make room" not in printed


def _kill_first_loader(others: list[Any]) -> None:
    """Kills the first process that loads data, once the loader has registered it: torch does not notice one that dies
    before that until the loader's timeout."""
    while True:
        for child in multiprocessing.active_children():
            if child not in others:
                time.sleep(0.5)
                child.kill()
                return
        time.sleep(0.001)
