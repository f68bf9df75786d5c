"""`basereward serve` as a process of its own."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from typing import Any

import requests

from tests.helpers.forked_command import ForkedCommand

START_S = 240.0
"""Seconds after which a server that does not answer has failed; it takes some ten."""


def wait_until_ready(address: str, server: Any, *, log: Path) -> None:
    """Return when a server answers at an address; fail with the end of its log when it ends or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if requests.get(address, timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"the server has not started: {log.read_text()[-3000:]}")


class ScoringServer:
    """A server of one model. It starts at once, and is ready after `wait`.

    Args:
        model: the folder of the saved model.
        log: the file for its output.
    """

    def __init__(self, model: Path, *, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._log = log
        with log.open("wb") as output:
            self._process = ForkedCommand("serve", model, "--port", port, errors=output)

    def wait(self) -> None:
        """Return when the server has opened the model."""
        wait_until_ready(f"{self.address}/health", self._process, log=self._log)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request, and return the answer."""
        answer = requests.post(f"{self.address}{path}", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def close(self) -> None:
        """End the server."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
