"""Attention over tree rows, plugged in through transformers' attention and mask interfaces.

Its cost follows the tokens that may see each other: one call over every prefix, and one over every few branches, which
see their prefix and themselves. No mask of the whole row is made, so groups in one row cost no more than apart.

Which tokens a layer lets a token see (all earlier ones, a sliding window, a chunk) is not read from the configuration:
transformers hands the mask function of every layer to the mask interface, and it is applied to a token's place in its
own sequence, prefix and branch, as in a plain row. A mask function or a keyword that is not known is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from inspect import getclosurevars
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    chunked_overlay,
    sdpa_mask,
    sliding_window_overlay,
)

from basereward.errors import ModelError
from basereward.model.pooling import LAST, Pooling

TREE_ATTENTION = "basereward_tree"

# Short branches of one prefix share a call, each blind to the others; beyond so many tokens the pairs that see nothing
# of each other cost more than another call.
SHARED_CALL = 256

# Keywords that change no number here: what they say is in the mask, in the states, or asks for other outputs.
WITHOUT_EFFECT = frozenset(
    "sliding_window position_ids position_embeddings cache_position use_cache past_key_values output_attentions "
    "output_hidden_states output_router_logits return_dict logits_to_keep layer_idx".split()
)

_plan: ContextVar[TreePlan | None] = ContextVar("_plan", default=None)  # of the forward pass in this thread


@dataclass(frozen=True, slots=True)
class Limit:
    """How far back a token sees: `window` tokens with itself, or to the first token of its `chunk`."""

    window: int | None = None
    chunk: int | None = None

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether tokens at places `query` may see those at places `key`; the two shapes are broadcast.

        >>> Limit(window=2).allows(torch.tensor([[3]]), torch.arange(4)).tolist()
        [[False, False, True, True]]
        >>> Limit(chunk=2).allows(torch.tensor([[3]]), torch.arange(4)).tolist()
        [[False, False, True, True]]
        """
        seen = key == key if self.window is None else key > query - self.window
        return seen if self.chunk is None else seen & (key // self.chunk == query // self.chunk)

    def reaches(self, length: int) -> bool:
        """Whether every token of a sequence sees all earlier ones."""
        return length <= min(size for size in (self.window, self.chunk, length) if size is not None)


NO_LIMIT = Limit()


@dataclass(frozen=True, slots=True)
class LayerMask:
    """Stands for a layer's attention mask on its way through the model in tree rows."""

    limit: Limit
    plan: TreePlan


def read_limit(mask_function: Callable[..., Any]) -> Limit:
    """The limit that a mask function of transformers sets beside causality.

    Raises:
        ModelError: it is not causal, or not made of causality, sliding windows and chunks.

    >>> read_limit(and_masks(sliding_window_overlay(4), causal_mask_function))
    Limit(window=4, chunk=None)
    """
    window, chunk, causal = None, None, False
    todo = [mask_function]
    while todo:
        function: Any = todo.pop()
        held = getclosurevars(function).nonlocals
        if function is causal_mask_function:
            causal = True
        elif function.__code__ is and_masks(function).__code__:
            todo += held["mask_functions"]
        elif function.__code__ is sliding_window_overlay(1).__code__:
            window = min(held["sliding_window"], window or held["sliding_window"])
        elif function.__code__ is chunked_overlay(1, torch.zeros(1)).__code__ and chunk in (None, held["chunk_size"]):
            chunk = held["chunk_size"]
        else:
            raise ModelError(f"layers use the mask {function.__qualname__}, which tree rows do not implement")
    if not causal:
        raise ModelError("layers let tokens see later ones (bidirectional attention)")
    return Limit(window, chunk)


@contextlib.contextmanager
def tree_masks(plan: TreePlan | None) -> Iterator[None]:
    """While it lasts, the masks that transformers makes in this thread are those of tree rows; None: of plain rows.

    They are made before the first layer, and go to every layer and to what gradient checkpointing computes again.
    """
    token = _plan.set(plan)
    try:
        yield
    finally:
        _plan.reset(token)


def tree_mask(*, mask_function: Callable[..., Any] = causal_mask_function, **kwargs: Any) -> Any:
    """The mask of one kind of layer, as transformers' mask interface asks for it: `LayerMask` in tree rows, else what
    torch's scaled dot-product attention takes."""
    plan = _plan.get()
    if plan is None:
        return sdpa_mask(mask_function=mask_function, **kwargs)
    return LayerMask(read_limit(mask_function), plan)


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of the row that attend in one call."""

    tokens: int
    places: Tensor  # (tokens,): of each in its own sequence, which begins with the prefix
    prefix: int | None = None  # the piece that they see whole; None: they are a prefix, and see what is not later
    mask: Tensor | None = None  # (tokens, tokens of the prefix + tokens), true where one sees the other


@dataclass(frozen=True, slots=True)
class Read:
    """The tokens that are read of the branches of one tree, one of each, which attend in one call."""

    row: range  # the tree in the row
    columns: Tensor  # (K,), counted from the tree's first token
    mask: Tensor  # (K, tokens of the tree), true where one sees the other
    places: Tensor  # (K,): of each in its own sequence
    seen: Tensor  # (tokens of the tree,): places of all tokens


@dataclass
class RowPlan:
    """What the layers of one forward pass are told; it goes to them as the keyword `rows`.

    Args:
        pooled: `(N,)` places in the flattened `(R * T)` tokens of the rows, for which the last layer works alone; None:
            it works for all tokens.
    """

    pooled: Tensor | None = None


class TreePlan(RowPlan):
    """The calls that attention over a tree row takes, in the order of its tokens.

    Args:
        trees: for every group in the row the tokens of its prefix, then of each of its branches.
        device: where the row is.
        restricted: index of the layer that attends for the pooled tokens alone; None: no layer does.
        pooling: which they are.
        pooled: as of `RowPlan`.
        cached: the row is the branches of one tree, whose prefix comes before them out of a cache of keys and values.
    """

    def __init__(
        self,
        trees: Sequence[tuple[int, ...]],
        *,
        device: torch.device | str,
        restricted: int | None = None,
        pooling: Pooling = LAST,
        pooled: Tensor | None = None,
        cached: bool = False,
    ) -> None:
        super().__init__(pooled)
        self.trees = list(trees)
        self.device = device
        self.restricted = restricted
        self.pooling = pooling
        self.cached = cached
        self.pieces: list[Piece] = []
        for prefix, *branches in trees:
            at = len(self.pieces)
            self.pieces.append(Piece(prefix, torch.arange(prefix)))
            for shared in _shared(branches):
                mask = branch_mask(prefix, shared, device=device)
                self.pieces.append(Piece(len(mask), _places(prefix, shared), at, mask))
        self.sizes = [piece.tokens for piece in self.pieces]
        self.longest = max(prefix + max(branches, default=0) for prefix, *branches in trees)
        self._masks: dict[Limit, list[Tensor | None]] = {}

    @cached_property
    def read(self) -> list[Read]:
        """The tokens that are read, tree by tree, where it is one of every branch."""
        read, first = [], 0
        for prefix, *branches in self.trees:
            tokens = [self.pooling.read(size)[0] for size in branches]
            row = range(first, first + prefix + sum(branches))
            columns, mask = _read_mask(prefix, branches, tokens, self.device)
            seen = torch.cat([torch.arange(prefix), _places(prefix, branches)]).to(self.device, non_blocking=True)
            places = torch.tensor([prefix + token for token in tokens]).to(self.device, non_blocking=True)
            read.append(Read(row, columns, mask, places, seen))
            first = row.stop
        return read

    def masks(self, limit: Limit) -> list[Tensor | None]:
        """The mask of every piece in layers with a limit; None for a prefix that sees all that is not later."""
        if limit.reaches(self.longest):
            return [piece.mask for piece in self.pieces]
        if limit not in self._masks:
            self._masks[limit] = [self._limited(piece, limit) for piece in self.pieces]
        return self._masks[limit]

    def read_masks(self, limit: Limit) -> list[Tensor]:
        """The mask `(K, tokens of the tree)` of the tokens that are read, tree by tree, in layers with a limit."""
        if limit.reaches(self.longest):
            return [each.mask for each in self.read]
        return [each.mask & limit.allows(each.places[:, None], each.seen) for each in self.read]

    def _limited(self, piece: Piece, limit: Limit) -> Tensor | None:
        places = piece.places.to(self.device, non_blocking=True)
        if piece.prefix is None:
            if limit.reaches(piece.tokens):
                return None
            return (places <= places[:, None]) & limit.allows(places[:, None], places)
        assert piece.mask is not None
        prefix = torch.arange(self.sizes[piece.prefix]).to(self.device, non_blocking=True)
        return piece.mask & limit.allows(places[:, None], torch.cat([prefix, places]))


def branch_mask(prefix: int, branches: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
    """Who sees whom when branches of one prefix attend together.

    Args:
        prefix: its tokens.
        branches: tokens of each.

    Returns:
        bool, shape `(S, prefix + S)` with S the tokens of all the branches.

    >>> branch_mask(1, [1, 2]).int()
    tensor([[1, 1, 0, 0],
            [1, 0, 1, 0],
            [1, 0, 1, 1]], dtype=torch.int32)
    """
    blocks = [torch.ones(size, size, dtype=torch.bool).tril() for size in branches]
    own = torch.block_diag(*blocks).bool()  # type: ignore[no-untyped-call]
    return torch.cat([own.new_ones(len(own), prefix), own], dim=1).to(device, non_blocking=True)


def _read_mask(
    prefix: int, branches: Sequence[int], tokens: Sequence[int], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Where a token of every branch, counted from the branch's first, is in the tree, `(K,)`, and what it sees there.

    >>> columns, mask = _read_mask(1, [1, 3], [0, 1], "cpu")
    >>> columns.tolist(), mask.int().tolist()
    ([1, 3], [[1, 1, 0, 0, 0], [1, 0, 1, 1, 0]])
    """
    sizes = torch.tensor(branches)
    columns = sizes.cumsum(0) - sizes + torch.tensor(tokens)
    own = torch.repeat_interleave(torch.eye(len(branches), dtype=torch.bool), sizes, dim=1)
    own &= torch.arange(sum(branches)) <= columns[:, None]
    mask = torch.cat([own.new_ones(len(branches), prefix), own], dim=1)
    return (columns + prefix).to(device, non_blocking=True), mask.to(device, non_blocking=True)


def _places(prefix: int, branches: Sequence[int]) -> Tensor:
    """Places of the tokens of branches in their own sequences, which begin with the prefix.

    >>> _places(3, [2, 1]).tolist()
    [3, 4, 3]
    """
    return torch.cat([torch.arange(prefix, prefix + size) for size in branches])


def _shared(branches: Sequence[int]) -> Iterator[list[int]]:
    """Branches, in order, by the call that they share."""
    together: list[int] = []
    for size in branches:
        if together and sum(together) + size > SHARED_CALL:
            yield together
            together = []
        together.append(size)
    if together:
        yield together


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | LayerMask | None,
    *,
    rows: RowPlan | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: the layer.
        query: shape `(1, H, T, D)`; for plain rows any number of rows.
        key: the same, with fewer heads where queries share them.
        value: as `key`, possibly of another width `E`.
        attention_mask: a `LayerMask` for tree rows, else the mask of plain rows.
        rows: a `TreePlan` for tree rows, where the family passes it on.
        softcap: the logits' bound, where the family has one.
        s_aux: `(H,)` logits of the attention sinks, where the family has them.

    Returns:
        shape `(1, T, H, E)`, and None for the weights, which are not returned.

    Raises:
        ModelError: the layer asks for what is not implemented.
    """
    form = _Form(scaling, dropout, softcap, s_aux)
    if not isinstance(attention_mask, LayerMask):
        if isinstance(rows, TreePlan):
            raise ModelError(f"{type(module).__name__} makes its attention mask by itself")
        return _plain(module, query, key, value, attention_mask, form, kwargs)
    _check_keywords(module, kwargs, {"is_causal"})
    if kwargs.get("is_causal") is False:
        raise ModelError(f"{type(module).__name__} lets tokens see later ones (is_causal=False)")
    plan, limit = attention_mask.plan, attention_mask.limit
    restricted = plan.restricted is not None and plan.restricted == getattr(module, "layer_idx", None)
    if plan.cached:
        return _attend_after_cache(query, key, value, plan, limit, form), None
    if restricted and not plan.pooling.whole:
        return _attend_where_read(query, key, value, plan, limit, form), None
    return _attend(query, key, value, plan, limit, form, restricted=restricted), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, limit: Limit, form: _Form, *, restricted: bool
) -> Tensor:
    """Attention piece by piece, `(1, T, H, E)`; where it is restricted, zero for prefixes, of which nothing is read."""
    # split, not slices: its gradient is one concatenation, that of every slice would be as long as the row
    queries, keys, values = (torch.split(states, plan.sizes, dim=2) for states in (query, key, value))
    outputs = []
    for index, (piece, mask) in enumerate(zip(plan.pieces, plan.masks(limit), strict=True)):
        seen, read = keys[index], values[index]
        if restricted and piece.prefix is None:
            outputs.append(query.new_zeros(*queries[index].shape[:-1], value.shape[-1]))
            continue
        if piece.prefix is not None:
            seen, read = torch.cat([keys[piece.prefix], seen], dim=2), torch.cat([values[piece.prefix], read], dim=2)
        outputs.append(form(queries[index], seen, read, mask))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


@dataclass(frozen=True, slots=True)
class _Form:
    """The formula of a layer's attention."""

    scaling: float | None
    dropout: float
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def fused(self) -> bool:
        """Whether torch's scaled dot-product attention has it."""
        return self.softcap is None and self.sinks is None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Shapes as of `tree_attention`, but heads before tokens; with `mask` None tokens see what is not later."""
        if self.fused:
            return scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                dropout_p=self.dropout,
                scale=self.scaling,
                is_causal=mask is None,
                enable_gqa=True,
            )
        shared = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(shared, dim=1) for states in (key, value))
        scaling = query.shape[-1] ** -0.5 if self.scaling is None else self.scaling
        logits = query @ key.transpose(2, 3) * scaling
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        if mask is None:
            mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        logits = logits.float().masked_fill(~mask, torch.finfo(torch.float32).min)
        if self.sinks is not None:
            sinks = self.sinks.float().reshape(1, -1, 1, 1).expand(*logits.shape[:-1], 1)
            logits = torch.cat([logits, sinks], dim=-1)
        weights = logits.softmax(-1)[..., : key.shape[2]]
        return drop(weights, self.dropout).to(value.dtype) @ value


def _plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    form: _Form,
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    """Attention of plain rows: torch's, or by the formula where torch's has no soft caps and sinks."""
    _check_keywords(module, kwargs, {"is_causal", "position_bias"})
    if form.fused:
        return sdpa_attention_forward(
            module, query, key, value, mask, dropout=form.dropout, scaling=form.scaling, **kwargs
        )
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if kwargs.get("position_bias") is not None or (mask is None and not causal):
        raise ModelError(
            f"{type(module).__name__} combines soft caps or sinks with what is not implemented beside them"
        )
    if mask is None and query.shape[2] == 1:
        mask = torch.ones(1, key.shape[2], dtype=torch.bool, device=query.device)  # one token, which sees all
    return form(query, key, value, mask).transpose(1, 2).contiguous(), None


def _check_keywords(module: nn.Module, kwargs: dict[str, Any], known: set[str]) -> None:
    """
    Raises:
        ModelError: a keyword may change the result in a way that is not implemented.
    """
    unknown = {name for name, value in kwargs.items() if value is not None} - known - WITHOUT_EFFECT
    if unknown:
        raise ModelError(
            f"{type(module).__name__} passes {', '.join(sorted(unknown))} to its attention function, which "
            f"'{TREE_ATTENTION}' does not implement"
        )


def _attend_where_read(
    query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, limit: Limit, form: _Form
) -> Tensor:  # fmt: skip
    """Attention of the one token that is read of every branch, `(1, T, H, E)`; zero for all others."""
    sizes = [len(each.row) for each in plan.read]
    states = zip(*(torch.split(each, sizes, dim=2) for each in (query, key, value)), strict=True)
    outputs = []
    for (queries, keys, values), read, mask in zip(states, plan.read, plan.read_masks(limit), strict=True):
        attended = form(queries.index_select(2, read.columns), keys, values, mask)
        whole = attended.new_zeros(*queries.shape[:-1], attended.shape[-1])
        outputs.append(whole.index_copy(2, read.columns, attended))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _attend_after_cache(
    query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, limit: Limit, form: _Form
) -> Tensor:  # fmt: skip
    """Attention of the branches of one tree, `(1, S, H, E)`; keys and values begin with those of its prefix."""
    keys, values = (torch.split(states, plan.sizes, dim=2) for states in (key, value))
    queries = torch.split(query, plan.sizes[1:], dim=2)
    outputs = [
        form(queries[index - 1], torch.cat([keys[0], keys[index]], 2), torch.cat([values[0], values[index]], 2), mask)
        for index, mask in enumerate(plan.masks(limit))
        if index
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


AttentionInterface.register(TREE_ATTENTION, tree_attention)
AttentionMaskInterface.register(TREE_ATTENTION, tree_mask)
