"""Loading that is killed and goes on: no row twice, none missed."""

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
    """Goes through what is left of the run and writes down every pass when it is done, as a training would its
    checkpoint."""
    done = len(log.read_text().splitlines()) if log.exists() else 0
    with log.open("a") as out:
        for number, batch in enumerate(data.stage_loader(0, done=done), start=done):
            out.write(json.dumps([number, batch.ids]) + "\n")
            out.flush()
            os.fsync(out.fileno())
            time.sleep(seconds)


def load_in_a_fork(data: PreferenceData, log: Path) -> None:
    """The same in a forked process, which has none of its parent's threads and must not wait for them."""
    torch.set_num_threads(1)
    os.setsid()
    load(data, log, seconds=0.01)


@pytest.fixture(scope="module", params=["map-style", "streamed"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreferenceData:
    """Two rounds through rows with and without pictures; of one the image is missing. Map-style they fill a budget."""
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


def test_killed_at_twenty_places_with_other_workers_each_time(made: PreferenceData, tmp_path: Path) -> None:
    """SIGKILL at random moments, and another number of workers after each: the passes are those of a run that was never
    stopped, and every row comes once an epoch."""
    assert made.plan is not None
    whole, log = tmp_path / "whole.jsonl", tmp_path / "log.jsonl"
    made.workers = 0
    load(made, whole, seconds=0)
    rng = random.Random(0)
    fork = multiprocessing.get_context("fork")
    kills = 0
    while kills < KILLS:
        made.workers = rng.choice([0, 1, 2, 3])
        process = fork.Process(target=load_in_a_fork, args=(made, log))
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
    made.workers = 2
    load(made, log, seconds=0)
    assert kills == KILLS, "the run was over before it was killed so often"
    assert log.read_text() == whole.read_text()
    seen = Counter(row for line in log.read_text().splitlines() for row in json.loads(line)[1])
    assert len(seen) == ROWS
    assert set(seen.values()) == {2}
    assert "gone" not in seen
