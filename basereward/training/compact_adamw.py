"""AdamW of bitsandbytes: optimizer states in 8 bits, or in memory that the GPU shares with the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

CompactKind = Literal["adamw_8bit", "paged_adamw", "paged_adamw_8bit"]

CLASSES: dict[CompactKind, str] = {
    "adamw_8bit": "AdamW8bit",
    "paged_adamw": "PagedAdamW",
    "paged_adamw_8bit": "PagedAdamW8bit",
}
"""Class of bitsandbytes, by the kind in a recipe."""


def compact_adamw(
    groups: Sequence[dict[str, Any]], *, kind: CompactKind, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """Build an AdamW whose two states take 2 bytes per weight instead of 8, or move to the host when the GPU is full.

    8-bit states: Dettmers et al., arXiv 2110.02861. Weights with fewer than 4,096 values keep 32-bit states.

    Args:
        groups: parameter groups with `lr` and `weight_decay`.
        kind: `paged_*` need an NVIDIA GPU; `adamw_8bit` also runs on the CPU. States that a resumed run loads are on
            the GPU and are not paged.
        betas: as in torch's AdamW.
        eps: as in torch's AdamW.

    >>> groups = [{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "lr": 1e-3, "weight_decay": 0.0}]
    >>> type(compact_adamw(groups, kind="adamw_8bit", betas=(0.9, 0.999), eps=1e-8)).__name__
    'AdamW8bit'
    """
    # Imported here, because the import searches for kernels and logs what it does not find.
    from bitsandbytes import optim

    optimizer: torch.optim.Optimizer = getattr(optim, CLASSES[kind])(list(groups), betas=betas, eps=eps)
    return optimizer
