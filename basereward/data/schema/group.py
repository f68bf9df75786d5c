"""The unit of all data: a prompt, its responses, and the preferences among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An image inside a zip or tar archive; `basereward.data.images.image_store.read_archived` reads it."""

    archive: str
    member: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.member}"


Image: TypeAlias = "str | Path | bytes | PIL.Image.Image | ArchivedImage"
"""An image: a path, the bytes of an image file, a decoded PIL image, or a member of an archive."""

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a turn: text, or the place of the next image (`text` is None)."""

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
    """The response `winner` is preferred to the response `loser`; both are indices of the group's responses."""

    winner: int
    loser: int
    weight: float = 1.0  # factor of this preference in the loss
    margin: float | None = None  # how much better the winner is, in the unit of the data set; None: unknown
    tie: bool = False  # neither response is better; `winner` and `loser` are then interchangeable


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The reasoning that leads to a verdict on two responses, which the text calls 1 (`first`) and 2 (`second`).

    The verdict is not part of the text; the group's preference contains it.
    """

    first: int
    second: int
    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt, its K >= 1 responses and the preferences among them.

    The n-th image part of `prompt` stands for the n-th image of `images`.
    """

    id: str
    source: str  # name of the source
    prompt: tuple[Turn, ...]
    responses: tuple[str, ...]  # K
    preferences: tuple[Preference, ...] = ()
    images: tuple[Image, ...] = field(default=(), repr=False)
    # Optional targets of generative heads.
    critiques: tuple[str, ...] = ()  # K, or none
    reasonings: tuple[Reasoning, ...] = ()
    ratings: tuple[float, ...] = ()  # K, or none; higher is better. Heads that learn ratings need the range 0 to 1.


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that is not used. Rejected rows are counted by reason and listed in a file."""

    source: str
    split: Split
    id: str
    reason: str  # a short identifier, such as `too_long`
    detail: str  # a message with what is needed to correct the row
    fault: bool = True  # False: the row is well-formed, and a rule of the recipe or of the data set leaves it out


def role_texts(turns: Sequence[Turn]) -> list[tuple[str, list[str | None]]]:
    """List the role and the texts of each turn (None at image places); its `repr` is the part of hashes of a prompt.

    >>> role_texts([Turn("user", (IMAGE, Part("What is it?")))])
    [('user', [None, 'What is it?'])]
    """
    listed: list[tuple[str, list[str | None]]] = []
    for turn in turns:
        listed.append((turn.role, [part.text for part in turn.parts]))
    return listed


def rank_preferences(ranking: Sequence[int]) -> tuple[Preference, ...]:
    """Convert ranks to preferences between all pairs of responses.

    Args:
        ranking: the rank of each response; lower is better, and equal ranks are a tie.

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
