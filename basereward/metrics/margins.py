"""The margins that every metric is fed with, checked once."""

from __future__ import annotations

import torch
from torch import Tensor

from basereward.errors import NotFiniteError


def untied(margins: Tensor, ties: Tensor | None) -> Tensor:
    """The places (a mask (P,) of bool) of the preferences that are not ties, after a check of both arguments.

    `margins (P,)` and `ties (P,)` of bool; `ties=None` means that no preference is a tie.

    Raises:
        ValueError: when the shapes are not (P,).
        NotFiniteError: when a margin is NaN or infinite, which would count as a wrong answer in silence.

    >>> untied(torch.tensor([0.5, -1.0]), torch.tensor([False, True]))
    tensor([ True, False])
    """
    if margins.ndim != 1:
        raise ValueError(f"margins have the shape {tuple(margins.shape)}; allowed is (P,), one number a preference.")
    if ties is not None and ties.shape != margins.shape:
        raise ValueError(
            f"ties have the shape {tuple(ties.shape)}, margins {tuple(margins.shape)}; they must be equal."
        )
    finite = torch.isfinite(margins)
    if not bool(finite.all()):
        raise NotFiniteError(
            f"{int((~finite).sum())} of {len(margins)} margins are NaN or infinite, so nothing can be measured; "
            "look at the scores of this batch, and try a lower learning rate."
        )
    return torch.ones_like(margins, dtype=torch.bool) if ties is None else ~ties.bool()
