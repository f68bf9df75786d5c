"""Train on several processes as torchrun starts them, and read what their run has left.

The processes are forked from a server that has only imported the libraries, as in `killed_process`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basereward.runs.run_folder import RunFolder, list_runs
from basereward.training.recording.best_weights import BEST, read_weights
from tests.helpers.forked_program import begin_forked, fork_context
from tests.helpers.killed_process import Moment, kill_at

TIMED = ("time/", "perf/", "mem/", "system/")  # metrics that differ between two runs of one recipe
# Two ranks have three micro-batches of two groups each, with pictures, text alone, or both; and four and three passes
# over the validation groups. With this epsilon a gradient that is only rounding does not decide about the direction of
# a step.
MIXED = (
    "data.sources.numbers.include=sources/numbers",
    *("data.sources.digits.size=24", "data.sources.digits.copies=1"),
    *("data.sources.digits.val_size=6", "data.sources.digits.test_size=5"),
    *("data.sources.numbers.size=40", "data.sources.numbers.val_size=7", "data.sources.numbers.test_size=4"),
    *("model.backbone.make.hidden_size=64", "model.backbone.make.layers=2", "model.backbone.make.vision_layers=1"),
    *("batch.groups=12", "batch.groups_per_forward=2", "optimizer.eps=1e-3"),
    *("trainer.steps=14", "trainer.validations=2", "trainer.log_every=1"),
)


def free_port() -> int:
    """Return a port that no program uses now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def torchrun_variables(number: int, ranks: int, *, port: int, nodes: int = 1) -> dict[str, str]:
    """Return the variables that torchrun sets for one of its processes."""
    local = ranks // nodes
    numbers = {"RANK": number, "WORLD_SIZE": ranks, "LOCAL_RANK": number % local, "LOCAL_WORLD_SIZE": local}
    numbers |= {"GROUP_RANK": number // local, "GROUP_WORLD_SIZE": nodes, "MASTER_PORT": port}
    names = {name: str(value) for name, value in numbers.items()}
    return names | {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "none"}


def slurm_variables(number: int, ranks: int, *, port: int) -> dict[str, str]:
    """Return the variables that SLURM sets for a task of `srun` on one machine."""
    numbers = {"SLURM_PROCID": number, "SLURM_LOCALID": number, "SLURM_NTASKS": ranks, "SLURM_NNODES": 1}
    numbers |= {"SLURM_NTASKS_PER_NODE": ranks, "SLURM_NODEID": 0, "SLURM_STEP_ID": 0, "SLURM_JOB_ID": 1}
    names = {name: str(value) for name, value in numbers.items()}
    return names | {"SLURM_NODELIST": "localhost", "MASTER_PORT": str(port), "SLURM_JOB_NAME": "train"}


def start_ranks(
    overrides: Sequence[str],
    ranks: int,
    *,
    resume: str | None = None,
    kills: Mapping[int, Moment] | None = None,
    variables: Any = torchrun_variables,
    folder: Path | None = None,
    nan: Mapping[int, int] | None = None,
) -> list[Any]:
    """Start the processes of a run of the tiny profile.

    Args:
        overrides: of the recipe.
        ranks: number of processes; 1: one without the variables of a launcher.
        resume: id of a run.
        kills: the moments at which processes kill themselves, by their number.
        variables: gives those of a process.
        folder: of runs, cache, tracking, and the standard error of each process; None: those of the test.
        nan: the micro-batch, counted from 1, whose loss is NaN, by the number of the process.
    """
    context = fork_context()
    port = free_port()
    processes = []
    for number in range(ranks):
        own = variables(number, ranks, port=port) if ranks > 1 else {}
        environment = dict(os.environ) | _folders(folder) | own
        faults = (kills or {}).get(number), (nan or {}).get(number)
        file = None if folder is None else folder / f"{number}.txt"
        process = context.Process(
            target=_train, args=(environment, os.getcwd(), list(overrides), resume, *faults, file)
        )
        process.start()
        processes.append(process)
    return processes


def train_ranks(overrides: Sequence[str], ranks: int, *, timeout_s: float = 600, **options: Any) -> list[int]:
    """Train and return the exit codes of the processes; a process that hangs is killed and has -9."""
    processes = start_ranks(overrides, ranks, **options)
    for process in processes:
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _folders(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    folder.mkdir(exist_ok=True)
    # Siblings share the lengths of the groups, and the tracking store, whose tables take seconds to create.
    cache, database = folder.parent / "cache", folder.parent / "mlflow.db"
    return {
        "BASEREWARD_RUNS": str(folder / "runs"),
        "BASEREWARD_CACHE": str(cache),
        "MLFLOW_TRACKING_URI": f"sqlite:///{database}",
    }


def only_run(folder: Path) -> RunFolder:
    """Return the one run of a folder."""
    (run,) = list_runs(root=folder / "runs")
    return run


def _spoil(micro_batch: int) -> None:
    """Make the loss of a micro-batch of this process NaN."""
    from basereward.training.objectives.ranking import Ranking

    original, calls = Ranking.forward, 0

    def spoiled(self: Any, model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        loss, parts = original(self, model, batch)
        return (loss * float("nan") if calls == micro_batch else loss), parts

    Ranking.forward = spoiled  # type: ignore[method-assign]


def _train(
    environment: dict[str, str],
    folder: str,
    overrides: list[str],
    resume: str | None,
    kill: Moment | None,
    nan: int | None,
    errors: Path | None,
) -> None:
    begin_forked(environment, folder)
    if errors is not None:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    from basereward.recipe import load_recipe
    from basereward.training.fit import train

    torch.set_num_threads(1)
    if kill is not None:
        kill_at(kill)
    if nan is not None:
        _spoil(nan)
    result = train(load_recipe("basereward", profile="tiny", overrides=overrides), resume=resume)
    sys.stderr.write(json.dumps(result) + "\n")


def curves(run: RunFolder) -> dict[str, dict[int, float]]:
    """Return the recorded values by metric and step, without times."""
    found: dict[str, dict[int, float]] = {}
    for record, _ in run.journal.read(0):
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                if not name.startswith(TIMED):
                    assert record["step"] not in found.setdefault(name, {}), (name, record["step"])
                    found[name][record["step"]] = value
    return found


def best_weights(run: RunFolder) -> dict[str, Tensor]:
    """Return the trained weights of the best validation."""
    return read_weights(run.checkpoints / BEST)


def scores(run: RunFolder, split: str) -> list[dict[str, Any]]:
    """Return the lines of a file of scores."""
    return [json.loads(line) for line in (run.scores / f"{split}.jsonl").read_text().splitlines()]
