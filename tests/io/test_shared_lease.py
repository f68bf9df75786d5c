"""Leases between machines: one holder at a time, a dead one is replaced, and one that was replaced learns it.

A process of another machine is one that describes itself by another boot: it cannot be looked up, as on another host.
No test depends on the speed of the machine; each waits for what a process prints.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from basereward.errors import RunError
from basereward.io import lease as leases
from basereward.io.lease import acquire_shared, expiry_seconds, shared_holder, store_time

HOLDER = """
import sys
from pathlib import Path
from basereward.io import lease as leases
here = leases.identify_process
if sys.argv[2] != "here":
    leases.identify_process = lambda: here() | {"boot": sys.argv[2], "host": sys.argv[2]}
with leases.acquire_shared(Path(sys.argv[1]), wait=sys.argv[3] == "wait") or sys.exit("refused") as lease:
    print("held", flush=True)
    for line in sys.stdin:
        print("held" if lease.is_held else "lost", flush=True)
"""
# Every process adds one to a number, which it reads and writes while it holds the lease.
COUNTER = """
import sys, time
from pathlib import Path
from basereward.io import lease as leases
here = leases.identify_process
leases.identify_process = lambda: here() | {"boot": sys.argv[2], "host": sys.argv[2]}
folder = Path(sys.argv[1])
for _ in range(5):
    with leases.acquire_shared(folder / "lease", wait=True):
        number = int((folder / "number").read_text())
        time.sleep(0.002)
        (folder / "number").write_text(str(number + 1))
"""


def start(program: str, *arguments: str, expiry_s: float = 120.0) -> subprocess.Popen[str]:
    """Start a program with an expiry of its leases in seconds."""
    environment = os.environ | {leases.EXPIRY_VARIABLE: str(expiry_s)}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def holder(folder: Path, host: str, *, wait: bool = False, expiry_s: float = 120.0) -> subprocess.Popen[str]:
    """Start a process of another machine that holds a lease until its input ends."""
    process = start(HOLDER, str(folder), host, "wait" if wait else "now", expiry_s=expiry_s)
    assert wait or line_of(process) == "held"
    return process


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str]) -> str:
    """Ask a holder whether it holds the lease."""
    assert process.stdin is not None
    process.stdin.write("?\n")
    process.stdin.flush()
    return line_of(process)


def test_killed_holder_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    """Although its lease would last for an hour."""
    process = start(HOLDER, str(tmp_path / "lease"), "here", "now", expiry_s=3600)
    assert line_of(process) == "held"
    assert acquire_shared(tmp_path / "lease", wait=False) is None
    process.kill()
    process.wait()
    lease = acquire_shared(tmp_path / "lease", wait=False)
    assert lease is not None
    lease.release()


def test_live_holder_of_another_machine_is_not_replaced(tmp_path: Path) -> None:
    """Its heartbeats keep the lease; at its end the lease is free at once."""
    process = holder(tmp_path / "lease", "elsewhere", expiry_s=24.0)
    (file,) = (tmp_path / "lease").glob("0*")
    for _ in range(2):
        # As if no heartbeat had come for as long as the next one takes to come.
        os.utime(file, (0, 0))
        while file.stat().st_mtime == 0:
            time.sleep(0.05)
        assert acquire_shared(tmp_path / "lease", wait=False) is None
    assert ask(process) == "held"
    process.communicate()
    with acquire_shared(tmp_path / "lease", wait=False) or pytest.fail("not free") as lease:
        assert lease.is_held


def test_killed_holder_of_another_machine_is_replaced_after_the_expiry(tmp_path: Path) -> None:
    """Until then the lease is held; its own time of expiry counts, and not that of the waiting process."""
    process = holder(tmp_path / "lease", "elsewhere", expiry_s=1.0)
    process.kill()
    process.wait()
    with acquire_shared(tmp_path / "lease", wait=True):
        holding = shared_holder(tmp_path / "lease")
        assert holding is not None
        assert holding.process["pid"] == os.getpid()


def test_suspended_holder_learns_that_it_was_replaced(tmp_path: Path) -> None:
    """It is replaced after the expiry, and says so when it goes on; the new holder keeps the lease."""
    first = holder(tmp_path / "lease", "one", expiry_s=1.0)
    second = holder(tmp_path / "lease", "two", wait=True, expiry_s=1.0)
    os.kill(first.pid, signal.SIGSTOP)
    assert line_of(second) == "held"
    os.kill(first.pid, signal.SIGCONT)
    assert ask(first) == "lost"
    first.communicate()
    # The end of the first does not release the lease of the second.
    holding = shared_holder(tmp_path / "lease")
    assert holding is not None
    assert holding.process["host"] == "two"
    second.communicate()
    assert shared_holder(tmp_path / "lease") is None


def test_processes_of_several_machines_exclude_each_other(tmp_path: Path) -> None:
    """Four processes add to one number five times each; no addition is lost."""
    (tmp_path / "number").write_text("0")
    processes = [start(COUNTER, str(tmp_path), f"host{number}") for number in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "number").read_text() == "20"


def test_expiry_is_by_the_clock_of_the_files(tmp_path: Path) -> None:
    """A wall clock of this machine that is a day wrong changes nothing."""
    with mock.patch.object(leases.time, "time", return_value=time.time() + 86400):
        leases._clock_offsets.clear()
        assert abs(store_time(tmp_path) - tmp_path.stat().st_mtime) < 3600
    leases._clock_offsets.clear()


def test_forked_child_has_no_part_in_a_lease(tmp_path: Path) -> None:
    """Neither does its release end the lease of the parent, nor its life keep it."""
    lease = acquire_shared(tmp_path / "lease", wait=True)
    child = os.fork()
    if not child:
        lease.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert shared_holder(tmp_path / "lease") is not None
    lease.release()
    assert shared_holder(tmp_path / "lease") is None


def test_damaged_lease_is_held_until_it_expires(tmp_path: Path) -> None:
    """A file without its content may be one that a process is writing."""
    (tmp_path / "00000001").write_text("")
    assert acquire_shared(tmp_path, wait=False) is None
    os.utime(tmp_path / "00000001", (0, 0))
    assert acquire_shared(tmp_path, wait=False) is not None


def test_filesystem_without_hard_links(tmp_path: Path) -> None:
    """The file of a lease is created exclusively there."""
    with (
        mock.patch.object(leases.os, "link", side_effect=PermissionError(1, "Operation not permitted")),
        acquire_shared(tmp_path, wait=True) as lease,
    ):
        assert acquire_shared(tmp_path, wait=False) is None
        assert lease.renew()


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_expiry_is_a_positive_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other values of the environment variable are refused."""
    monkeypatch.setenv(leases.EXPIRY_VARIABLE, text)
    with pytest.raises(RunError, match=leases.EXPIRY_VARIABLE):
        expiry_seconds()


def test_file_of_a_killed_taker_is_removed_by_the_next_one(tmp_path: Path) -> None:
    """SIGKILL between the two names of a lease's file: the next holder removes the temporary one."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from basereward.io import lease as leases\n"
        "Path.unlink = lambda path, **options: os.kill(os.getpid(), signal.SIGKILL)\n"
        "leases.acquire_shared(Path(sys.argv[1]), wait=False)\n"
    )
    process = start(program, str(tmp_path))
    assert process.wait() == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    with acquire_shared(tmp_path, wait=True):
        assert list(tmp_path.glob(".*.tmp")) == []
