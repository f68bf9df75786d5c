"""Work on rows in shards by actors of a Ray cluster: one output file a shard, resumable, read in the order of the rows.

Ray Data runs the shards with `map_batches`, and starts an actor again when its process or its machine ends. Rows do not
travel: an actor gets the numbers of its rows, reads them from the shared folder, and writes a file there, which takes
its name when it is complete. A file is named by a hash of its rows and of all that its content depends on. So a file of
a stopped call is used again, and that of another input or another model never is.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

from basereward import errors
from basereward.cluster.options import ClusterOptions
from basereward.cluster.ray_cluster import RayCluster, connect
from basereward.cluster.shared_place import Sentinel
from basereward.errors import BaseRewardError, ClusterError, DataError, format_count
from basereward.io.files import atomic_path, json_text, write_atomic
from basereward.io.lease import Lease, acquire
from basereward.io.progress import begin

ATTEMPTS = 3
"""How often a shard is begun before its rows are held to be what ends the process, for example by its memory."""
SHARDS_PER_WORKER = 4
"""So that workers end at about the same time, and a killed one loses a part of its work only."""
ROWS_OF_SHARD = 50_000
"""The most rows of a shard when the number of shards is not given: what a worker counts of a shard is in its memory."""
FEW_ROWS = 2000
"""With fewer rows, starting the processes of workers takes longer than work that needs no model."""
FACTS, BEGUN = ".facts", ".begun"
LOCK = ".lock"
STOP = "stop"
"""A file that tells the other workers that a shard has failed."""


class ShardWorker(Protocol):
    """What an actor does; made once in each actor, so that a model is loaded once."""

    def key(self, rows: range) -> str:
        """A hash of the rows and of all that the output depends on, as hexadecimal digits."""
        ...

    def write(self, rows: range, target: Path) -> dict[str, Any]:
        """Write the output of the rows to a path, and return facts about it, as JSON has them."""
        ...


MakeWorker: TypeAlias = Callable[[], ShardWorker]
"""Makes the worker in an actor. It must be picklable."""


@dataclass(frozen=True)
class ShardFile:
    """The output of one shard.

    Attributes:
        rows: of the shard.
        file: its output.
        facts: what `ShardWorker.write` returned.
        is_new: whether it was made by this call.
        worker: host and process that made or found it.
        peak_bytes: the most memory that this process has had.
    """

    rows: range
    file: Path
    facts: dict[str, Any] = field(default_factory=dict)
    is_new: bool = True
    worker: str = ""
    peak_bytes: int = 0


class ShardedRows:
    """Runs workers over rows on a cluster; a context manager that leaves the cluster.

    Args:
        options: which cluster, and how many shards and workers.
        folder: of the shards, on a path that all machines of the cluster share. It is made, and removed by `remove`.

    Attributes:
        peaks: of each worker by host and process, the most memory that it has had, in bytes.

    Raises:
        ClusterError: there is no such cluster, it lacks what is asked for, a machine does not see the folder, or
            another process works in it.

    Example:
        with ShardedRows(ClusterOptions(), folder=Path("scores.shards")) as shards:
            for shard in shards.run(make_worker, num_rows=20_000, what="scoring"):
                print(shard.file.read_text())
    """

    def __init__(self, options: ClusterOptions, *, folder: Path) -> None:
        self.options = options
        self.folder = folder.absolute()
        self.peaks: dict[str, int] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lease = _lock(self.folder)
        try:
            self.cluster = connect(options.address, cpus=None if options.address else options.workers)
            try:
                self._resources, self.workers = _plan_workers(self.cluster, options.workers)
                check_shared(self.cluster, self.folder)
            except BaseException:
                self.cluster.close()
                raise
        except BaseException:
            # Shards of an earlier call stay.
            if [file.name for file in self.folder.iterdir()] == [LOCK]:
                self.remove()
            self._lease.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.close()
        self._lease.release()

    def remove(self) -> None:
        """Remove the files of the shards, when their content is in the output."""
        for file in self.folder.iterdir():
            file.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def run(
        self, make_worker: MakeWorker, *, num_rows: int, what: str, multiple: int = 1, few: int = 0
    ) -> Iterator[ShardFile]:
        """Run a worker over all rows, and yield the shards in the order of the rows when all are complete.

        Args:
            make_worker: makes the worker in each actor.
            num_rows: how many rows there are.
            what: names the work, for the progress and for messages.
            multiple: shards begin at multiples of this number of rows.
            few: fewer rows than this are worked on in this process.

        Raises:
            BaseRewardError: what a worker raised, or a shard ended its process three times.
        """
        number = self.options.shards or max(SHARDS_PER_WORKER * self.workers, -(-num_rows // ROWS_OF_SHARD))
        shards = cut(num_rows, shards=number, multiple=multiple)
        for file in self.folder.glob(f"*{BEGUN}"):
            file.unlink()
        (self.folder / STOP).unlink(missing_ok=True)
        done: dict[int, ShardFile] = {}
        faults: list[tuple[str, str]] = []
        progress = begin(what, total=len(shards), unit="shards")
        answers = self._answers_here if num_rows < few else self._answers
        try:
            # To the end also after an error, when the other workers stop: Ray Data must not run when Ray is left.
            for answer in answers(make_worker, shards):
                if "error" in answer:
                    faults.append(answer["error"])
                if "file" in answer:
                    rows = shards[answer["shard"]]
                    done[answer["shard"]] = ShardFile(rows, self.folder / answer["file"], **answer["result"])
                    progress.advance()
        finally:
            progress.end()
        if faults:
            raise _error(*faults[0])
        for shard in done.values():
            self.peaks[shard.worker] = max(self.peaks.get(shard.worker, 0), shard.peak_bytes)
        return (done[number] for number in range(len(shards)))

    def summary(self, shards: Sequence[ShardFile]) -> dict[str, Any]:
        """What a command reports: the most memory of each worker in bytes, and how many shards an earlier call made."""
        return {
            "workers": self.peaks,
            "shards": {"all": len(shards), "found": sum(not shard.is_new for shard in shards)},
        }

    def _answers_here(self, make_worker: MakeWorker, shards: Sequence[range]) -> Iterator[dict[str, Any]]:
        worker = make_worker()
        for number, rows in enumerate(shards):
            yield {"shard": number, **_complete(worker, rows, number=number, folder=self.folder)}

    def _answers(self, make_worker: MakeWorker, shards: Sequence[range]) -> Iterator[dict[str, Any]]:
        from ray import data

        _configure(data)
        ray = self.cluster.ray
        # Once in the object store, from which the actors of a machine read without copies of arrays.
        setup = ray.put(_ActorSetup(make_worker, self.folder))
        items = [{"shard": number, "start": rows.start, "stop": rows.stop} for number, rows in enumerate(shards)]
        # A block for each shard, so that an actor gets one at a time. One task of an actor: another one would wait
        # behind it while other actors have nothing to do.
        blocks = data.from_items(items, override_num_blocks=len(items))
        pool = data.ActorPoolStrategy(size=min(self.workers, len(items)), max_tasks_in_flight_per_actor=1)
        options: dict[str, Any] = {"num_cpus": self._resources["CPU"], "num_gpus": self._resources.get("GPU", 0)}
        answers = blocks.map_batches(
            _ShardActor, fn_constructor_args=(setup,), batch_size=1, batch_format="numpy", compute=pool, **options
        )
        try:
            for answer in answers.iter_rows():
                yield json.loads(answer["answer"])
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"the cluster could not finish: {str(error).strip()}. Complete shards are kept in '{self.folder}', and "
                "the same command continues from them"
            ) from error


def _lock(folder: Path) -> Lease:
    """
    Raises:
        ClusterError: another process works in the folder. Each would remove the other's shards.
    """
    lease = acquire(folder / LOCK, wait=False)
    if lease is None:
        raise ClusterError(
            f"another process works on the shards in '{folder}'. Wait until it has ended, or write to another output"
        )
    return lease


def cut(num_rows: int, *, shards: int, multiple: int = 1) -> list[range]:
    """Cut rows into shards of about equal size; there are fewer when there are too few rows.

    Args:
        num_rows: how many rows there are.
        shards: how many shards, at most.
        multiple: shards begin at multiples of this number.

    >>> cut(10, shards=3), cut(10, shards=3, multiple=4), cut(0, shards=3)
    ([range(0, 3), range(3, 6), range(6, 10)], [range(0, 4), range(4, 8), range(8, 10)], [])
    """
    pieces = -(-num_rows // multiple)
    shards = min(shards, pieces)
    edges = [min(num_rows, number * pieces // shards * multiple) for number in range(shards + 1)] if shards else []
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def check_shared(cluster: RayCluster, folder: Path) -> None:
    """Check that every machine of a cluster sees the files of a folder, by a file that is written here.

    Raises:
        ClusterError: a machine does not see it; the message names it.
    """
    with Sentinel(folder) as file:
        blind = sorted(cluster.missing_files([str(file)]))
    if blind:
        raise ClusterError(
            f"{format_count(len(blind), 'machine does', 'machines do')} not see the folder '{folder}': "
            f"{', '.join(blind)}. All machines of the cluster read the rows and write shards there: put the input and "
            "the output on a shared file system, such as NFS, mounted at the same path"
        )


def _plan_workers(cluster: RayCluster, workers: int | None) -> tuple[dict[str, float], int]:
    """The resources of a worker, and how many there are.

    Raises:
        ClusterError: the cluster has not enough for that many.
    """
    total = cluster.resources()
    needed = {"CPU": 1.0, "GPU": 1.0} if total["GPU"] >= 1 else {"CPU": 1.0}
    number = workers or max(1, int(min(total[name] for name in needed)))
    cluster.require(needed, tasks=number)
    return needed, number


def _configure(data: Any) -> None:
    """Turn off Ray Data's own progress and its plans, which it prints, and let it replace actors that end at once."""
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.verbose_stats_logs = False
    # A machine may be taken away while an actor starts there; by default Ray Data gives up at the first one.
    context.max_consecutive_actor_init_deaths = ATTEMPTS
    # It writes a log of every execution to standard error otherwise.
    import logging

    logging.getLogger("ray.data").setLevel(logging.ERROR)


