"""The check of the margins that every metric takes."""

from __future__ import annotations

import torch
from torch import Tensor

from basereward.errors import NotFiniteError


def untied(margins: Tensor, ties: Tensor | None) -> Tensor:
    """Check margins and ties, and return the mask `(P,)` of the preferences that are not ties.

    Args:
        margins: `(P,)`.
        ties: `(P,)` of bool; None when no preference is a tie.

    Raises:
        ValueError: the shapes are not (P,).
        NotFiniteError: a margin is NaN or infinite; it would silently count as a wrong prediction.

    >>> untied(torch.tensor([0.5, -1.0]), torch.tensor([False, True]))
    tensor([ True, False])
    """
    if margins.ndim != 1:
        raise ValueError(f"margins have the shape {tuple(margins.shape)}; allowed is (P,), one number per preference.")
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
