"""AdamW with a learning rate a part and decay on matrices only, and the shape of the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from basereward.errors import ModelError
from basereward.training.compact_adamw import CompactKind, compact_adamw

Parts = Mapping[str, Sequence[tuple[str, nn.Parameter]]]
OptimizerKind = Literal["adamw"] | CompactKind
FUSED = {"cpu", "cuda"}  # devices where torch has AdamW in one kernel that is tested here


def adamw(
    parts: Parts,
    *,
    kind: OptimizerKind = "adamw",
    lr: float,
    lr_by_part: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """The optimizer of a model's trained parts.

    Args:
        parts: trained parameters with their names, by part, where they are trained.
        kind: `adamw` is torch's; the others are those of `compact_adamw`.
        lr: peak learning rate.
        lr_by_part: peak learning rate of single parts.
        weight_decay: on parameters of two and more axes; biases and norms are not decayed.

    Raises:
        ModelError: nothing is trained, a part with a learning rate of its own is not trained, or the kind needs a GPU.
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
    groups = [group for group in groups if group["params"]]
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    if kind != "adamw":
        check_kind(kind, devices=devices)
        return compact_adamw(groups, kind=kind, betas=(betas[0], betas[1]), eps=eps)
    # One pass over weights, gradients and states in place of ten: on two cores a step of LoRA's 12 million weights
    # takes 17 ms, where torch's loop over tensors takes 61 and its lists of tensors 78. Its bits repeat, whatever the
    # number of threads.
    fused = devices <= FUSED
    return torch.optim.AdamW(groups, betas=(betas[0], betas[1]), eps=eps, fused=fused)


def check_kind(kind: OptimizerKind, *, devices: Iterable[str]) -> None:
    """Refuses what cannot run where the weights are.

    Raises:
        ModelError: states are paged only between an NVIDIA GPU and its host.
    """
    elsewhere = sorted(set(devices) - {"cuda"})
    if kind.startswith("paged_") and elsewhere:
        raise ModelError(
            f"optimizer.kind is '{kind}', which moves its states between an NVIDIA GPU and the host, and this run "
            f"trains on: {', '.join(elsewhere)}. Allowed there: adamw, adamw_8bit."
        )


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
