"""Attention of a vision tower over the frames or windows of all images in one call.

transformers gives implementations with "flash" in their name the bounds of the segments; all others it calls once for
every segment.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from basereward.model.attention.cascade import Cascade, cascade_attention
from basereward.model.attention.varlen import Segments, is_available

SEGMENT_ATTENTION = "basereward_flash_segments"


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention without causality within every segment, with the signature of transformers' `AttentionInterface`.

    Args:
        module: the attention layer.
        query, key, value: `(1, H, T, D)`.
        attention_mask: None.
        cu_seq_lens_q: `(N + 1,)` int32, the bounds of the N segments of T tokens.
        max_length_q: tokens of the longest segment.
        scaling: of the logits.
        dropout: on the attention weights.
        kwargs: the same bounds for the keys, and keywords without effect.

    Returns:
        `(1, T, H, D)`, and None in place of the attention weights.
    """
    if dropout or not is_available(query, value):
        # Slow on a GPU, where the sizes have to be read; no kernel for segments takes dropout or float32 there.
        sizes = cu_seq_lens_q.diff().tolist()
        queries, keys, values = (torch.split(states, sizes, dim=2) for states in (query, key, value))
        outputs = []
        for part_query, part_key, part_value in zip(queries, keys, values, strict=True):
            outputs.append(
                scaled_dot_product_attention(part_query, part_key, part_value, dropout_p=dropout, scale=scaling)
            )
        return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None
    segments = Segments.between(cu_seq_lens_q, longest=max_length_q)
    whole = Cascade(own=segments, own_keys=slice(None), shared=None, first=0, prefixes=0)
    # (1, H, T, D) -> (T, H, D)
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    return cascade_attention(q, k, v, whole, scaling)[None], None


def register_segment_attention() -> None:
    """Makes transformers find the attention under the name `SEGMENT_ATTENTION`; calls after the first have no effect.

    >>> register_segment_attention()
    >>> SEGMENT_ATTENTION in AttentionInterface()
    True
    """
    # The registry belongs to the process, and the name is ours alone, so no other model is affected.
    if SEGMENT_ATTENTION not in AttentionInterface():
        AttentionInterface.register(SEGMENT_ATTENTION, segment_attention)
