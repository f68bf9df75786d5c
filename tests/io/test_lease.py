"""A lease has one holder, and ends with the holder in every case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from basereward.io.lease import Owner, acquire

HOLDER = """
import sys, time
from pathlib import Path
from basereward.io.lease import acquire
lease = acquire(Path(sys.argv[1]), wait=False, owner=sys.argv[2])
print("held" if lease else "refused", flush=True)
sys.stdin.read()
"""


def holder(file: Path, owner: Owner) -> subprocess.Popen[str]:
    """Start a process that holds the lease until its input ends or it is killed."""
    command = [sys.executable, "-c", HOLDER, str(file), owner]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    """Return what a holder prints after it has tried to acquire the lease."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("owner", ["descriptor", "process"])
def test_killed_holder_releases_the_lease(tmp_path: Path, owner: Owner) -> None:
    """Another process cannot acquire it while the holder runs; the file stays."""
    file = tmp_path / "lock"
    with holder(file, owner) as process:
        assert first_line(process) == "held"
        assert acquire(file, wait=False, owner=owner) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    with acquire(file, wait=True, owner=owner):
        assert file.exists()


def test_waiting_ends_when_the_lease_is_free(tmp_path: Path) -> None:
    """A holder that ends normally releases the lease to the waiting process."""
    file = tmp_path / "lock"
    with holder(file, "descriptor") as process:
        assert first_line(process) == "held"
        assert process.stdin is not None
        process.stdin.close()
        with acquire(file, wait=True) as lease:
            assert lease.descriptor >= 0
        assert lease.descriptor == -1


@pytest.mark.parametrize(("owner", "is_kept"), [("descriptor", True), ("process", False)])
def test_forked_child_keeps_only_descriptor_locks(tmp_path: Path, owner: Owner, is_kept: bool) -> None:
    """A loader process that outlives the training process must not hold the lease of the run."""
    file = tmp_path / "lock"
    lease = acquire(file, wait=True, owner=owner)
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(write_end)
        os.read(read_end, 1)  # until the parent closes its end
        os._exit(0)
    os.close(read_end)
    lease.release()
    with holder(file, owner) as process:
        assert first_line(process) == ("refused" if is_kept else "held")
        assert process.stdin is not None
        process.stdin.close()
    os.close(write_end)
    os.waitpid(child, 0)


def test_a_folder_can_be_locked(tmp_path: Path) -> None:
    """No lock file is created in it."""
    with acquire(tmp_path, wait=True, flags=os.O_RDONLY):
        assert acquire(tmp_path, wait=False, flags=os.O_RDONLY) is None
    assert list(tmp_path.iterdir()) == []
