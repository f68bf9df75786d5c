"""AdamW of bitsandbytes, whose states are in eight bits, or in memory that the GPU shares with the host."""

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


def compact_adamw(
    groups: Sequence[dict[str, Any]], *, kind: CompactKind, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """An optimizer whose two states take 2 bytes a weight in place of 8, or move to the host when the GPU is full.

    Eight-bit states (arXiv 2110.02861) are those of weights with at least 4,096 values; smaller ones keep 32 bits.

    Args:
        groups: parameter groups with `lr` and `weight_decay`.
        kind: `paged_*` need an NVIDIA GPU; the other runs on the CPU too. States that a resumed run has read are on the
            GPU and are not paged.
        betas, eps: as torch's AdamW.
    """
    from bitsandbytes import optim  # only here: loading it looks for kernels and says what it misses

    made: torch.optim.Optimizer = getattr(optim, CLASSES[kind])(list(groups), betas=betas, eps=eps)
    return made
