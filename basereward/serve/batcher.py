"""Batches requests: those of one prompt become one group, and groups are scored together.

Two threads work one after the other. The first collects requests for a short time, joins those of equal prompts, and
encodes them on the CPU. The second runs the model, so that a GPU never waits for the encoding of the next groups. A
request that is cancelled before the model begins with it is left out.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import torch

from basereward.data.schema.group import Group, PlacedImage
from basereward.data.schema.responses.read_responses import response_images
from basereward.errors import BaseRewardError, ModelError
from basereward.inference.group_scores import ScoresEncodedGroups
from basereward.inference.judges.chat_model import ChatModel
from basereward.inference.prompt_cache import PromptScorer
from basereward.serve.prefixes import KeptPrefixes
from basereward.serve.text_writer import EncodedPrompt, TextRequest, TextWriter

logger = logging.getLogger(__name__)

MAX_GROUPS = 256
"""Groups that are encoded together; it bounds the memory of a batch."""
BATCHES_AHEAD = 2
"""Encoded batches that may wait for the model."""

ResponseKey: TypeAlias = tuple[str, tuple[PlacedImage, ...]]
"""A response with its images."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One request.

    Attributes:
        key: equal for requests of the same prompt with the same images.
        group: the prompt and the responses.
        future: gets one score for each response, or an error.
    """

    key: Hashable
    group: Group
    future: Future[list[float]] = field(default_factory=Future)


@dataclass(slots=True)
class _Merged:
    """Requests that are scored as one group.

    Attributes:
        encoded: by the model's encoder; None if `kept` is set.
        kept: the prompt, if its keys and values are kept.
        keep: whether they are to be kept now.
    """

    key: Hashable
    requests: list[ScoreRequest]
    group: Group
    encoded: Any = None
    kept: PromptScorer | None = None
    keep: bool = False

    def begin(self) -> bool:
        """Leaves out the requests that were cancelled; false if none is left. The others cannot be cancelled now.

        The group is left as it was encoded: responses of a cancelled request are scored with those of the others.
        """
        self.requests = [request for request in self.requests if request.future.set_running_or_notify_cancel()]
        return bool(self.requests)

    def answer(self, scores: Sequence[float]) -> None:
        """Gives every request the scores of its own responses, or an error if one of them is not finite."""
        by_response = dict(zip(_response_keys(self.group), scores, strict=True))
        for request in self.requests:
            # A judge may score equal responses of a request differently, so they are told apart where they can be.
            alone = request.group is self.group
            own = list(scores) if alone else [by_response[key] for key in _response_keys(request.group)]
            if all(map(math.isfinite, own)):
                request.future.set_result(own)
            else:
                request.future.set_exception(ModelError("the model gives a score that is NaN or infinite"))

    def fail(self, error: Exception) -> None:
        """Gives every request the error."""
        for request in self.requests:
            if request.future.running() or request.future.set_running_or_notify_cancel():
                request.future.set_exception(error)

    def apart(self) -> list[_Merged]:
        """Each request in a group of its own, so that a response of one cannot fail another."""
        return [replace(self, requests=[request], group=request.group) for request in self.requests]


class _Batch(NamedTuple):
    """What is encoded and waits for the model."""

    groups: list[_Merged]
    prompts: list[EncodedPrompt]


def _merge(requests: Iterable[ScoreRequest]) -> list[_Merged]:
    """Joins requests of equal prompts; each distinct response of theirs is in the group once."""
    by_key: dict[Hashable, list[ScoreRequest]] = {}
    for request in requests:
        by_key.setdefault(request.key, []).append(request)
    merged: list[_Merged] = []
    for key, of_prompt in by_key.items():
        responses: dict[ResponseKey, None] = {}
        for request in of_prompt:
            responses.update(dict.fromkeys(_response_keys(request.group)))
        group = replace(
            of_prompt[0].group,
            responses=tuple(text for text, _ in responses),
            response_images=response_images([images for _, images in responses]),
        )
        merged.append(_Merged(key, of_prompt, group))
    return merged


def _response_keys(group: Group) -> list[ResponseKey]:
    """The keys of the responses of a group, in their order."""
    return [group.response_key(index) for index in range(len(group.responses))]


class Batcher:
    """Scores requests from any number of threads.

    Args:
        scorer: the model.
        window_s: how long a request waits for others, in seconds.
        tokens: limit of a forward pass, as in `ScoresGroups.score_groups`.
        prefixes: keeps the keys and values of prompts that come again; None keeps none.
        merge: whether requests of one prompt become one group. False for judges that compare the responses of a group:
            the scores of a response then depend on the others.
        chat: writes the texts of `TextRequest`; None: the model writes none.
        encoders: threads that encode groups.

    Example:
        batcher = Batcher(load("RUN"))
        request = ScoreRequest("prompt 1", group)
        batcher.submit(request)
        scores = request.future.result()
        batcher.close()
    """

    def __init__(
        self,
        scorer: ScoresEncodedGroups,
        *,
        window_s: float = 0.005,
        tokens: int | None = None,
        prefixes: KeptPrefixes | None = None,
        merge: bool = True,
        chat: ChatModel | None = None,
        encoders: int = 2,
    ) -> None:
        self.scorer = scorer
        self.window_s = window_s
        self.tokens = tokens
        self.merge = merge
        self._prefixes = prefixes
        self._writer = None if chat is None else TextWriter(chat, answerable=_answerable)
        self._scored = 0
        self._requests: queue.SimpleQueue[ScoreRequest | TextRequest | None] = queue.SimpleQueue()
        self._batches: queue.Queue[_Batch | None] = queue.Queue(BATCHES_AHEAD)
        self._encoders = ThreadPoolExecutor(encoders, thread_name_prefix="encoder")
        self._threads = [
            threading.Thread(target=_ending_process, args=(target,), name=target.__name__, daemon=True)
            for target in (self._collect, self._score)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def computed(self) -> int:
        """Responses that the model has scored and texts that it has written so far; equal responses count once."""
        return self._scored + (0 if self._writer is None else self._writer.written)

    def submit(self, request: ScoreRequest | TextRequest) -> None:
        """Queues a request, whose future gets the answer. If it is cancelled in time, nothing is computed for it."""
        if isinstance(request, TextRequest) and self._writer is None:
            request.future.set_exception(ModelError("this model writes no text"))
            return
        self._requests.put(request)

    def close(self) -> None:
        """Answers the requests that were submitted, and ends the threads."""
        self._requests.put(None)
        for thread in self._threads:
            thread.join()
        self._encoders.shutdown()

    def _collect(self) -> None:
        """The first thread: requests to encoded batches."""
        is_open = True
        while is_open:
            requests, is_open = self._next_requests()
            batch = self._encoded([request for request in requests if not request.future.cancelled()])
            if batch.groups or batch.prompts:
                self._batches.put(batch)
        self._batches.put(None)

    def _encoded(self, requests: Sequence[ScoreRequest | TextRequest]) -> _Batch:
        to_score = [request for request in requests if isinstance(request, ScoreRequest)]
        merged = _merge(to_score) if self.merge else [_Merged(one.key, [one], one.group) for one in to_score]
        groups = list(chain.from_iterable(self._encoders.map(self._prepare, merged)))
        prompts: list[EncodedPrompt] = []
        if self._writer is not None:
            to_write = [request for request in requests if isinstance(request, TextRequest)]
            prompts = list(chain.from_iterable(self._encoders.map(self._writer.encode, to_write)))
        return _Batch(groups, prompts)

    def _next_requests(self) -> tuple[list[ScoreRequest | TextRequest], bool]:
        """The requests of the next window, and whether there may be more; waits for the first one."""
        requests: list[ScoreRequest | TextRequest] = []
        deadline = float("inf")
        while len(requests) < MAX_GROUPS:
            try:
                wait_s = None if not requests else max(0.0, deadline - time.monotonic())
                request = self._requests.get(timeout=wait_s)
            except queue.Empty:
                break
            if request is None:
                return requests, False
            if not requests:
                deadline = time.monotonic() + self.window_s
            requests.append(request)
        return requests, True

    def _prepare(self, item: _Merged) -> list[_Merged]:
        """Looks for a kept prompt, and encodes the group if there is none."""
        if self._prefixes is not None:
            item.kept, item.keep = self._prefixes.find(item.key)
        return [item] if item.kept is not None else self._encode(item)

    def _encode(self, item: _Merged) -> list[_Merged]:
        """Encodes a group. If that fails, its requests are encoded apart, and those that fail have their answer."""
        try:
            item.encoded = self.scorer.encode(item.group)
        except Exception as error:  # noqa: BLE001
            if len(item.requests) > 1:
                return list(chain.from_iterable(map(self._encode, item.apart())))
            item.fail(_answerable(error))
            return []
        return [item]

    def _score(self) -> None:
        """The second thread: encoded batches to answers."""
        while (batch := self._batches.get()) is not None:
            fresh: list[_Merged] = []
            for item in filter(_Merged.begin, batch.groups):
                if item.keep:
                    self._keep(item)
                if item.kept is None:
                    fresh.append(item)
                else:
                    self._score_kept(item, item.kept)
            if fresh:
                self._score_fresh(fresh)
            if self._writer is not None:
                self._writer.write(batch.prompts)

    def _keep(self, item: _Merged) -> None:
        """Keeps the keys and values of a prompt. If that fails, the group is scored without them."""
        assert self._prefixes is not None
        try:
            item.kept = self._prefixes.add(item.key, item.encoded)
        except Exception as error:  # noqa: BLE001
            logger.warning("a prompt is not kept: %s", _answerable(error))

    def _score_kept(self, item: _Merged, prompt: PromptScorer) -> None:
        try:
            scores = prompt.score_group(item.group)
        except Exception as error:  # noqa: BLE001
            if len(item.requests) > 1:
                for alone in item.apart():
                    self._score_kept(alone, prompt)
            else:
                item.fail(_answerable(error))
        else:
            self._answer(item, scores)

    def _score_fresh(self, items: list[_Merged]) -> None:
        waiting = iter(items)
        try:
            for scores_of_groups in self.scorer.score_encoded([item.encoded for item in items], tokens=self.tokens):
                for scores in scores_of_groups:
                    self._answer(next(waiting), scores)
        except Exception as error:  # noqa: BLE001
            for item in waiting:
                item.fail(_answerable(error))

    def _answer(self, item: _Merged, scores: Sequence[float]) -> None:
        # Counted first: whoever gets the answer also gets the count.
        self._scored += len(scores)
        item.answer(scores)


def _ending_process(target: Callable[[], None]) -> None:
    """Runs a thread. Without it no request would ever be answered, so the process ends with it and is replaced."""
    try:
        target()
    except BaseException:
        logger.exception("the process of the model ends")
        os._exit(1)


def _answerable(error: Exception) -> Exception:
    """The error for the client. Any other than ours is a fault of the server, which is logged with its traceback.

    Every exception is answered, because one request must not stop the threads that serve all others. After a fault of
    the GPU its process cannot go on: it ends, and the server starts another one.
    """
    if isinstance(error, torch.AcceleratorError):
        logger.error("the GPU has a fault", exc_info=error)
        os._exit(1)
    if not isinstance(error, BaseRewardError):
        logger.error("a request failed", exc_info=error)
        return ModelError("the server has an internal error; its log says which")
    return error
