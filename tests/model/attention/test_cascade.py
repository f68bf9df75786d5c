"""The two calls of a tree row equal attention by its definition, with a mask of the whole row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from basereward.data.batching.tree_batch import row_segments
from basereward.model.attention.cascade import Cascade, cascade_attention, pooled_cascade, row_cascade
from basereward.model.attention.varlen import Segments, attend, attend_dense

ROWS = {
    "one pair": [(7, 3, 5)],
    "one response": [(4, 6)],
    "sixteen very unequal responses": [(9, *range(1, 48, 3))],
    "several groups": [(5, 2, 1), (1, 1), (12, 3, 30, 2), (2, 4, 4)],
    "short prefixes": [(1, 20, 33), (1, 1)],
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def seen(trees: list[tuple[int, ...]]) -> Tensor:
    """Return the mask `(T, T)` of a tree row: true where a query sees a key."""
    segments = list(row_segments(trees))
    length = segments[-1].columns.stop
    mask = torch.zeros(length, length, dtype=torch.bool)
    for query in segments:
        size = query.columns.stop - query.columns.start
        mask[query.columns, query.columns] = torch.ones(size, size, dtype=torch.bool).tril()
        if query.branch:
            mask[query.columns, segments[query.group].columns] = True
    return mask


def masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention by its definition, `(T, H, D)`."""
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    logits = torch.einsum("thd,shd->hts", query, key) * scale
    weights = logits.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("hts,shd->thd", weights, value)


def states(length: int, heads: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    """Return queries, keys and values with gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(length, heads[0], 16), (length, heads[1], 16), (length, heads[1], 16)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in made]


def compare(actual: Tensor, expected: Tensor, inputs: list[Tensor], truths: list[Tensor], *, limit: float) -> None:
    """Compare outputs and gradients."""
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(actual.shape, generator=generator, dtype=torch.float64)
    actual.backward(grad.to(actual.dtype))
    expected.backward(grad.to(expected.dtype))
    assert (actual - expected).abs().max() <= limit * expected.abs().max()
    for got, truth in zip(inputs, truths, strict=True):
        assert got.grad is not None
        assert truth.grad is not None
        assert (got.grad - truth.grad).abs().max() <= limit * truth.grad.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("name", ROWS)
def test_cascade_equals_masked_attention(name: str, heads: tuple[int, int], dtype: torch.dtype) -> None:
    """Outputs and gradients, with and without grouped queries."""
    trees = ROWS[name]
    mask = seen(trees)
    inputs = states(len(mask), heads, dtype)
    truths = [tensor.detach().double().requires_grad_() for tensor in inputs]
    actual = cascade_attention(*inputs, row_cascade(trees, device="cpu"), 0.3)
    compare(actual, masked(*truths, mask, 0.3), inputs, truths, limit=TOLERANCE[dtype])


@pytest.mark.parametrize("name", ROWS)
def test_branches_alone_see_their_prefix(name: str) -> None:
    """Queries of branches only: the keys of the prefixes are there, from a cache or because nothing reads the rest."""
    trees = ROWS[name]
    mask = seen(trees)
    first = sum(prefix for prefix, *_ in trees)
    inputs = states(len(mask), (4, 2), torch.float64)
    truths = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    actual = cascade_attention(inputs[0][first:], *inputs[1:], row_cascade(trees, device="cpu", prefixes=False), 0.3)
    expected = masked(truths[0][first:], truths[1], truths[2], mask[first:], 0.3)
    compare(actual, expected, inputs, truths, limit=1e-12)


@pytest.mark.parametrize("before_last", [0, 1])
@pytest.mark.parametrize("name", ROWS)
def test_pooled_tokens(name: str, before_last: int) -> None:
    """One token of each branch: the last, or the one before it."""
    trees = ROWS[name]
    mask = seen(trees)
    sizes = [segment.columns for segment in row_segments(trees) if segment.branch]
    tokens = [max(columns.stop - columns.start - 1 - before_last, 0) for columns in sizes]
    places = torch.tensor([columns.start + token for columns, token in zip(sizes, tokens, strict=True)])
    inputs = states(len(mask), (4, 2), torch.float64)
    truths = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    cascade = pooled_cascade(trees, tokens, device="cpu")
    actual = cascade_attention(inputs[0][places], *inputs[1:], cascade, 0.3)
    expected = masked(truths[0][places], truths[1], truths[2], mask[places], 0.3)
    compare(actual, expected, inputs, truths, limit=1e-12)


def test_attend_equals_its_definition() -> None:
    """Output and log-sum-exp of the CPU's operator are those of the dense definition."""
    query, key, value = (tensor.detach() for tensor in states(9, (4, 2), torch.float64))
    for causal, keys in ((True, (2, 3, 4)), (False, (4, 4, 1))):
        segments = Segments.of((2, 3, 4), keys, causal=causal, device="cpu")
        for actual, expected in zip(
            attend(query, key, value, segments, 0.2), attend_dense(query, key, value, segments, 0.2), strict=True
        ):
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_prompts_alone() -> None:
    """A row without branches, as it fills a cache, has one call."""
    cascade = row_cascade([(4,), (3,)], device="cpu")
    assert cascade.shared is None
    inputs = [tensor.detach() for tensor in states(7, (2, 2), torch.float64)]
    expected = masked(*inputs, torch.block_diag(torch.ones(4, 4).tril(), torch.ones(3, 3).tril()).bool(), 0.3)
    torch.testing.assert_close(cascade_attention(*inputs, cascade, 0.3), expected, rtol=1e-12, atol=1e-12)


class Counted(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Count one call."""
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_number_of_calls_depends_on_nothing(device: str) -> None:
    """Two, eight and thirty-two groups of four responses take the same number of operators, forward and backward."""
    counts = set()
    for num_groups in (2, 8, 32):
        trees = [(6, 3, 1, 2, 5)] * num_groups
        made: list[Tensor] = [
            torch.randn(17 * num_groups, heads, 16, device=device, requires_grad=True) for heads in (28, 4, 4)
        ]
        cascade: Cascade = row_cascade(trees, device=device)
        assert cascade.shared is not None
        bounds = [cascade.own.query_ends, cascade.own.key_ends, cascade.shared.query_ends, cascade.shared.key_ends]
        assert all(len(bound) > 1 for bound in bounds)
        with Counted() as counted:
            cascade_attention(*made, cascade, 0.3).sum().backward()
        counts.add(counted.calls)
    assert len(counts) == 1
