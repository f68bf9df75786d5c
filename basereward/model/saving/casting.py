"""Casts the weights of a loaded backbone to another precision."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from basereward.errors import ModelError, unknown
from basereward.model.backbone import Backbone, fingerprint
from basereward.model.saving.identity import precision_text

# Not float16: its largest number is 65504, and weights that were trained in bfloat16 may be larger.
TARGET_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def find_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        ModelError: there is no such dtype.

    >>> find_dtype("bfloat16")
    torch.bfloat16
    """
    if name not in TARGET_DTYPES:
        raise ModelError(unknown("dtype", name, TARGET_DTYPES))
    return TARGET_DTYPES[name]


def cast_backbone(backbone: Backbone, dtype: torch.dtype) -> None:
    """Casts the weights of a backbone without adapters, with the same result as loading it with this dtype.

    Raises:
        ModelError: the weights are quantised.
    """
    if backbone.quantization is not None:
        raise ModelError(
            f"the backbone's weights are quantised ({backbone.quantization}) and cannot be cast to "
            f"{str(dtype).removeprefix('torch.')}. Leave dtype out."
        )
    cast(backbone.transformer, dtype)
    # The identity must be that of a backbone which was loaded in this precision, because saved models compare it.
    origin = backbone.origin
    hashes = {**origin.hashes, "precision": precision_text(dtype, None)} if origin.hashes else {}
    backbone.origin = replace(origin, fingerprint=fingerprint(backbone.transformer), hashes=hashes)


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts the weights but not the buffers: frequencies of rotary positions must stay in float32.

    >>> norm = nn.BatchNorm1d(2)
    >>> cast(norm, torch.bfloat16)
    >>> norm.weight.dtype, norm.running_mean.dtype
    (torch.bfloat16, torch.float32)
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
