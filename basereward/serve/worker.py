"""The process that has the model. It reads requests from a connection and answers them in any order."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from basereward.errors import BaseRewardError, ModelError
from basereward.inference.ensemble import Ensemble, model_digest
from basereward.inference.load_model import load
from basereward.inference.scorer import Scorer
from basereward.io.logs import log_to_stderr
from basereward.io.processes import end_with_parent
from basereward.model.heads.contracts import is_generative
from basereward.recipe.trust import trusting
from basereward.runs.resolve_model import resolve_model
from basereward.serve.batcher import Batcher, ScoreRequest
from basereward.serve.messages import Cancel, Job, JobResult, Ready, WorkerSetup
from basereward.serve.prefixes import KeptPrefixes


class _Channel:
    """Sends answers from several threads over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Sends one message."""
        with self._lock:
            self._connection.send(message)

    def answer(self, number: int, future: Future[list[float]]) -> None:
        """Sends the result of a request; nothing if it was cancelled."""
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self.send(JobResult(number, future.result()))
        else:
            # The batcher gives errors of ours alone.
            self.send(JobResult(number, error if isinstance(error, BaseRewardError) else ModelError(str(error))))


def work(connection: Connection, setup: WorkerSetup) -> None:
    """The main function of a worker. It ends when the server closes the connection or is gone.

    Args:
        connection: to the server; the first message is `Ready`, or the error of opening the model.
        setup: what to open.
    """
    end_with_parent(setup.parent)
    channel = _Channel(connection)
    with log_to_stderr(), trusting(setup.trusted):
        try:
            scorer = load(setup.model, device=setup.device, dtype=setup.dtype)
            info = model_info(setup.model, scorer)
        except BaseRewardError as error:
            channel.send(error)
            return
        batcher = Batcher(
            scorer, window_s=setup.window_s, tokens=setup.tokens, prefixes=_prefixes(scorer, setup.prefix_bytes)
        )
        channel.send(Ready(info))
        _serve(connection, channel, batcher)
        batcher.close()


def _serve(connection: Connection, channel: _Channel, batcher: Batcher) -> None:
    """Submits requests until None comes, or the connection is closed."""
    waiting: dict[int, Future[list[float]]] = {}
    while True:
        try:
            message: Job | Cancel | None = connection.recv()
        except EOFError:
            return
        if message is None:
            return
        if isinstance(message, Cancel):
            future = waiting.get(message.number)
            if future is not None:
                future.cancel()
            continue
        future = Future()
        waiting[message.number] = future
        # The order matters: the callback may run at once, when the request is answered before it is added.
        future.add_done_callback(partial(_forget, waiting, message.number))
        future.add_done_callback(partial(channel.answer, message.number))
        batcher.submit(ScoreRequest(message.key, message.group, future))


def _forget(waiting: dict[int, Future[list[float]]], number: int, _: Future[list[float]]) -> None:
    waiting.pop(number, None)


def _prefixes(scorer: Scorer | Ensemble, max_bytes: int) -> KeptPrefixes | None:
    """What keeps prompts; None for ensembles and generative heads, which read a complete prompt every time."""
    if max_bytes == 0 or isinstance(scorer, Ensemble) or is_generative(scorer.model.head):
        return None
    return KeptPrefixes(scorer, max_bytes=max_bytes)


def model_info(model: str, scorer: Scorer | Ensemble) -> dict[str, Any]:
    """What `/info` says of a model.

    Args:
        model: as in `basereward.load`.
        scorer: the opened model.
    """
    folder = resolve_model(model)
    info: dict[str, Any] = {"model": folder.parent.name if folder.name == "model" else folder.name}
    info["device"] = str(scorer.device)
    if isinstance(scorer, Ensemble):
        info |= {"kind": "ensemble", "members": [member.digest for member in scorer.members]}
        return info
    info |= {"kind": "generative" if is_generative(scorer.model.head) else "scalar", "hash": model_digest(folder)}
    return info | {"scores": scorer.scores}
