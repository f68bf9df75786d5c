"""Processes by an identity that no other shares, and by their number among those that train one run; removal of the
temporary files of those that were killed.

A temporary file or folder carries the identity of its process in its name, see `temporary_name`. So a later process can
tell a leftover of a killed process, which it removes at once, from what another one is still writing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, TypeAlias

from basereward.io.interrupts import interrupts_blocked

HOUR_S = 3600.0
PARENT_POLL_S = 0.5
"""Seconds between looks for the parent."""
PROC = Path("/proc")


@contextlib.contextmanager
def changed_environment(variables: Mapping[str, str], *, restored: Iterable[str] = ()) -> Iterator[None]:
    """A block with other environment variables, which get their values back at its end.

    Args:
        variables: that are set.
        restored: names of others that a library may set in the block.

    >>> with changed_environment({"BASEREWARD_EXAMPLE": "1"}):
    ...     os.environ["BASEREWARD_EXAMPLE"]
    '1'
    >>> "BASEREWARD_EXAMPLE" in os.environ
    False
    """
    before = {name: os.environ.get(name) for name in (*variables, *restored)}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def identify_process() -> dict[str, Any]:
    """Describe this process by JSON values that no other process shares.

    A process number alone is reused after some time, so the start time, the boot and the PID namespace belong to it.

    >>> identify_process()["pid"] == os.getpid()
    True
    """
    pid = os.getpid()
    return {"pid": pid, "started": _start_time(pid), "host": socket.gethostname(), **_pid_scope()}


def process_state(identity: Mapping[str, Any]) -> Literal["alive", "gone", "unknown"]:
    """Look up the process that `identify_process` described; `unknown` on another machine or in another container.

    >>> process_state(identify_process())
    'alive'
    >>> process_state(identify_process() | {"started": "0"})  # another process has its number now
    'gone'
    """
    scope = _pid_scope()
    if identity.get("host") == socket.gethostname() and identity.get("boot") != scope["boot"]:
        # The machine has rebooted.
        return "gone"
    if any(identity.get(key) != value for key, value in scope.items()):
        return "unknown"
    pid = identity.get("pid")
    if not isinstance(pid, int):
        return "gone"
    # macOS: the start time is unknown.
    if not PROC.is_dir():
        return "alive" if _exists(pid) else "gone"
    start_time = _start_time(pid)
    return "alive" if start_time is not None and start_time == identity.get("started") else "gone"


def _pid_scope() -> dict[str, str]:
    """The boot and the PID namespace in which process numbers are valid; empty where there is no /proc."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "namespace": os.readlink(PROC / "self/ns/pid")}
    except OSError:
        return {"boot": "", "namespace": ""}


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since the boot; None when it does not exist, or is a zombie."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # proc(5): the second field, the name in brackets, may itself hold spaces and brackets. After it come field 3, the
    # state, and the following ones; field 22 is the start time.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # The process exists and belongs to another user.
        return True
    return True


def end_with_parent(pid: int) -> None:
    """From here on, this process ends when its parent is gone, at once and whatever it does.

    Args:
        pid: process number of the parent. The parent passes it, because after its death `getppid` gives another one.
    """
    threading.Thread(target=_watch_parent, args=(pid,), daemon=True).start()


def _watch_parent(pid: int) -> None:
    while os.getppid() == pid:
        time.sleep(PARENT_POLL_S)
    # Not `sys.exit`, which would end this thread alone. Nobody would read the result of the process.
    os._exit(1)


def spawn(work: Callable[[Connection, Any], None], setup: object, *, name: str) -> tuple[BaseProcess, Connection]:
    """Start a process that works for this one over a connection, and wait for nothing.

    Args:
        work: its main function, called with its end of the connection and with `setup`; a function of a module.
        setup: what it needs to begin; it is pickled.
        name: of the process.

    Returns:
        The process, and our end of the connection. Reading from it raises EOFError when the process has ended.
    """
    # A new interpreter and not a fork: CUDA does not work in a child that was forked after its parent used it.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, setup), name=name, daemon=True)
    # Ctrl-C goes to all processes of a terminal; the one that started the others ends them by itself.
    with interrupts_blocked():
        process.start()
    # Otherwise the pipe stays open when the process dies, and reading from it waits for ever.
    theirs.close()
    return process, ours


def describe_end(code: int | None) -> str:
    """How a process has ended.

    Args:
        code: its exit code, negative for a signal, as `subprocess` and `multiprocessing` give it.

    >>> describe_end(-9), describe_end(2)
    ('signal 9', 'exit code 2')
    """
    code = code or 0
    return f"signal {-code}" if code < 0 else f"exit code {code}"


OWNER = re.compile(r"\.(\d+)-(\d+)-([0-9a-f]{8})[.-]")


def temporary_name(name: str, suffix: str) -> str:
    """Name a temporary file or folder of this process, hidden, with `suffix` at its end.

    >>> temporary_name("status.json", ".tmp")
    '.status.json...-...-....tmp'
    """
    return f".{name}.{os.getpid()}-{_start_time(os.getpid()) or 0}-{_scope_hash()}{suffix}"


