"""What a head that speaks adds to the branches of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from basereward.data.encoding.encoder import Encoder
    from basereward.data.schema.group import Group, Turn


@dataclass(frozen=True, slots=True)
class Spoken:
    """One branch of a head that speaks."""

    written: int = 0  # its last tokens, which the head is taught to write; 0 where they are still to be written
    weight: float = 1.0  # what those count in the loss
    about: tuple[int, ...] = ()  # the responses it is about, in the order they are shown


class Speech(Protocol):
    """Lays out the branches of a group.

    Attributes:
        fingerprint: changes with anything that changes a branch.
        open: whether branches go on within the prompt's last turn, at the `SENTINEL` at its end.
        text: of its prompt.
    """

    open: bool
    text: str

    @property
    def fingerprint(self) -> str: ...

    def prompt(self, group: Group) -> tuple[Turn, ...]:
        """What all branches of a group begin with."""
        ...

    def __call__(self, encoder: Encoder, group: Group, *, taught: bool) -> Sequence[tuple[Tensor, Spoken]]:
        """The branches, `(L,)` tokens each, with what is what in them; `taught` with the text of the data, else up to
        where the head begins to write.

        Raises:
            RowLost: the group has no text to learn from, or nothing can be said of it.
        """
        ...
