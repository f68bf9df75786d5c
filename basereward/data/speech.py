"""What a head that speaks adds to the branches of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from basereward.data.encoding import Encoder
    from basereward.data.group import Group


@dataclass(frozen=True, slots=True)
class Spoken:
    """One branch: which of its tokens are the response's own, and which are written by the head."""

    response: int  # first tokens, the end of turn left out
    written: int = 0  # last tokens, the end of turn included; 0 where they are still to be written


class Speech(Protocol):
    """Lays out the branches of a group.

    Attributes:
        fingerprint: changes with anything that changes a branch.
    """

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, encoder: Encoder, group: Group, *, taught: bool) -> Sequence[tuple[Tensor, Spoken]]:
        """The branches, `(L,)` tokens each, with what is what in them; `taught` with the text of the data, else up to
        where the head begins to write.

        Raises:
            RowLost: the group has no text to learn from.
        """
        ...
