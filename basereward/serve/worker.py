"""The process that has the model. It reads requests from a connection and answers them in any order."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from basereward.errors import BaseRewardError, ModelError
from basereward.inference.ensemble import Ensemble, model_digest
from basereward.inference.judges.chat_model import GeneratedText, trained_chat_model
from basereward.inference.load_model import load
from basereward.inference.reward_scorer import RewardScorer
from basereward.inference.scorer import Scorer
from basereward.io.logs import log_to_stderr
from basereward.io.processes import end_with_parent
from basereward.model.generation.generate import SamplingParams
from basereward.model.heads.contracts import is_generative
from basereward.recipe.trust import trusting
from basereward.runs.resolve_model import resolve_model
from basereward.serve.batcher import Batcher, ScoreRequest
from basereward.serve.messages import Cancel, Job, JobResult, Ready, WorkerSetup, WrittenText
from basereward.serve.prefixes import KeptPrefixes
from basereward.serve.text_writer import TextRequest


class _Channel:
    """Sends answers from several threads over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Sends one message."""
        with self._lock:
            self._connection.send(message)

    def answer(self, batcher: Batcher, number: int, future: Future[Any]) -> None:
        """Sends the result of a request; nothing if it was cancelled."""
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            result = future.result()
            if isinstance(result, GeneratedText):
                result = WrittenText(*result)
        else:
            # The batcher gives errors of ours alone.
            result = error if isinstance(error, BaseRewardError) else ModelError(str(error))
        self.send(JobResult(number, result, batcher.computed))


def work(connection: Connection, setup: WorkerSetup) -> None:
    """The main function of a worker. It ends when the server closes the connection or is gone.

    Args:
        connection: to the server; the first message is `Ready`, or the error of opening the model.
        setup: what to open.
    """
    end_with_parent(setup.parent)
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    channel = _Channel(connection)
    with log_to_stderr(), trusting(setup.trusted):
        try:
            scorer = load(setup.model, device=setup.device, dtype=setup.dtype)
            info = model_info(setup.model, scorer)
        except BaseRewardError as error:
            channel.send(error)
            return
        batcher = Batcher(
            scorer,
            window_s=setup.window_s,
            tokens=setup.tokens,
            prefixes=_prefixes(scorer, setup.prefix_bytes),
            merge=not _is_judge(scorer),
            chat=trained_chat_model(scorer) if isinstance(scorer, Scorer) and _is_judge(scorer) else None,
        )
        channel.send(Ready(info))
        _serve(connection, channel, batcher)
        batcher.close()


def _serve(connection: Connection, channel: _Channel, batcher: Batcher) -> None:
    """Submits requests until None comes, or the connection is closed."""
    waiting: dict[int, ScoreRequest | TextRequest] = {}
    while True:
        try:
            messages = _received(connection)
        except EOFError:
            return
        # A request and its cancellation may have arrived together, when this process was busy.
        gone = {message.number for message in messages if isinstance(message, Cancel)}
        for message in messages:
            if message is None:
                return
            if isinstance(message, Cancel):
                _give_up(waiting.get(message.number))
            elif message.number not in gone:
                request = _request(message)
                waiting[message.number] = request
                # The order matters: the callback may run at once, when the request is answered before it is added.
                request.future.add_done_callback(partial(_forget, waiting, message.number))
                request.future.add_done_callback(partial(channel.answer, batcher, message.number))
                batcher.submit(request)


def _received(connection: Connection) -> list[Job | Cancel | None]:
    """All messages that have arrived; waits for the first one.

    Raises:
        EOFError: the server is gone.
    """
    messages: list[Job | Cancel | None] = [connection.recv()]
    while connection.poll():
        messages.append(connection.recv())
    return messages


def _request(job: Job) -> ScoreRequest | TextRequest:
    if job.text is None:
        return ScoreRequest(job.key, job.group)
    return TextRequest(job.group, SamplingParams(**job.text._asdict()))


def _give_up(request: ScoreRequest | TextRequest | None) -> None:
    """Cancels a request, or ends the text that is being written for it; nothing if it has its answer."""
    if request is not None and not request.future.cancel() and isinstance(request, TextRequest):
        request.abandoned.set()


def _forget(waiting: dict[int, ScoreRequest | TextRequest], number: int, _: Future[Any]) -> None:
    waiting.pop(number, None)


def _is_judge(scorer: RewardScorer) -> bool:
    """Whether scores may depend on the other responses of a group, since a model of them has a generative head."""
    scorers = scorer.scorers if isinstance(scorer, Ensemble) else [scorer]
    return any(isinstance(one, Scorer) and is_generative(one.model.head) for one in scorers)


def _prefixes(scorer: RewardScorer, max_bytes: int) -> KeptPrefixes | None:
    """What keeps prompts; None for ensembles and generative heads, which read a complete prompt every time."""
    if max_bytes == 0 or not isinstance(scorer, Scorer) or _is_judge(scorer):
        return None
    return KeptPrefixes(scorer, max_bytes=max_bytes)


def model_info(model: str, scorer: RewardScorer) -> dict[str, Any]:
    """What `/info` says of a model.

    Args:
        model: as in `basereward.load`.
        scorer: the opened model.
    """
    folder = resolve_model(model)
    info: dict[str, Any] = {"model": folder.parent.name if folder.name == "model" else folder.name}
    info |= {"device": str(scorer.device), "threads": torch.get_num_threads()}
    if isinstance(scorer, Ensemble):
        info |= {"kind": "ensemble", "members": [member.digest for member in scorer.members]}
        return info
    info |= {"kind": "generative" if _is_judge(scorer) else "scalar", "hash": model_digest(folder)}
    return info | {"scores": scorer.scores}
