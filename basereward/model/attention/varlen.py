"""Attention of many segments of one row in one call.

Results come with their log-sum-exps, so that those over disjoint keys can be merged. `attend` and its gradient
`attend_backward` have three implementations: torch's variable-length flash attention on CUDA
(`torch.nn.attention.varlen`); torch's flash attention for the CPU, segment by segment; and one without values on the
meta device, which gives shapes and counts calls. `attend_dense` is the definition that tests compare them with.

Shapes: H heads of queries, J heads of keys and values (J divides H: grouped-query attention), T tokens of all segments
of queries, S of all segments of keys, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.attention import varlen  # noqa: F401  # registers the operators `torch_attn::_varlen_attn`

CPU_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
CPU_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
CUDA_DTYPES = (torch.float16, torch.bfloat16)
MAX_CUDA_CHANNELS = 256
"""Most channels of a head that flash attention on CUDA takes."""


@dataclass(frozen=True)
class Segments:
    """Consecutive segments of queries and of keys: segment i of the queries attends to segment i of the keys.

    Args:
        queries: tokens of each segment of queries.
        keys: tokens of each segment of keys.
        causal: whether the i-th query of a segment sees only its first i keys; both then have the same length.
        device: of the row.

    >>> segments = Segments((2, 1), (2, 1), causal=True, device=torch.device("cpu"))
    >>> segments.query_ends.tolist(), segments.longest_key
    ([0, 2, 3], 2)
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    causal: bool
    device: torch.device

    # The operators of a GPU read the bounds there; made once for all layers, and copied without waiting for the GPU.

    @cached_property
    def query_ends(self) -> Tensor:
        """`(N + 1,)` int32, the first token of every segment of queries, and the end of the last."""
        return _bounds(self.queries).to(self.device, non_blocking=True)

    @cached_property
    def key_ends(self) -> Tensor:
        """`(N + 1,)` int32, the first token of every segment of keys, and the end of the last."""
        return _bounds(self.keys).to(self.device, non_blocking=True)

    @property
    def longest_query(self) -> int:
        """Tokens of the longest segment of queries."""
        return max(self.queries)

    @property
    def longest_key(self) -> int:
        """Tokens of the longest segment of keys."""
        return max(self.keys)

    def spans(self) -> Iterator[tuple[slice, slice]]:
        """The queries and the keys of each segment."""
        query = key = 0
        for queries, keys in zip(self.queries, self.keys, strict=True):
            yield slice(query, query + queries), slice(key, key + keys)
            query, key = query + queries, key + keys


def _bounds(sizes: Sequence[int]) -> Tensor:
    return torch.tensor([0, *accumulate(sizes)], dtype=torch.int32)


def is_available(query: Tensor, value: Tensor) -> bool:
    """Whether there is an implementation for these queries and values.

    >>> states = torch.zeros(1, 2, 8)
    >>> is_available(states, states), is_available(states, states[..., :4])
    (True, False)
    """
    if query.shape[-1] != value.shape[-1]:
        return False
    if query.device.type == "cuda":
        return query.dtype in CUDA_DTYPES and query.shape[-1] <= MAX_CUDA_CHANNELS
    return query.device.type in ("cpu", "meta")


