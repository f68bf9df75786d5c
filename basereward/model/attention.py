"""Attention over tree rows, plugged in through transformers' attention interface.

A dense mask and torch's scaled-dot-product attention: right for every layout, and the reference for any faster kernel
that takes the name's place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TREE_ATTENTION = "basereward_tree"

AttentionInterface.register(TREE_ATTENTION, sdpa_attention_forward)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)


def tree_mask(group: Tensor, branch: Tensor) -> Tensor:
    """Who sees whom in tree rows.

    Args:
        group: index of each token's group, shape `(R, T)`, -1 for padding.
        branch: 0 in a prefix, k in the k-th branch, shape `(R, T)`.

    Returns:
        bool, shape `(R, 1, T, T)`: `[r, 0, i, j]` is whether token i sees token j. Padding sees padding before it, so
        that no row of the softmax is empty.

    >>> tree_mask(torch.tensor([[0, 0, 0]]), torch.tensor([[0, 1, 2]]))[0, 0].int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [1, 0, 1]], dtype=torch.int32)
    """
    length = group.shape[1]
    not_later = torch.ones(length, length, dtype=torch.bool, device=group.device).tril()
    same_group = group[:, :, None] == group[:, None, :]
    visible = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return (not_later & same_group & visible)[:, None]
