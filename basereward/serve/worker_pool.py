"""The worker processes of a server: one for each device. A worker that dies is started again."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from basereward.data.schema.group import Group
from basereward.errors import BaseRewardError, ModelError
from basereward.io.processes import describe_end, spawn
from basereward.serve.messages import Cancel, Job, JobResult, Ready, TextSettings, WorkerSetup

logger = logging.getLogger(__name__)

RESTART_S = (0.0, 1.0, 5.0, 30.0)
"""Seconds before a worker is started again, by how often it has died without answering a request."""


class ServerFull(BaseRewardError):
    """Too many requests wait; the client should try again later."""


class WorkerDied(BaseRewardError):
    """The worker with the request has died, or is being started again; the client may send the request again."""


class Worker:
    """A worker process, and the requests that it has.

    Args:
        setup: what the worker opens.
        max_waiting: requests that it may have; more are refused.

    Raises:
        BaseRewardError: the model cannot be opened.
    """

    def __init__(self, setup: WorkerSetup, *, max_waiting: int) -> None:
        self._setup = setup
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._outgoing: queue.SimpleQueue[Job | Cancel | None] = queue.SimpleQueue()
        self._is_ready = False
        self._is_closed = False
        self._deaths = 0
        # Counted by the process that runs now, and by those that have died.
        self._computed = 0
        self._computed_before = 0
        self._process, connection = _start(setup)
        self.info = self._first_message(connection)
        self._begin(connection)

    @property
    def waiting(self) -> int:
        """The number of requests without an answer."""
        return len(self._waiting)

    @property
    def computed(self) -> int:
        """Responses that were scored and texts that were written, also for clients that have gone."""
        return self._computed_before + self._computed

    @property
    def is_ready(self) -> bool:
        """Whether the model is open."""
        return self._is_ready

    @property
    def pid(self) -> int | None:
        """The number of the process."""
        return self._process.pid

    def submit(self, key: bytes, group: Group, *, text: TextSettings | None = None) -> tuple[int, Future[Any]]:
        """Gives the worker a request.

        Args:
            key, group, text: as in `Job`.

        Returns:
            the number by which it can be cancelled, and its future, which gets scores or a `WrittenText`.

        Raises:
            ServerFull: it has too many.
            WorkerDied: it is being started again.
        """
        with self._lock:
            if not self._is_ready:
                raise WorkerDied("the model is being loaded again; try again later")
            if len(self._waiting) >= self._max_waiting:
                raise ServerFull(f"{self._max_waiting} requests wait already; try again later")
            number = next(self._numbers)
            future: Future[Any] = Future()
            self._waiting[number] = future
            self._outgoing.put(Job(number, key, group, text))
        return number, future

    def cancel(self, number: int) -> None:
        """Gives up a request."""
        with self._lock:
            if self._waiting.pop(number, None) is not None:
                self._outgoing.put(Cancel(number))

    def close(self) -> None:
        """Answers the requests that the worker has, and ends the process."""
        self._is_closed = True
        self._outgoing.put(None)
        self._process.join()

    def _begin(self, connection: Connection) -> None:
        """Starts the threads of a connection whose worker is ready."""
        with self._lock:
            self._is_ready = True
            outgoing = self._outgoing
        # The thread that sends keeps its own queue: it must not take from that of a later process.
        threading.Thread(target=_send, args=(connection, outgoing), name="send", daemon=True).start()
        threading.Thread(target=self._receive, args=(connection,), name="receive", daemon=True).start()

    def _first_message(self, connection: Connection) -> dict[str, Any]:
        """
        Raises:
            BaseRewardError: the model cannot be opened.
        """
        try:
            message: Ready | BaseRewardError = connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise ModelError(
                f"the process of the model has ended with {describe_end(self._process.exitcode)}; its output is above"
            ) from None
        if isinstance(message, BaseRewardError):
            raise message
        return message.info

    def _receive(self, connection: Connection) -> None:
        while True:
            try:
                answer: JobResult = connection.recv()
            except (EOFError, OSError):
                break
            self._deaths = 0
            self._computed = answer.computed
            with self._lock:
                future = self._waiting.pop(answer.number, None)
            if future is None:
                # The client has gone in the meantime.
                continue
            if isinstance(answer.result, BaseRewardError):
                future.set_exception(answer.result)
            else:
                future.set_result(answer.result)
        if not self._is_closed:
            self._restart()

    def _restart(self) -> None:
        """Fails the requests of a worker that has died, and starts it again."""
        with self._lock:
            self._is_ready = False
            lost, self._waiting = list(self._waiting.values()), {}
            self._computed_before, self._computed = self.computed, 0
            # Ends the thread that sends. Requests that it has not sent are among the lost ones.
            self._outgoing.put(None)
            self._outgoing = queue.SimpleQueue()
        self._process.join()
        logger.error("the worker on %s ended with %s", self._setup.device, describe_end(self._process.exitcode))
        for future in lost:
            future.set_exception(WorkerDied("the process of the model has died; send the request again"))
        while not self._is_closed:
            time.sleep(RESTART_S[min(self._deaths, len(RESTART_S) - 1)])
            self._deaths += 1
            try:
                self._process, connection = _start(self._setup)
                self._first_message(connection)
            except (BaseRewardError, OSError) as error:
                logger.error("the worker on %s cannot be started: %s", self._setup.device, error)
                continue
            self._begin(connection)
            return


def _send(connection: Connection, outgoing: queue.SimpleQueue[Job | Cancel | None]) -> None:
    """A thread, because sending waits when the worker is slow, and the server must not wait."""
    while True:
        # None ends the worker. Closing the connection would not, since `_receive` is reading from it.
        message = outgoing.get()
        try:
            connection.send(message)
        except OSError:
            # The worker has died. `_receive` fails its requests, this one too.
            return
        if message is None:
            return


def _start(setup: WorkerSetup) -> tuple[BaseProcess, Connection]:
    return spawn(_work, setup, name=f"worker on {setup.device}")


def _work(connection: Connection, setup: WorkerSetup) -> None:
    # Imported in the worker alone, because it imports torch.
    from basereward.serve.worker import work

    work(connection, setup)


class WorkerPool:
    """All workers of a server.

    Args:
        setups: one for each device.
        max_waiting: requests of one worker.

    Raises:
        BaseRewardError: a worker cannot open the model.

    Attributes:
        workers: in the order of the setups.
        info: of the model.
    """

    def __init__(self, setups: Sequence[WorkerSetup], *, max_waiting: int) -> None:
        # In threads, because each waits until its process has opened the model.
        with ThreadPoolExecutor(len(setups)) as threads:
            self.workers = list(threads.map(lambda setup: Worker(setup, max_waiting=max_waiting), setups))
        self.info = self.workers[0].info

    def worker_of(self, key: bytes) -> Worker:
        """The worker of a prompt: always the same one, which may have its keys and values."""
        return self.workers[int.from_bytes(key[:8]) % len(self.workers)]

    def close(self) -> None:
        """Answers the requests that the workers have, and ends them."""
        for worker in self.workers:
            worker.close()
