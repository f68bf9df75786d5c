"""The contract of a judge's engine: it takes requests and yields texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeAlias

from basereward.data.schema.group import Image, Turn
from basereward.model.generation.generate import Writing


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one text that follows `turns`; their image parts stand for `images`, in order."""

    id: str
    turns: tuple[Turn, ...]
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """An answer. The engine counts the tokens; 0 if it gives no count."""

    id: str
    text: str
    prompt_tokens: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """A request without an answer, with the number of attempts and the reason of the last one."""

    id: str
    reason: str
    attempts: int
    refused: bool = False  # the request itself is at fault, so repeating it is useless


Answer: TypeAlias = Written | Failed
Arrived: TypeAlias = Callable[[Written], None]


class Engine(Protocol):
    """Generates texts.

    Attributes:
        name: of the model, for records.
    """

    name: str

    def write(self, requests: Iterable[Request], how: Writing, *, arrived: Arrived | None = None) -> Iterator[Answer]:
        """Yields an answer to every request, in any order.

        Args:
            requests: read as they are needed.
            how: settings of every text; `how.samples` is 1.
            arrived: called with every text as soon as it is generated, possibly in another thread and before the text
                is yielded. The caller can store it there, so that an interruption loses nothing.

        Raises:
            ModelError: no request can be answered.
        """
        ...


def several(requests: Iterable[Request], count: int) -> Iterator[list[Request]]:
    """The requests in lists of `count`; the last list may be shorter.

    >>> [len(part) for part in several([Request("a", ()), Request("b", ()), Request("c", ())], 2)]
    [2, 1]
    """
    remaining = iter(requests)
    while part := list(islice(remaining, count)):
        yield part