def is_temporary_name(name: str) -> bool:
    """Whether a name is one of `temporary_name`, of any process on any machine.

    >>> is_temporary_name(temporary_name("status.json", ".tmp")), is_temporary_name(".status.json.tmp")
    (True, False)
    """
    return name.startswith(".") and OWNER.search(name) is not None


def _scope_hash() -> str:
    """Hash of the host, its boot and the PID namespace, in which a process number and its start time are valid."""
    scope = f"{socket.gethostname()} {sorted(_pid_scope().items())}"
    return hashlib.sha256(scope.encode()).hexdigest()[:8]


def _owner_is_gone(name: str) -> bool:
    """Whether a temporary name is of a process of this machine that has ended."""
    owner = OWNER.search(name)
    if owner is None or owner[3] != _scope_hash() or not PROC.is_dir():
        return False
    return _start_time(int(owner[1])) != owner[2]


@functools.lru_cache(maxsize=256)
def partial_writes(folder: Path) -> tuple[Path, ...]:
    """List the temporary files of killed writers, as they lay when this process first asked.

    Listed once: a folder may hold a hundred thousand pictures, and each of them is written through here.

    >>> partial_writes(Path("/not/there"))
    ()
    """
    try:
        return tuple(path for path in folder.glob(".*.tmp") if _owner_is_gone(path.name))
    except OSError:
        return ()


def remove_leftovers(folder: Path, *patterns: str, older_than_s: float = HOUR_S) -> None:
    """Remove temporary files and folders that killed processes have left in a folder.

    Nothing is raised where that fails: a leftover takes room and does no harm.

    Args:
        folder: it may be missing.
        patterns: of names in it, as of `Path.glob`; only names of temporary files and folders.
        older_than_s: since the last change, in seconds, for names without an owner or with one on another machine,
            which may still be writing. 0 where a lock says that there is no such process.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / ".a.tmp").touch(), (root / ".b.new").touch()
    (None, None)
    >>> remove_leftovers(root, ".*.tmp", older_than_s=0)
    >>> [path.name for path in root.iterdir()]
    ['.b.new']
    """
    # Wall-clock time, because it is compared with modification times of files.
    now = time.time()
    for pattern in patterns:
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                if now - path.lstat().st_mtime < older_than_s and not _owner_is_gone(path.name):
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


# torchrun, SLURM and `basereward` itself start a process for each device of a run, and tell it its number by variables.

Starter: TypeAlias = Literal["nobody", "basereward", "lightning", "torchrun", "slurm"]
"""What started the processes; `nobody`: this is a process by itself. `lightning`: the trainer of a user's own script,
which runs the script again for every device."""
OWN_VARIABLE = "BASEREWARD_RANK"


@dataclass(frozen=True, slots=True)
class Rank:
    """The place of this process among those of a run.

    Attributes:
        starter: what started them.
        number: of this process among all, from 0.
        local: of this process among those of its machine, from 0.
        ranks: number of all processes.
        local_ranks: number of processes on each machine.
    """

    starter: Starter = "nobody"
    number: int = 0
    local: int = 0
    ranks: int = 1
    local_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.number == 0


def this_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Read the place of this process from its environment.

    Args:
        environment: variables by name.

    >>> this_rank({})
    Rank(starter='nobody', number=0, local=0, ranks=1, local_ranks=1)
    >>> step = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    >>> this_rank(step | {"SLURM_NTASKS": "4", "SLURM_NNODES": "2"}).local_ranks
    2
    """

    def number(name: str, default: int) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdigit() else default

    if own := environment.get(OWN_VARIABLE):
        return Rank("basereward", *map(int, own.split(",")))
    # torchrun before SLURM, because it may run inside of a job.
    if "TORCHELASTIC_RUN_ID" in environment:
        ranks = number("WORLD_SIZE", 1)
        return Rank("torchrun", number("RANK", 0), number("LOCAL_RANK", 0), ranks, number("LOCAL_WORLD_SIZE", ranks))
    # The commands of a job script have the number of tasks too, but are no step that `srun` started.
    if number("SLURM_NTASKS", 1) > 1 and "SLURM_STEP_ID" in environment:
        tasks = number("SLURM_NTASKS", 1)
        local_ranks = max(1, tasks // max(1, number("SLURM_NNODES", 1)))
        return Rank("slurm", number("SLURM_PROCID", 0), number("SLURM_LOCALID", 0), tasks, local_ranks)
    if "LOCAL_RANK" in environment:
        local, ranks = number("LOCAL_RANK", 0), number("WORLD_SIZE", 1)
        return Rank("lightning", number("NODE_RANK", 0) * ranks + local, local, ranks, ranks)
    return Rank()


def own_variables(rank: Rank) -> dict[str, str]:
    """The variables by which `basereward` tells a process that it starts its place.

    >>> this_rank(own_variables(Rank("basereward", 1, 1, 2, 2))).number
    1
    """
    place = f"{rank.number},{rank.local},{rank.ranks},{rank.local_ranks}"
    # Lightning reads the others, and starts no processes where there is a local rank.
    return {OWN_VARIABLE: place, "LOCAL_RANK": str(rank.local), "NODE_RANK": "0", "WORLD_SIZE": str(rank.ranks)}