def attend(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of every segment of queries to its segment of keys.

    Args:
        query: `(T, H, D)`.
        key: `(S, J, D)`.
        value: `(S, J, D)`.
        segments: of the T queries and the S keys.
        scale: of the logits.

    Returns:
        `out`, `(T, H, D)`; `lse`, `(H, T)`, the logarithm of the sum of the exponentials of each query's logits.

    >>> one = Segments((1,), (1,), causal=True, device=torch.device("cpu"))
    >>> out, lse = attend(torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.ones(1, 1, 2), one, 0.5)
    >>> out.tolist(), lse.tolist()
    ([[[1.0, 1.0]]], [[1.0]])
    """
    if query.device.type == "cpu":
        out, lse = _cpu(query, key, value, segments.queries, segments.keys, segments.causal, scale)
        return out, lse
    out, lse, _ = torch.ops.torch_attn._varlen_attn(
        query,
        key,
        value,
        segments.query_ends,
        segments.key_ends,
        segments.longest_query,
        segments.longest_key,
        segments.causal,
        scale,
        enable_gqa=True,
    )
    return out, lse


def attend_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    segments: Segments,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `attend` with respect to queries, keys and values.

    Args:
        grad_out: `(T, H, D)`, the gradient of the output.
        query, key, value: as in `attend`.
        out, lse: of `attend`; or, when the queries also attend to other keys, those of all their keys together. The
            gradients are then those of the whole attention with respect to these keys, and their shares of the
            gradient of the queries.
        segments, scale: as in `attend`.
    """
    if query.device.type == "cpu":
        grads: tuple[Tensor, Tensor, Tensor] = _cpu_backward(
            grad_out, query, key, value, out, lse, segments.queries, segments.keys, segments.causal, scale
        )
        return grads
    grads = torch.ops.torch_attn._varlen_attn_backward(
        grad_out,
        query,
        key,
        value,
        out,
        lse,
        segments.query_ends,
        segments.key_ends,
        segments.longest_query,
        segments.longest_key,
        segments.causal,
        # The state of the random numbers of dropout, which there is none of.
        torch.zeros(2, dtype=torch.uint64, device=query.device),
        scale,
    )
    return grads


def attend_dense(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
    """`attend` by its definition, with one matrix of all logits of a segment; differentiable by autograd."""
    groups = query.shape[1] // key.shape[1]
    outs, lses = [], []
    for queries, keys in segments.spans():
        heads = query[queries].transpose(0, 1)  # (H, T, D)
        own_keys, own_values = (
            states[keys].transpose(0, 1).repeat_interleave(groups, dim=0) for states in (key, value)
        )
        logits = heads @ own_keys.transpose(1, 2) * scale
        if segments.causal:
            later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
            logits = logits.masked_fill(later, float("-inf"))
        lses.append(logits.logsumexp(-1))
        outs.append((logits.softmax(-1) @ own_values).transpose(0, 1))
    return torch.cat(outs), torch.cat(lses, dim=1)


# Operators of our own and not functions: a counter of operators then sees one call, as on a GPU, whatever is computed
# inside. Lists of sizes and not tensors: a loop over the segments would read every bound from a tensor.


@torch.library.custom_op("basereward::varlen_cpu", mutates_args=(), device_types="cpu")
def _cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Sequence[int],
    keys: Sequence[int],
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    out = torch.empty(query.shape, dtype=query.dtype)
    lse = torch.empty(query.shape[1], query.shape[0], dtype=torch.promote_types(query.dtype, torch.float32))
    for own, others in _spans(queries, keys):
        heads, own_keys, own_values = _grouped(query[own], key[others], value[others], causal=causal)
        part, part_lse = CPU_FORWARD(heads, own_keys, own_values, 0.0, causal, scale=scale)
        out[own] = _ungrouped(part, query.shape[1])
        lse[:, own] = part_lse.reshape(query.shape[1], -1)
    return out, lse


@torch.library.custom_op("basereward::varlen_cpu_backward", mutates_args=(), device_types="cpu")
def _cpu_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    queries: Sequence[int],
    keys: Sequence[int],
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_query, grad_key, grad_value = (torch.empty(states.shape, dtype=states.dtype) for states in (query, key, value))
    heads_of_keys = key.shape[1]
    for own, others in _spans(queries, keys):
        heads, own_keys, own_values = _grouped(query[own], key[others], value[others], causal=causal)
        part_grad, part_out = (
            _grouped(states[own], key[others], value[others], causal=causal)[0] for states in (grad_out, out)
        )
        part_lse = lse[:, own].reshape(1, heads.shape[1], -1).contiguous()
        grads = CPU_BACKWARD(
            part_grad.contiguous(), heads, own_keys, own_values, part_out, part_lse, 0.0, causal, scale=scale
        )
        grad_query[own] = _ungrouped(grads[0], query.shape[1])
        grad_key[others] = _summed(grads[1], heads_of_keys)
        grad_value[others] = _summed(grads[2], heads_of_keys)
    return grad_query, grad_key, grad_value


def _spans(queries: Sequence[int], keys: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    query = key = 0
    for num_queries, num_keys in zip(queries, keys, strict=True):
        yield slice(query, query + num_queries), slice(key, key + num_keys)
        query, key = query + num_queries, key + num_keys


def _grouped(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as `(1, heads, tokens, D)` with as many heads of keys as of queries.

    Without causality all queries of the H / J heads that share a head of keys are queries of that head; nothing is
    copied. With it, keys and values are repeated.
    """
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return query.transpose(0, 1)[None], key.transpose(0, 1)[None], value.transpose(0, 1)[None]
    if causal:
        repeated = (states.transpose(0, 1).repeat_interleave(groups, dim=0)[None] for states in (key, value))
        return query.transpose(0, 1)[None], *repeated  # type: ignore[return-value]
    tokens, heads, channels = query.shape
    folded = query.transpose(0, 1).reshape(1, heads // groups, groups * tokens, channels)
    return folded, key.transpose(0, 1)[None], value.transpose(0, 1)[None]


def _ungrouped(states: Tensor, heads: int) -> Tensor:
    """Results of queries `(1, heads, tokens, D)`, grouped or not, as `(T, H, D)`."""
    return states.reshape(heads, -1, states.shape[-1]).transpose(0, 1)


def _summed(grads: Tensor, heads: int) -> Tensor:
    """Gradients of keys or values `(1, H or J, S, D)` as `(S, J, D)`: those of repeated heads are added."""
    return grads.reshape(heads, -1, *grads.shape[2:]).sum(1).transpose(0, 1)
