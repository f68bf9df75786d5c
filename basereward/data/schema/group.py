"""The unit of data everywhere: one prompt, its responses, and the preferences among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """A picture inside a zip or tar archive; `read_archived` of `basereward.data.images.image_store` reads it."""

    archive: str
    member: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.member}"


Image: TypeAlias = "str | Path | bytes | PIL.Image.Image | ArchivedImage"
"""A picture: a path, the bytes of an image file, a decoded PIL image, or a place in an archive."""

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a turn: text, or the place of the next image (`text` is None)."""

    text: str | None

    @property
    def is_image(self) -> bool:
        return self.text is None


IMAGE = Part(None)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a prompt."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """The response `winner` is preferred to `loser` (indices into the group's responses).

    `weight` scales its share of the loss; `margin` is how much better, when the data say so; of a `tie` neither wins.
    """

    winner: int
    loser: int
    weight: float = 1.0
    margin: float | None = None
    tie: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What was written on the way to a verdict on the responses `first` and `second`, shown in this order and called 1
    and 2; the verdict itself is the group's preference."""

    first: int
    second: int
    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt, its K >= 1 responses and the preferences among them.

    Image parts of `prompt`, read in order, stand for `images`, in order; their numbers are equal.
    """

    id: str
    source: str
    prompt: tuple[Turn, ...]
    responses: tuple[str, ...]
    preferences: tuple[Preference, ...] = ()
    images: tuple[Image, ...] = field(default=(), repr=False)
    # For heads that learn to write them; none where the data have none.
    critiques: tuple[str, ...] = ()  # of every response
    reasonings: tuple[Reasoning, ...] = ()
    ratings: tuple[float, ...] = ()  # of every response, higher is better; a head that learns them needs 0 to 1


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that is not used: counted under `reason` and listed with its `id` and the `detail` a person needs to
    mend it."""

    source: str
    split: Split
    id: str
    reason: str
    detail: str
    fault: bool = True  # False: nothing is wrong with the row; a rule of the recipe or of its data set leaves it out


def rank_preferences(ranking: Sequence[int]) -> tuple[Preference, ...]:
    """All preferences that ranks imply: `ranking[i]` is the rank of response i, lower is better, equal is a tie.

    >>> rank_preferences([0, 2, 1])
    (Preference(winner=0, loser=1, weight=1.0, margin=None, tie=False), \
Preference(winner=0, loser=2, weight=1.0, margin=None, tie=False), \
Preference(winner=2, loser=1, weight=1.0, margin=None, tie=False))
    """
    pairs = []
    for i in range(len(ranking)):
        for j in range(i + 1, len(ranking)):
            better, worse = (i, j) if ranking[i] <= ranking[j] else (j, i)
            pairs.append(Preference(better, worse, tie=ranking[i] == ranking[j]))
    return tuple(pairs)
