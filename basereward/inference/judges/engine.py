"""What writes for a judge: an engine takes requests and gives texts, whatever is behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeAlias

from basereward.data.schema.group import Image, Turn
from basereward.model.generation.generate import Writing


@dataclass(frozen=True, slots=True)
class Request:
    """One text to be written, after turns whose image parts stand for `images`, in order."""

    id: str
    turns: tuple[Turn, ...]
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """An answer; tokens are counted by whoever wrote it, and 0 where it does not tell."""

    id: str
    text: str
    prompt_tokens: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer, after so many attempts; the reason is that of the last."""

    id: str
    reason: str
    attempts: int
    refused: bool = False  # for what it is: asked again, it would fail again


Answer: TypeAlias = Written | Failed
Arrived: TypeAlias = Callable[[Written], None]


class Engine(Protocol):
    """Writes texts.

    Attributes:
        name: of what writes, for records.
    """

    name: str

    def write(self, requests: Iterable[Request], how: Writing, *, arrived: Arrived | None = None) -> Iterator[Answer]:
        """An answer to every request, as they come, in any order; `how.samples` is 1.

        Args:
            requests: read as they are needed.
            how: of every text.
            arrived: called with every text as soon as it is there, which may be before it is given and in another
                thread, so that it can be kept whatever happens to the caller meanwhile.

        Raises:
            ModelError: it cannot work at all.
        """
        ...


def several(requests: Iterable[Request], count: int) -> Iterator[list[Request]]:
    """Requests, so many at a time."""
    waiting = iter(requests)
    while some := list(islice(waiting, count)):
        yield some
