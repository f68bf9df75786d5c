"""Connections between the processes of a run, by which each notices at once that another one has failed or was killed.

The first process has a connection to every other one. The system closes the connections of a process that ends, however
it ends, and probes those to a machine that does not answer. A process that ends well says so before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from basereward.errors import TrainingError

logger = logging.getLogger(__name__)

STUCK_S = 12.0
"""Seconds that a process has to end by itself after another one has failed. It may wait for that one on the device."""
PROBE_S = 5
PROBES = 3
"""Seconds between probes of a silent machine, and unanswered probes after which its connection is closed."""
FAILED = 2
"""Exit status of a process that ends because another one has failed."""


class Link:
    """The connections of this process.

    Attributes:
        fault: why another process has ended; None while all of them run.
        first_is_gone: whether the first process has ended without a message, so that it cannot tell the user.
        on_stuck: called with the fault before this process is ended from a thread.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        self.first_is_gone = False
        self.on_stuck: Callable[[str], None] = lambda fault: None
        self._noticed = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._connections: dict[int, socket.socket] = {}

    def add(self, number: int, connection: socket.socket, *, name: str) -> None:
        """Watch a connection.

        Args:
            number: of the process at its other end.
            connection: open.
            name: of that process, for messages.
        """
        _probe(connection)
        self._connections[number] = connection
        threading.Thread(target=self._watch, args=(number, connection, name), daemon=True).start()

    def report(self, fault: str) -> None:
        """Tell the other processes that this one fails.

        Args:
            fault: what has happened, for their users.
        """
        self._send({"fault": fault})

    def wait_for_fault(self, seconds: float) -> str | None:
        """Why another process has ended; None if all of them still run after some seconds."""
        self._noticed.wait(seconds)
        return self.fault

    def close(self) -> None:
        """Tell the others that this process has done its work, and close the connections."""
        with self._lock:
            self._closed = True
        self._send({"done": True})
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _send(self, message: dict[str, Any], *, without: int | None = None) -> None:
        line = json.dumps(message).encode() + b"\n"
        for number, connection in self._connections.items():
            if number != without:
                with contextlib.suppress(OSError):
                    connection.sendall(line)

    def _watch(self, number: int, connection: socket.socket, name: str) -> None:
        """Read what a process says until its connection ends."""
        fault, said = f"{name} ended without a message: it was killed, or its machine has failed", False
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if "done" in message:
                    return
                fault, said = f"{name} has failed: {message['fault']}" if number else str(message["fault"]), True
                break
        self._notice(fault, source=number, first_is_gone=number == 0 and not said)

    def _notice(self, fault: str, *, source: int, first_is_gone: bool) -> None:
        with self._lock:
            if self._closed or self.fault is not None:
                return
            self.fault, self.first_is_gone = fault, first_is_gone
        # The first process tells the others; they have no connection to each other.
        self._send({"fault": fault}, without=source)
        self._noticed.set()
        self._end_if_stuck(fault)

    def _end_if_stuck(self, fault: str) -> None:
        """End this process if it does not end by itself.

        On a GPU a process that waits for another one cannot be interrupted: its thread waits for the device.
        """
        deadline = time.monotonic() + STUCK_S
        while time.monotonic() < deadline:
            if self._closed:
                return
            time.sleep(0.1)
        with contextlib.suppress(Exception):
            self.on_stuck(fault)
        sys.stderr.write(f"basereward: {fault}\n")
        sys.stderr.flush()
        os._exit(FAILED)


class Listener:
    """The place at the first process to which the others connect.

    Args:
        host: address of the interface; '' for all of them.

    >>> listener = Listener("127.0.0.1")
    >>> listener.address.split(",")[0]
    '127.0.0.1'
    >>> listener.close()
    """

    def __init__(self, host: str = "") -> None:
        self._socket = socket.create_server((host, 0))
        self._secret = secrets.token_hex(16)
        self._host = host

    @property
    def address(self) -> str:
        """What `connect` takes: host, port and a secret, which keeps other programs out."""
        return self.address_at(self._host)

    def address_at(self, host: str) -> str:
        """The address by another name of this machine."""
        return f"{host},{self._socket.getsockname()[1]},{self._secret}"

    def accept(self, link: Link, ranks: int, *, check: Callable[[], None] = lambda: None) -> None:
        """Wait for the other processes, and add their connections to a link.

        Args:
            link: of this process.
            ranks: number of all processes.
            check: called again and again; may raise when a process has ended before it connected.
        """
        missing = set(range(1, ranks))
        self._socket.settimeout(0.2)
        while missing:
            check()
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            hello = _hello(connection)
            if hello.get("secret") != self._secret or hello.get("number") not in missing:
                connection.close()
                continue
            number = int(hello["number"])
            link.add(number, connection, name=f"process {number} (pid {hello['pid']} on {hello['host']})")
            missing.discard(number)

    def close(self) -> None:
        """Accept no further connections."""
        self._socket.close()


def connect(link: Link, address: str, *, number: int) -> None:
    """Connect to the first process, and add the connection to a link.

    Args:
        link: of this process.
        address: `Listener.address`.
        number: of this process.

    Raises:
        TrainingError: the first process cannot be reached.
    """
    host, port, secret = address.split(",")
    try:
        connection = socket.create_connection((host, int(port)), timeout=60)
    except OSError as error:
        raise TrainingError(
            f"process {number} cannot reach process 0 at {host}:{port} ({error}). Let the machines of a run reach each "
            "other at all ports"
        ) from error
    connection.settimeout(None)
    hello = {"number": number, "secret": secret, "pid": os.getpid(), "host": socket.gethostname()}
    connection.sendall(json.dumps(hello).encode() + b"\n")
    link.add(0, connection, name="process 0")


def _hello(connection: socket.socket) -> dict[str, Any]:
    """The first line of a connection; empty if it is not one of ours."""
    connection.settimeout(10)
    received = b""
    # Byte by byte: what follows the line belongs to the reader of the connection.
    with contextlib.suppress(OSError, ValueError):
        while len(received) < 4096:
            byte = connection.recv(1)
            if byte in (b"", b"\n"):
                break
            received += byte
        connection.settimeout(None)
        hello = json.loads(received)
        return hello if isinstance(hello, dict) else {}
    return {}


def _probe(connection: socket.socket) -> None:
    """Let the system close the connection when the other machine does not answer any more."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", PROBE_S), ("TCP_KEEPINTVL", PROBE_S), ("TCP_KEEPCNT", PROBES)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
