"""Attention over a tree row in two calls, whatever the number of groups and branches.

The first call attends within every segment of the row, the second lets the branches of each group attend to their
prefix. Both are exact parts of one softmax and are merged by their log-sum-exps. Nothing is masked, and queries, keys
and values are slices of the row. In the backward pass both calls get the merged output and log-sum-exp, as in ring
attention (arXiv 2310.01889): besides its own logit, the gradient of a key depends on these two alone.

Shapes as in `varlen`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from basereward.model.attention.varlen import Segments, attend, attend_backward


@dataclass(frozen=True)
class Cascade:
    """The two calls of a row.

    Args:
        own: every segment of queries over the keys of its own segment.
        own_keys: where the keys of `own` are in the row.
        shared: the queries of each group's branches over its prefix; None: there are no branches.
        first: the first query of a branch.
        prefixes: keys of all prefixes, which are the first of the row.
    """

    own: Segments
    own_keys: slice | Tensor
    shared: Segments | None
    first: int
    prefixes: int


def row_cascade(trees: Sequence[tuple[int, ...]], *, device: torch.device | str, prefixes: bool = True) -> Cascade:
    """The calls for all tokens of a tree row, or for those of its branches.

    Args:
        trees: for each group, the number of tokens of its prefix and of each of its branches.
        device: of the row.
        prefixes: whether the tokens of prefixes are queries too. They are keys in either case.

    >>> cascade = row_cascade([(3, 1), (2, 1, 2)], device="cpu")
    >>> cascade.own.queries, cascade.shared.queries, cascade.shared.keys
    ((3, 2, 1, 1, 2), (1, 3), (3, 2))
    """
    prefix_sizes, branch_sizes, of_groups = _sizes(trees)
    first = sum(prefix_sizes)
    sizes = (*prefix_sizes, *branch_sizes) if prefixes else branch_sizes
    return Cascade(
        own=Segments.of(sizes, sizes, causal=True, device=device),
        own_keys=slice(0 if prefixes else first, None),
        shared=_shared(of_groups, prefix_sizes, device),
        first=first if prefixes else 0,
        prefixes=first,
    )


def pooled_cascade(
    trees: Sequence[tuple[int, ...]], tokens: Sequence[int], *, device: torch.device | str
) -> Cascade:  # fmt: skip
    """The calls for one token of every branch.

    Args:
        trees: as in `row_cascade`.
        tokens: of each branch, the token that is a query, counted from its first.
        device: of the row.

    >>> cascade = pooled_cascade([(3, 1), (2, 1, 2)], [0, 0, 0], device="cpu")
    >>> cascade.own.keys, cascade.own_keys.tolist(), cascade.shared.queries
    ((1, 1, 1), [5, 6, 7], (1, 2))
    """
    prefix_sizes, branch_sizes, _ = _sizes(trees)
    first = sum(prefix_sizes)
    seen = tuple(token + 1 for token in tokens)
    own_keys: slice | Tensor = slice(first, None)
    if seen != branch_sizes:
        # The keys behind the query are left out.
        columns = []
        start = first
        for size, keys in zip(branch_sizes, seen, strict=True):
            columns.append(torch.arange(start, start + keys))
            start += size
        own_keys = torch.cat(columns).to(device, non_blocking=True)
    return Cascade(
        own=Segments.of((1,) * len(seen), seen, causal=False, device=device),
        own_keys=own_keys,
        shared=_shared([len(branches) for _, *branches in trees], prefix_sizes, device),
        first=0,
        prefixes=first,
    )


def _sizes(trees: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...], list[int]]:
    """Tokens of every prefix, of every branch, and of all branches of every group."""
    branch_sizes: list[int] = []
    of_groups = []
    for _, *branches in trees:
        branch_sizes += branches
        of_groups.append(sum(branches))
    return tuple(prefix for prefix, *_ in trees), tuple(branch_sizes), of_groups


def _shared(queries: Sequence[int], prefixes: Sequence[int], device: torch.device | str) -> Segments | None:
    """The queries of each group's branches over its prefix; None for prompts alone."""
    if not any(queries):
        return None
    return Segments.of(queries, prefixes, causal=False, device=device)


def cascade_attention(query: Tensor, key: Tensor, value: Tensor, cascade: Cascade, scale: float) -> Tensor:
    """Attention over a tree row, differentiable once.

    Args:
        query: `(T, H, D)`, those that the cascade was made for.
        key: `(S, J, D)` of all tokens of the row.
        value: `(S, J, D)` of all tokens of the row.
        cascade: the calls.
        scale: of the logits.

    Returns:
        `(T, H, D)`, in the dtype of autocast where it is enabled.
    """
    device = query.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        # Operators of flash attention stand outside of autocast, and rotary embeddings return float32.
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    out: Tensor = _CascadeFunction.apply(query, key, value, cascade, scale)  # type: ignore[no-untyped-call]
    return out


class _CascadeFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, cascade: Cascade, scale: float) -> Tensor:
        out, lse = attend(query, key[cascade.own_keys], value[cascade.own_keys], cascade.own, scale)
        if cascade.shared is not None:
            first, prefixes = cascade.first, cascade.prefixes
            shared_out, shared_lse = attend(query[first:], key[:prefixes], value[:prefixes], cascade.shared, scale)
            merged = torch.logaddexp(lse[:, first:], shared_lse)
            # (H, T) -> (T, H, 1)
            own_share = (lse[:, first:] - merged).exp().T[..., None]
            shared_share = (shared_lse - merged).exp().T[..., None]
            out[first:] = own_share * out[first:] + shared_share * shared_out
            lse[:, first:] = merged
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.cascade, ctx.scale = cascade, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        cascade: Cascade = ctx.cascade
        grad_out = grads[0].contiguous()
        own_keys, first, prefixes = cascade.own_keys, cascade.first, cascade.prefixes
        grad_query, own_grad_key, own_grad_value = attend_backward(
            grad_out, query, key[own_keys], value[own_keys], out, lse, cascade.own, ctx.scale
        )
        grad_key, grad_value = (
            _of_all_keys(grad, states, own_keys) for grad, states in ((own_grad_key, key), (own_grad_value, value))
        )
        if cascade.shared is not None:
            shared_grad_query, shared_grad_key, shared_grad_value = attend_backward(
                grad_out[first:],
                query[first:],
                key[:prefixes],
                value[:prefixes],
                out[first:],
                lse[:, first:].contiguous(),
                cascade.shared,
                ctx.scale,
            )
            grad_query[first:] += shared_grad_query
            grad_key[:prefixes] += shared_grad_key
            grad_value[:prefixes] += shared_grad_value
        return grad_query, grad_key, grad_value, None, None


def _of_all_keys(grad: Tensor, states: Tensor, own_keys: slice | Tensor) -> Tensor:
    """The gradient of all keys or values from that of `Cascade.own_keys`."""
    if len(grad) == len(states):
        return grad
    whole = torch.zeros_like(states)
    whole[own_keys] = grad
    return whole
