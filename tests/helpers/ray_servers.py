"""A Ray cluster of this machine in processes of its own, which tests join by its address."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 180.0


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running_ray(*, cpus: int, log: Path) -> Iterator[str]:
    """Start a cluster, and end its processes and no others.

    Args:
        cpus: how many it says it has.
        log: file for its output.

    Yields:
        Its address.
    """
    port = free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
    command += [f"--num-cpus={cpus}", "--include-dashboard=false", "--disable-usage-stats"]
    # Ray joins an address that is given without a token, and asks for one if a file of the user has it.
    # Not what Ray has set in this process when it was a driver: the cluster would be one of its workers.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = inherited | {"RAY_AUTH_MODE": "disabled", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    # By default workers have the lowest priority but four, and wait for the other process of pytest-xdist.
    environment["RAY_worker_niceness"] = "0"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        _wait_for(process, log)
        yield f"127.0.0.1:{port}"
    finally:
        # `--block` ends all processes of the cluster when it is asked to end.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Ray has not started:\n{log.read_text()}")
        time.sleep(0.2)
