"""Killed and resumed loading: no row twice, none missing."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.data.module import PreferenceData
from basereward.data.sources.jsonl import Jsonl
from basereward.data.streaming.streamed_module import StreamedData
from basereward.model.families.processing import load_encoder
from tests.helpers.support import checkpoint, pair_rows, write_rows

ROWS = 240
KILLS = 20


def load(data: PreferenceData, log: Path, *, seconds: float) -> None:
    """Load the rest of the run, and log each finished forward pass as training logs its checkpoint."""
    done = len(log.read_text().splitlines()) if log.exists() else 0
    with log.open("a") as out:
        for number, batch in enumerate(data.stage_loader(0, done=done), start=done):
            out.write(json.dumps([number, batch.ids]) + "\n")
            out.flush()
            os.fsync(out.fileno())
            time.sleep(seconds)


def load_in_a_fork(data: PreferenceData, log: Path) -> None:
    """Load in a forked process, which has none of its parent's threads and must not wait for them."""
    torch.set_num_threads(1)
    os.setsid()
    load(data, log, seconds=0.01)


@pytest.fixture(scope="module", params=["map-style", "streamed"])
def preference_data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreferenceData:
    """Two epochs of rows with and without images, one image missing. Map-style data have a token budget."""
    folder = tmp_path_factory.mktemp("stopped")
    rows = [*pair_rows(ROWS // 2, folder=folder), *pair_rows(ROWS // 2, seed=1)]
    for index, row in enumerate(rows):
        row["id"] = f"row-{index}"
    rows.insert(7, rows[3] | {"id": "gone", "images": ["gone.png"]})
    source = Jsonl("rows", path=str(write_rows(folder / "rows.jsonl", rows)), val=0, test=0)
    encoder = load_encoder(checkpoint("qwen2_5_vl", folder / "model"))
    settings: dict[str, Any] = {"encoder": encoder, "rejections_file": folder / "lost", "max_lost": 0.1, "groups": 8}
    data: PreferenceData
    if request.param == "streamed":
        steps = 2 * (ROWS + 1) // 2
        settings |= {"groups": 2, "groups_per_forward": 2}
        data = StreamedData({"rows": source}, **settings, steps=steps, buffer=50)
    else:
        data = PreferenceData({"rows": source}, **settings, budget=400, epochs=2)
    data.setup()
    return data


def test_resumed_loading_equals_uninterrupted_loading(preference_data: PreferenceData, tmp_path: Path) -> None:
    """Loading is killed at 20 random moments, each time with another number of workers. The forward passes equal those
    of an uninterrupted run, and every row occurs once per epoch."""
    assert preference_data.plan is not None
    uninterrupted_log, log = tmp_path / "whole.jsonl", tmp_path / "log.jsonl"
    preference_data.workers = 0
    load(preference_data, uninterrupted_log, seconds=0)
    rng = random.Random(0)
    fork = multiprocessing.get_context("fork")
    kills = 0
    while kills < KILLS:
        preference_data.workers = rng.choice([0, 1, 2, 3])
        process = fork.Process(target=load_in_a_fork, args=(preference_data, log))
        process.start()
        before = log.stat().st_size if log.exists() else 0
        deadline = time.monotonic() + 60
        while process.is_alive() and (not log.exists() or log.stat().st_size == before):
            if time.monotonic() > deadline:
                process.kill()
                pytest.fail("nothing was loaded within a minute")
            time.sleep(0.002)
        time.sleep(rng.random() * 0.03)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):  # loaders that wait for a lock which the killed one held
            os.killpg(process.pid, signal.SIGKILL)
        kills += 1
    preference_data.workers = 2
    load(preference_data, log, seconds=0)
    assert kills == KILLS, "the run was over before it was killed so often"
    assert log.read_text() == uninterrupted_log.read_text()
    row_counts = Counter(row for line in log.read_text().splitlines() for row in json.loads(line)[1])
    assert len(row_counts) == ROWS
    assert set(row_counts.values()) == {2}
    assert "gone" not in row_counts