@dataclass(frozen=True)
class _ActorSetup:
    make_worker: MakeWorker
    folder: Path


class _ShardActor:
    """Runs in a process of the cluster."""

    def __init__(self, setup: Any) -> None:
        import ray

        given: _ActorSetup = ray.get(setup)
        self._make, self._folder = given.make_worker, given.folder
        self._worker: ShardWorker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (number,), (start,), (stop,) = (batch[name].tolist() for name in ("shard", "start", "stop"))
        answer: dict[str, Any] = {"shard": number}
        if (self._folder / STOP).exists():
            return {"answer": [json_text(answer)]}
        try:
            if self._worker is None:
                self._worker = self._make()
            answer |= _complete(self._worker, range(start, stop), number=number, folder=self._folder)
        # Ray would wrap it, and its type would be lost. Other errors are bugs and end the work with their traceback.
        except BaseRewardError as error:
            answer["error"] = [type(error).__name__, errors.explain(error)]
            (self._folder / STOP).touch()
        return {"answer": [json_text(answer)]}


def _complete(worker: ShardWorker, rows: range, *, number: int, folder: Path) -> dict[str, Any]:
    """Make the output of a shard, or find that of a call before.

    Raises:
        DataError: the shard has ended its process too often.
    """
    file = folder / f"{number:05}-{worker.key(rows)}"
    facts, begun = file.with_name(file.name + FACTS), file.with_name(file.name + BEGUN)
    is_new = not file.exists()
    if is_new:
        _count_attempt(begun, rows)
        with atomic_path(file) as partial:
            # Before the output takes its name, which says that both are complete.
            write_atomic(facts, json_text(worker.write(rows, partial)))
    begun.unlink(missing_ok=True)
    result = {
        "facts": json.loads(facts.read_bytes()),
        "is_new": is_new,
        "worker": f"{socket.gethostname()}:{os.getpid()}",
        # Linux counts in KiB.
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return {"file": file.name, "result": result}


def _count_attempt(begun: Path, rows: range) -> None:
    """
    Raises:
        DataError: the shard has been begun as often as is allowed.
    """
    with begun.open("ab") as file:
        file.write(b".")
    if begun.stat().st_size > ATTEMPTS:
        raise DataError(
            f"the process that works on rows {rows.start + 1} to {rows.stop} was ended {ATTEMPTS} times, as happens "
            "when memory is short: give more --shards, or fewer --workers for each machine"
        )


def _error(kind: str, message: str) -> BaseRewardError:
    """An error of a worker, of its own type where that is made of a message alone."""
    found = getattr(errors, kind, ClusterError)
    try:
        error = found(message)
    except TypeError:
        error = ClusterError(message)
    assert isinstance(error, BaseRewardError)
    return error
