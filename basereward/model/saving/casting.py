"""Casts the weights of a loaded backbone to another precision."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from basereward.errors import ModelError, unknown
from basereward.model.backbone import Backbone, fingerprint
from basereward.model.saving.identity import precision_text

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def find_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        ModelError: there is no such dtype.

    >>> find_dtype("bfloat16")
    torch.bfloat16
    """
    if name not in DTYPES:
        raise ModelError(unknown("dtype", name, DTYPES))
    return DTYPES[name]


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
    origin = backbone.origin
    hashes = {**origin.hashes, "precision": precision_text(dtype, None)} if origin.hashes else {}
    backbone.origin = replace(origin, fingerprint=fingerprint(backbone.transformer), hashes=hashes)


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts the weights but not the buffers: frequencies of rotary positions must stay in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
