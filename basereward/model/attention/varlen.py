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
from itertools import accumulate, groupby

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
        causal: whether the i-th query of a segment sees only its first i keys; both then have the same length.
        query_ends: `(N + 1,)` int32, the first token of every segment of queries, and the end of the last.
        key_ends: `(N + 1,)` int32, the first token of every segment of keys, and the end of the last.
        longest_query: tokens of the longest segment of queries.
        longest_key: tokens of the longest segment of keys.

    >>> segments = Segments.of((2, 1), (2, 1), causal=True, device="cpu")
    >>> segments.query_ends.tolist(), segments.queries
    ([0, 2, 3], (2, 1))
    """

    causal: bool
    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], *, causal: bool, device: torch.device | str) -> Segments:
        """Segments with these numbers of queries and of keys, whose bounds are copied to a device without waiting."""
        query_ends = segment_bounds(queries).to(device, non_blocking=True)
        key_ends = query_ends if tuple(queries) == tuple(keys) else segment_bounds(keys).to(device, non_blocking=True)
        return cls(causal, query_ends, key_ends, max(queries), max(keys))

    @classmethod
    def between(cls, ends: Tensor, *, longest: int) -> Segments:
        """Segments over themselves, without causality, from their bounds `(N + 1,)` and the longest of them."""
        return cls(False, ends, ends, longest, longest)

    # Read from the bounds, and only on the host: on a GPU each would wait for the device.

    @cached_property
    def queries(self) -> tuple[int, ...]:
        """Tokens of each segment of queries."""
        return tuple(self.query_ends.diff().tolist())

    @cached_property
    def keys(self) -> tuple[int, ...]:
        """Tokens of each segment of keys."""
        return tuple(self.key_ends.diff().tolist())

    def spans(self) -> Iterator[tuple[slice, slice]]:
        """The queries and the keys of each segment."""
        query = key = 0
        for queries, keys in zip(self.queries, self.keys, strict=True):
            yield slice(query, query + queries), slice(key, key + keys)
            query, key = query + queries, key + keys


def segment_bounds(sizes: Sequence[int]) -> Tensor:
    """The first token of every segment, and the end of the last, `(N + 1,)` int32.

    >>> segment_bounds([2, 1]).tolist()
    [0, 2, 3]
    """
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

    >>> one = Segments.of((1,), (1,), causal=True, device="cpu")
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
    for run in _runs(queries, keys):
        heads, own_keys, own_values = run.heads(query, key, value, causal=causal)
        part, part_lse = CPU_FORWARD(heads, own_keys, own_values, 0.0, causal, scale=scale)
        out[run.queries] = run.rows(part, query.shape[1])
        lse[:, run.queries] = part_lse.reshape(run.number, query.shape[1], -1).transpose(0, 1).flatten(1)
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
    for run in _runs(queries, keys):
        heads, own_keys, own_values = run.heads(query, key, value, causal=causal)
        part_grad, _, _ = run.heads(grad_out, key, value, causal=causal)
        part_out, _, _ = run.heads(out, key, value, causal=causal)
        part_lse = lse[:, run.queries].reshape(lse.shape[0], run.number, -1).transpose(0, 1)
        part_lse = part_lse.reshape(run.number, heads.shape[1], -1).contiguous()
        grads = CPU_BACKWARD(
            part_grad.contiguous(), heads, own_keys, own_values, part_out, part_lse, 0.0, causal, scale=scale
        )
        grad_query[run.queries] = run.rows(grads[0], query.shape[1])
        grad_key[run.keys] = run.rows(_summed(grads[1], key.shape[1]), key.shape[1])
        grad_value[run.keys] = run.rows(_summed(grads[2], key.shape[1]), key.shape[1])
    return grad_query, grad_key, grad_value


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive segments with equal numbers of tokens, which torch's kernel takes as one batch.

    Attributes:
        number: of segments, n.
        queries: their queries.
        keys: their keys.
    """

    number: int
    queries: slice
    keys: slice

    def heads(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as `(n, heads, tokens, D)`, with as many heads of keys as of queries.

        Without causality, all queries of the H / J heads that share a head of keys become queries of that head, and
        no key is copied. With it, keys and values are repeated.
        """
        groups = query.shape[1] // key.shape[1]
        queries, keys, values = (
            states[part].reshape(self.number, -1, *states.shape[1:]).transpose(1, 2)
            for states, part in ((query, self.queries), (key, self.keys), (value, self.keys))
        )
        if groups == 1:
            return queries, keys, values
        if causal:
            return queries, keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
        return queries.reshape(self.number, key.shape[1], -1, queries.shape[-1]), keys, values

    def rows(self, states: Tensor, heads: int) -> Tensor:
        """States `(n, heads, tokens, D)`, grouped or not, as `(all tokens, heads, D)`."""
        return states.reshape(self.number, heads, -1, states.shape[-1]).transpose(1, 2).flatten(0, 1)


def _runs(queries: Sequence[int], keys: Sequence[int]) -> Iterator[_Run]:
    """The segments in as few batches as their order allows.

    >>> [(run.number, run.queries.stop) for run in _runs([2, 2, 3], [2, 2, 3])]
    [(2, 4), (1, 7)]
    """
    query = key = 0
    for (num_queries, num_keys), equal in groupby(zip(queries, keys, strict=True)):
        number = len(list(equal))
        yield _Run(
            number,
            slice(query, query + number * num_queries),
            slice(key, key + number * num_keys),
        )
        query, key = query + number * num_queries, key + number * num_keys


def _summed(grads: Tensor, heads: int) -> Tensor:
    """Gradients of keys or values `(n, H or J, S, D)` as `(n, J, S, D)`: those of repeated heads are added."""
    return grads.reshape(len(grads), heads, -1, *grads.shape[2:]).sum(2)
