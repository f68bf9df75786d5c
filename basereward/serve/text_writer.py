"""Writes the texts that clients of a judge ask for, several of them in one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from threading import Event
from typing import NamedTuple

from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.inference.judges.chat_model import ChatModel, GeneratedText
from basereward.model.generation.generate import SamplingParams

MAX_TEXTS = 16
"""Texts that are written together; each has keys and values of its own."""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One request for the text that follows a conversation.

    Attributes:
        group: its prompt is the conversation.
        sampling: of the text.
        future: gets the text, or an error.
        abandoned: set when nobody needs the text any more; a text that is being written then ends early.
    """

    group: Group
    sampling: SamplingParams
    future: Future[GeneratedText] = field(default_factory=Future)
    abandoned: Event = field(default_factory=Event)


class EncodedPrompt(NamedTuple):
    """A request and its encoded conversation."""

    request: TextRequest
    encoded: EncodedGroup


class TextWriter:
    """Writes the texts of requests with one model.

    Args:
        chat: the model.
        answerable: makes the error for the client of any exception.

    Attributes:
        written: number of texts so far.
    """

    def __init__(self, chat: ChatModel, *, answerable: Callable[[Exception], Exception]) -> None:
        self.written = 0
        self._chat = chat
        self._answerable = answerable

    def encode(self, request: TextRequest) -> list[EncodedPrompt]:
        """The encoded conversation; nothing if that fails, or if the client has gone. A failed request is answered."""
        if request.future.cancelled():
            return []
        try:
            return [EncodedPrompt(request, self._chat.encode(request.group))]
        except RowRejected as rejection:
            self._fail(request, DataError(f"the conversation cannot be continued: {rejection.reason}: {rejection}"))
        except Exception as error:  # noqa: BLE001
            self._fail(request, error)
        return []

    def write(self, prompts: Sequence[EncodedPrompt]) -> None:
        """Answers the requests, except those whose clients have gone."""
        for batch, sampling in _batches(prompts):
            begun = [prompt for prompt in batch if prompt.request.future.set_running_or_notify_cancel()]
            if begun:
                self._write_batch(begun, sampling)

    def _write_batch(self, batch: Sequence[EncodedPrompt], sampling: SamplingParams) -> None:
        """Answers requests that have begun. If writing fails, each is tried alone, so that one cannot fail others."""

        def is_cancelled() -> list[bool]:
            return [prompt.request.abandoned.is_set() for prompt in batch]

        try:
            texts = self._chat.generate([prompt.encoded for prompt in batch], sampling, is_cancelled=is_cancelled)
        except Exception as error:  # noqa: BLE001
            if len(batch) == 1:
                self._fail(batch[0].request, error)
                return
            for prompt in batch:
                self._write_batch([prompt], sampling)
            return
        self.written += len(texts)
        for prompt, text in zip(batch, texts, strict=True):
            prompt.request.future.set_result(text)

    def _fail(self, request: TextRequest, error: Exception) -> None:
        if request.future.running() or request.future.set_running_or_notify_cancel():
            request.future.set_exception(self._answerable(error))


def _batches(prompts: Sequence[EncodedPrompt]) -> Iterator[tuple[list[EncodedPrompt], SamplingParams]]:
    """Prompts with equal settings, up to `MAX_TEXTS` together."""
    by_sampling: dict[SamplingParams, list[EncodedPrompt]] = defaultdict(list)
    for prompt in prompts:
        sampling = prompt.request.sampling
        # Seed and top_p change nothing without sampling.
        alike = sampling if sampling.temperature else replace(sampling, seed=0, top_p=1.0)
        by_sampling[alike].append(prompt)
    for sampling, same in by_sampling.items():
        for start in range(0, len(same), MAX_TEXTS):
            yield same[start : start + MAX_TEXTS], sampling
