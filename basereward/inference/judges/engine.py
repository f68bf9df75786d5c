"""The contract of a judge's engine: it takes requests and yields generated texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeAlias

from basereward.data.schema.group import Group, Turn, Visual
from basereward.model.generation.generate import SamplingParams

LOCAL, VLLM = "local", "vllm"
"""Engines in this process, in place of an address: transformers and vLLM."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one text that follows a conversation.

    Attributes:
        id: identifies the answer. Engines draw the tokens of a sampled text from it, so that it is named by what is
            asked, as by `content_name`, and not by its place in a batch.
        turns: the conversation.
        images: the images and videos at the places of the conversation, in order.
        comparison: of a request to compare, the group with the two responses in the order shown. A trained judge
            encodes them as in training; other engines read the conversation.

    >>> Request("a", ()).images
    ()
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[Visual, ...] = ()
    comparison: Group | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """The generated text of one request.

    Attributes:
        id: of the request.
        text: the generated text.
        prompt_tokens: tokens of the conversation, as the engine counts them; 0 if it gives no count.
        tokens: generated tokens; 0 if the engine gives no count.

    >>> Completion("a", "<answer>1</answer>").tokens
    0
    """

    id: str
    text: str
    prompt_tokens: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """A request without an answer.

    Attributes:
        id: of the request.
        reason: of the last attempt's failure.
        attempts: how often the request was sent.
        refused: whether the request itself is at fault, so that sending it again is useless.

    >>> Failed("a", "status 500", attempts=5).refused
    False
    """

    id: str
    reason: str
    attempts: int
    refused: bool = False


Answer: TypeAlias = Completion | Failed
OnCompletion: TypeAlias = Callable[[Completion], None]


class Engine(Protocol):
    """Generates texts.

    Attributes:
        name: of the model, for records.
    """

    name: str

    def generate(
        self, requests: Iterable[Request], sampling: SamplingParams, *, on_completion: OnCompletion | None = None
    ) -> Iterator[Answer]:
        """Yields an answer to every request, in any order.

        Args:
            requests: read as they are needed.
            sampling: settings of every text; `sampling.samples` is 1.
            on_completion: called with every text as soon as it is generated, possibly in another thread and before the
                text is yielded. The caller can store it there, so that an interruption loses nothing.

        Raises:
            ModelError: no request can be answered.
        """
        ...


def content_name(*parts: str) -> str:
    """A name of a request made of texts that identify what is asked; 32 hexadecimal digits.

    >>> content_name("ab", "c") == content_name("a", "bc"), content_name("a") == content_name("a")
    (False, True)
    """
    # As JSON, which tells the parts apart and escapes the lone surrogates of public data sets.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def several(requests: Iterable[Request], count: int) -> Iterator[list[Request]]:
    """The requests in lists of `count`; the last list may be shorter.

    >>> [len(part) for part in several([Request("a", ()), Request("b", ()), Request("c", ())], 2)]
    [2, 1]
    """
    remaining = iter(requests)
    while part := list(islice(remaining, count)):
        yield part
