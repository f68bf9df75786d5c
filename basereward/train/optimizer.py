"""AdamW with a learning rate a part and decay on matrices only, and the shape of the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from basereward.errors import ModelError

Parts = Mapping[str, Sequence[tuple[str, nn.Parameter]]]


def adamw(
    parts: Parts,
    *,
    lr: float,
    lr_by_part: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """The optimizer of a model's trained parts.

    Args:
        parts: trained parameters with their names, by part.
        lr: peak learning rate.
        lr_by_part: peak learning rate of single parts.
        weight_decay: on parameters of two and more axes; biases and norms are not decayed.

    Raises:
        ModelError: nothing is trained, or a part with a learning rate of its own is not trained.
    """
    if not parts:
        raise ModelError("nothing is trained: every part is frozen and the head has no weights")
    idle = sorted(set(lr_by_part or {}) - set(parts))
    if idle:
        raise ModelError(
            f"optimizer.lr_by_part names {', '.join(idle)}, which is not trained; trained parts are "
            f"{', '.join(parts)}. Remove the entry, or take the part out of model.backbone.freeze."
        )
    groups: list[dict[str, Any]] = []
    for part, named in parts.items():
        rate = (lr_by_part or {}).get(part, lr)
        matrices = [parameter for _, parameter in named if parameter.ndim > 1]
        others = [parameter for _, parameter in named if parameter.ndim <= 1]
        groups.append({"params": matrices, "lr": rate, "weight_decay": weight_decay, "part": part})
        groups.append({"params": others, "lr": rate, "weight_decay": 0.0, "part": part})
    return torch.optim.AdamW([g for g in groups if g["params"]], betas=(betas[0], betas[1]), eps=eps)


def schedule(
    optimizer: torch.optim.Optimizer,
    *,
    shape: Literal["constant", "linear", "cosine"],
    steps: int,
    warmup: float = 0.0,
    final: float = 0.0,
) -> LambdaLR:
    """A linear rise to the peak over the share `warmup` of the steps, then `shape` down to the share `final` of
    the peak."""
    return LambdaLR(optimizer, lambda step: share_of_peak(step, shape=shape, steps=steps, warmup=warmup, final=final))


def share_of_peak(
    step: int, *, shape: Literal["constant", "linear", "cosine"], steps: int, warmup: float, final: float
) -> float:
    """The learning rate of a step, counted from 0, as a share of its peak.

    >>> [round(share_of_peak(s, shape="linear", steps=10, warmup=0.2, final=0.0), 3) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if shape == "constant":
        return 1.0
    gone = (step - rising) / max(1, steps - rising)
    left = 1 - gone if shape == "linear" else (1 + math.cos(math.pi * gone)) / 2
    return final + (1 - final) * left
