"""AdamW with a learning rate per part of the model and weight decay on matrices only; the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from basereward.errors import ModelError
from basereward.training.bfloat16_adamw import FUSED, Bfloat16AdamW, Bfloat16Update
from basereward.training.compact_adamw import CompactKind, compact_adamw

Parts = Mapping[str, Sequence[tuple[str, nn.Parameter]]]
"""Trained parameters with their names, by part of the model: vision, merger, language, head."""
OptimizerKind = Literal["adamw"] | CompactKind


def adamw(
    parts: Parts,
    *,
    kind: OptimizerKind = "adamw",
    lr: float,
    lr_by_part: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    bfloat16: Bfloat16Update = "nearest",
) -> torch.optim.Optimizer:
    """Build the optimizer of a model's trained parts.

    Args:
        parts: trained parameters, on the device where they are trained.
        kind: `adamw` of torch, or one of `compact_adamw`.
        lr: peak learning rate.
        lr_by_part: peak learning rates of single parts.
        weight_decay: of parameters with two or more axes; biases and norms are not decayed.
        betas: decay rates of the two states.
        eps: added to the denominator.
        bfloat16: how weights in bfloat16 are updated; see `Bfloat16AdamW`. `nearest`: as by torch.

    Raises:
        ModelError: nothing is trained, a part with its own learning rate is not trained, `kind` needs a GPU, or
            `bfloat16` is set and no trained weight is in bfloat16.

    >>> optimizer = adamw({"head": list(nn.Linear(2, 1).named_parameters())}, lr=1e-3, weight_decay=0.1)
    >>> [(group["part"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    [('head', 0.001, 0.1), ('head', 0.001, 0.0)]
    """
    # Before any state is allocated: the two states take 8 bytes per weight.
    check_parts(parts, lr_by_part or {})
    groups: list[dict[str, Any]] = []
    devices: set[str] = set()
    if bfloat16 != "nearest":
        check_bfloat16(parts, bfloat16)
    for part, named in parts.items():
        groups += _parameter_groups(part, named, lr=(lr_by_part or {}).get(part, lr), weight_decay=weight_decay)
        devices |= {parameter.device.type for _, parameter in named}
    if kind != "adamw":
        check_kind(kind, devices=devices)
        return compact_adamw(groups, kind=kind, betas=(betas[0], betas[1]), eps=eps)
    if bfloat16 != "nearest":
        return Bfloat16AdamW(groups, update=bfloat16, betas=(betas[0], betas[1]), eps=eps)
    # The fused kernel passes over weights, gradients and states once instead of ten times. On two cores a step of 12
    # million LoRA weights takes 17 ms, with torch's loop over tensors 61 ms, with `foreach` 78 ms. Its bits do not
    # depend on the number of threads.
    fused = devices <= set(FUSED)
    return torch.optim.AdamW(groups, betas=(betas[0], betas[1]), eps=eps, fused=fused)


def check_parts(parts: Parts, lr_by_part: Mapping[str, float]) -> None:
    """Check that something is trained, and every part with a learning rate of its own.

    Args:
        parts: trained parameters by part.
        lr_by_part: peak learning rates of single parts.

    Raises:
        ModelError: nothing is trained, or a part of `lr_by_part` is not.

    >>> check_parts({"head": []}, {"vision": 1e-5})
    Traceback (most recent call last):
    basereward.errors.ModelError: optimizer.lr_by_part names vision, which is not trained; trained parts are head. ...
    """
    if not parts:
        raise ModelError("nothing is trained: every part is frozen and the head has no weights")
    not_trained = sorted(set(lr_by_part) - set(parts))
    if not_trained:
        raise ModelError(
            f"optimizer.lr_by_part names {', '.join(not_trained)}, which is not trained; trained parts are "
            f"{', '.join(parts)}. Remove the entry, or remove the part from model.backbone.freeze."
        )


def check_bfloat16(parts: Parts, update: Bfloat16Update) -> None:
    """Check that a trained weight is in bfloat16.

    Args:
        parts: trained parameters by part.
        update: `optimizer.bfloat16` of the recipe.

    Raises:
        ModelError: none is.

    >>> check_bfloat16({"head": list(nn.Linear(2, 1).named_parameters())}, "master")
    Traceback (most recent call last):
    basereward.errors.ModelError: optimizer.bfloat16 is 'master', and no trained weight is in bfloat16...
    """
    for named in parts.values():
        if any(parameter.dtype == torch.bfloat16 for _, parameter in named):
            return
    raise ModelError(
        f"optimizer.bfloat16 is '{update}', and no trained weight is in bfloat16: head and adapters are in float32. "
        "Set model.backbone.dtype=bfloat16 and train the backbone's own weights, or optimizer.bfloat16=nearest."
    )


def _parameter_groups(
    part: str, named: Sequence[tuple[str, nn.Parameter]], *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The parameter groups of a part: matrices with weight decay, other parameters without; empty ones are left out."""
    # Decay pulls towards 0, which is no sensible value of the scale of a norm, and a bias cannot overfit much.
    matrices = [parameter for _, parameter in named if parameter.ndim > 1]
    others = [parameter for _, parameter in named if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "lr": lr, "weight_decay": weight_decay, "part": part},
        {"params": others, "lr": lr, "weight_decay": 0.0, "part": part},
    ]
    return [group for group in groups if group["params"]]


def check_kind(kind: OptimizerKind, *, devices: Iterable[str]) -> None:
    """Check that an optimizer runs on the devices of the weights.

    Args:
        kind: of the optimizer.
        devices: types of torch devices.

    Raises:
        ModelError: a paged optimizer, and a device that is not an NVIDIA GPU.

    >>> check_kind("adamw_8bit", devices=["cpu"])
    >>> check_kind("paged_adamw", devices=["cpu"])
    Traceback (most recent call last):
    basereward.errors.ModelError: ...
    """
    other_devices = sorted(set(devices) - {"cuda"})
    if kind.startswith("paged_") and other_devices:
        raise ModelError(
            f"optimizer.kind is '{kind}', which moves its states between an NVIDIA GPU and the host, and this run "
            f"trains on: {', '.join(other_devices)}. Allowed there: adamw, adamw_8bit."
        )


def schedule(
    optimizer: torch.optim.Optimizer,
    *,
    shape: Literal["constant", "linear", "cosine"],
    steps: int,
    warmup: float = 0.0,
    final: float = 0.0,
) -> LambdaLR:
    """Build the learning-rate schedule: a linear warm-up, then a decay.

    Args:
        optimizer: its learning rates are the peaks.
        shape: of the decay.
        steps: optimizer steps of the run.
        warmup: share of the steps in which the rate rises to the peak.
        final: rate after the last step, as a share of the peak.

    >>> optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-3)
    >>> schedule(optimizer, shape="linear", steps=10, warmup=0.2).get_last_lr()
    [0.0005]
    """
    return LambdaLR(optimizer, lambda step: share_of_peak(step, shape=shape, steps=steps, warmup=warmup, final=final))


def share_of_peak(
    step: int, *, shape: Literal["constant", "linear", "cosine"], steps: int, warmup: float, final: float
) -> float:
    """The learning rate of a step as a share of its peak; see `schedule`. Steps count from 0.

    >>> [round(share_of_peak(s, shape="linear", steps=10, warmup=0.2, final=0.0), 3) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    warmup_steps = round(warmup * steps)
    if step < warmup_steps:
        # Not step / warmup_steps, which would waste the first step on a rate of 0.
        return (step + 1) / warmup_steps
    if shape == "constant":
        return 1.0
    # `max`: the scheduler asks for one more rate after the last step, when a run is all warm-up.
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    decayed = 1 - progress if shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return final + (1 - final) * decayed
