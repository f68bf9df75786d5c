"""Attention over tree rows, plugged in through transformers' attention and mask interfaces.

The cost depends only on the pairs of tokens that may see each other. Where there is a kernel for segments of different
lengths, the row takes two calls (see `cascade`). Layers with limits, soft caps, sinks or dropout, and devices without
such a kernel, take it in pieces: one call for every prefix, and one call for a few branches together, which see their
prefix and themselves. No mask of the whole row is built, so several groups in one row cost as much as in separate rows.

Limits of attention (a sliding window, chunks) are not read from the configuration. transformers passes the mask
function of every layer to the mask interface, and the limit is applied to the position of a token in its own sequence
of prefix and branch, as in a plain row. An unknown mask function or keyword is an error.

Shapes: H heads, T tokens of a row, S tokens of branches, D channels of a head's queries and keys, E of its values.
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

from basereward.data.batching.packing import RowSize, pack_in_order
from basereward.data.batching.tree_batch import row_segments
from basereward.errors import ModelError
from basereward.model.attention.cascade import Cascade, cascade_attention, pooled_cascade, row_cascade
from basereward.model.attention.varlen import is_available
from basereward.model.pooling import LAST, Pooling

TREE_ATTENTION = "basereward_tree"

# Largest number of tokens of branches that share a call, in which a mask separates the branches. Above it, the masked
# pairs cost more than another call.
MAX_SHARED_TOKENS = 256

# On the CPU, where a call costs next to nothing by itself, pieces are as fast or faster: the two calls took 0.99 to 1.4
# times their processor time, forward and backward; for two pairs with pictures 1.03 times, for two long texts 1.11.
CASCADE_DEVICES = ("cuda", "meta")

# Keywords that change no result: their information is in the mask or in the states, or they ask for other outputs. Any
# other keyword is an error: it may be an option of a new family, and ignoring it would change scores without a message.
WITHOUT_EFFECT = frozenset(
    "sliding_window position_ids position_embeddings cache_position use_cache past_key_values output_attentions "
    "output_hidden_states output_router_logits return_dict logits_to_keep layer_idx".split()
)

# The mask interface has no argument for a plan. A context variable keeps forward passes in several threads apart.
_plan: ContextVar[TreePlan | None] = ContextVar("_plan", default=None)


@dataclass(frozen=True, slots=True)
class Limit:
    """How far back a token sees.

    Attributes:
        window: number of tokens, including the token itself; None: no window.
        chunk: length of the chunks into which a sequence is divided; a token sees those of its own chunk. None: none.

    >>> Limit(window=4).reaches(4), Limit(chunk=4).reaches(5)
    (True, False)
    """

    window: int | None = None
    chunk: int | None = None

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether tokens at positions `query` may see those at positions `key`; the shapes are broadcast.

        >>> Limit(window=2).allows(torch.tensor([[3]]), torch.arange(4)).tolist()
        [[False, False, True, True]]
        >>> Limit(chunk=2).allows(torch.tensor([[3]]), torch.arange(4)).tolist()
        [[False, False, True, True]]
        """
        seen = torch.ones_like(key, dtype=torch.bool) if self.window is None else key > query - self.window
        if self.chunk is None:
            return seen
        return seen & (key // self.chunk == query // self.chunk)

    def reaches(self, length: int) -> bool:
        """Whether every token of a sequence of this length sees all earlier ones."""
        return length <= min(size for size in (self.window, self.chunk, length) if size is not None)


NO_LIMIT = Limit()


@dataclass(frozen=True, slots=True)
class LayerMask:
    """Stands for the attention mask of a layer in tree rows; the model passes it to the attention unread.

    Attributes:
        limit: of the layer.
        plan: of the row.

    >>> LayerMask(Limit(), TreePlan([(2, 1)], device="cpu")).plan.trees
    [(2, 1)]
    """

    limit: Limit
    plan: TreePlan


def read_limit(mask_function: Callable[..., Any]) -> Limit:
    """The limit that a mask function of transformers sets in addition to causality.

    Args:
        mask_function: as transformers passes it to the mask interface.

    Raises:
        ModelError: the function is not causal, or has components besides causality, sliding windows and chunks.

    >>> read_limit(and_masks(sliding_window_overlay(4), causal_mask_function))
    Limit(window=4, chunk=None)
    """
    window, chunk, causal = None, None, False
    unread = [mask_function]
    while unread:
        function: Any = unread.pop()
        # transformers builds mask functions as closures and gives them no attributes. Closures of one factory share
        # their code object, by which they are recognised, and hold the arguments of the factory.
        arguments = getclosurevars(function).nonlocals
        if function is causal_mask_function:
            causal = True
        elif function.__code__ is and_masks(function).__code__:
            unread += arguments["mask_functions"]
        elif function.__code__ is sliding_window_overlay(1).__code__:
            window = min(arguments["sliding_window"], window or arguments["sliding_window"])
        elif function.__code__ is chunked_overlay(1, torch.zeros(1)).__code__ and chunk in (
            None,
            arguments["chunk_size"],
        ):
            chunk = arguments["chunk_size"]
        else:
            raise ModelError(f"layers use the mask {function.__qualname__}, which tree rows do not implement")
    if not causal:
        raise ModelError("layers let tokens see later ones (bidirectional attention)")
    return Limit(window, chunk)


@contextlib.contextmanager
def tree_masks(plan: TreePlan | None) -> Iterator[None]:
    """For a block, the masks that transformers builds in this thread are those of a plan.

    The masks are built before the first layer, and every layer gets them, also when gradient checkpointing computes it
    again after the block.

    Args:
        plan: of the row; None: the masks are those of plain rows.

    >>> with tree_masks(TreePlan([(2, 1)], device="cpu")):
    ...     type(tree_mask()).__name__
    'LayerMask'
    """
    token = _plan.set(plan)
    try:
        yield
    finally:
        _plan.reset(token)


def tree_mask(*, mask_function: Callable[..., Any] = causal_mask_function, **kwargs: Any) -> Any:
    """The mask of one kind of layer, with the signature of transformers' `AttentionMaskInterface`.

    Args:
        mask_function: of the layers.
        kwargs: sizes and devices, for the mask of plain rows.

    Returns:
        `LayerMask` in tree rows; otherwise the mask for torch's scaled dot-product attention.

    Raises:
        ModelError: the mask function is not causal, or has unknown components.

    >>> with tree_masks(TreePlan([(2, 1)], device="cpu")):
    ...     tree_mask(mask_function=causal_mask_function).limit
    Limit(window=None, chunk=None)
    """
    plan = _plan.get()
    if plan is None:
        return sdpa_mask(mask_function=mask_function, **kwargs)
    return LayerMask(read_limit(mask_function), plan)


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of the row that attend in one call: a prefix, or branches of one group that share a call.

    Attributes:
        tokens: their number.
        positions: `(tokens,)`, the position of each token in its own sequence, which starts with the prefix.
        prefix: index of the piece that they all see; None: they are a prefix, with causal attention.
        mask: `(tokens, tokens of the prefix + tokens)`, true where a query sees a key; None for a prefix.

    >>> [piece.tokens for piece in TreePlan([(3, 2, 1)], device="cpu").pieces]  # a prefix, and two branches together
    [3, 3]
    """

    tokens: int
    positions: Tensor
    prefix: int | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PooledTokens:
    """The pooled tokens of one tree, one of each of K branches, which attend in one call.

    Attributes:
        columns: `(K,)`, counted from the tree's first token when its branches follow its prefix.
        mask: `(K, tokens of the tree)`, true where a query sees a key.
        positions: `(K,)`, the position of each token in its own sequence.
        key_positions: `(tokens of the tree,)`, of all tokens.

    >>> TreePlan([(3, 2, 1)], device="cpu").pooled_tokens[0].columns
    tensor([4, 5])
    """

    columns: Tensor
    mask: Tensor
    positions: Tensor
    key_positions: Tensor


@dataclass
class RowPlan:
    """The layout of one forward pass; the layers get it as the keyword `rows`.

    Args:
        pooled: `(N,)` indices into the flattened `(R * T)` tokens, to which the last layer is restricted; None: it
            computes all tokens.

    >>> RowPlan().pooled is None
    True
    """

    pooled: Tensor | None = None


class TreePlan(RowPlan):
    """The calls of attention over a tree row, in the order of its tokens.

    Args:
        trees: for every group in the row the number of tokens of its prefix, then of each of its branches.
        device: of the row.
        restricted: index of the layer that attends for pooled tokens only; None: no layer does.
        pooling: selects the pooled tokens.
        pooled: as in `RowPlan`.
        cached: the row holds only the branches of one tree; keys and values of its prefix are in a cache.

    >>> TreePlan([(3, 2), (4, 1, 1)], device="cpu").sizes
    [3, 4, 2, 2]
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
        # The longest sequence of a prefix and one branch: a limit that reaches it changes no mask of this row.
        self.longest = max(prefix + max(branches, default=0) for prefix, *branches in trees)
        self._masks: dict[Limit, list[Tensor | None]] = {}

    def restricts(self, module: nn.Module) -> bool:
        """Whether a layer attends for pooled tokens only.

        >>> TreePlan([(2, 1)], device="cpu", restricted=3).restricts(nn.Linear(1, 1))  # no attention of a layer
        False
        """
        return self.restricted is not None and self.restricted == getattr(module, "layer_idx", None)

    # Only layers that need them build the pieces and their masks.

    @cached_property
    def pieces(self) -> list[Piece]:
        """The calls of layers that take the row in pieces, in the order of its tokens."""
        pieces = [Piece(prefix, torch.arange(prefix)) for prefix, *_ in self.trees]
        for index, (prefix, *branches) in enumerate(self.trees):
            for shared in pack_in_order(branches, budget=MAX_SHARED_TOKENS, size_of=RowSize):
                mask = branch_mask(prefix, shared, device=self.device)
                pieces.append(Piece(len(mask), _branch_positions(prefix, shared), index, mask))
        return pieces

    @cached_property
    def sizes(self) -> list[int]:
        """Tokens of every piece."""
        return [piece.tokens for piece in self.pieces]

    @cached_property
    def cascade(self) -> Cascade:
        """The two calls over all tokens of the row."""
        return row_cascade(self.trees, device=self.device)

    @cached_property
    def branch_cascade(self) -> Cascade:
        """The two calls whose queries are the tokens of branches."""
        return row_cascade(self.trees, device=self.device, prefixes=False)

    @cached_property
    def pooled_cascade(self) -> Cascade:
        """The two calls whose queries are the pooled tokens, if the pooling reads one token of every branch."""
        return pooled_cascade(self.trees, [token for _, token in self._reads()], device=self.device)

    @cached_property
    def pooled_columns(self) -> Tensor:
        """`(B,)`, the columns in the row of the pooled tokens, if the pooling reads one token of every branch."""
        columns = [start + token for start, token in self._reads()]
        return torch.tensor(columns).to(self.device, non_blocking=True)

    def _reads(self) -> list[tuple[int, int]]:
        """For every branch its first column, and its pooled token counted from there."""
        reads = []
        for segment in row_segments(self.trees):
            if segment.branch:
                size = segment.columns.stop - segment.columns.start
                reads.append((segment.columns.start, self.pooling.read(size)[0]))
        return reads

    @cached_property
    def pooled_tokens(self) -> list[PooledTokens]:
        """The pooled tokens of every tree, if the pooling reads one token of every branch."""
        of_trees: list[PooledTokens] = []
        for prefix, *branches in self.trees:
            tokens = [self.pooling.read(size)[0] for size in branches]
            columns, mask = _pooled_mask(prefix, branches, tokens, self.device)
            key_positions = torch.cat([torch.arange(prefix), _branch_positions(prefix, branches)])
            positions = torch.tensor([prefix + token for token in tokens])
            of_trees.append(
                PooledTokens(
                    columns,
                    mask,
                    positions.to(self.device, non_blocking=True),
                    key_positions.to(self.device, non_blocking=True),
                )
            )
        return of_trees

    def masks(self, limit: Limit) -> list[Tensor | None]:
        """The mask of every piece in layers with a limit; None for a prefix with plain causal attention."""
        if limit.reaches(self.longest):
            return [piece.mask for piece in self.pieces]
        # Layers of one kind share the masks, which are large and expensive to copy to a GPU.
        if limit not in self._masks:
            self._masks[limit] = [self._limited(piece, limit) for piece in self.pieces]
        return self._masks[limit]

    def pooled_masks(self, limit: Limit) -> list[Tensor]:
        """The mask `(K, tokens of the tree)` of the pooled tokens of every tree in layers with a limit."""
        masks: list[Tensor] = []
        for pooled in self.pooled_tokens:
            if limit.reaches(self.longest):
                masks.append(pooled.mask)
            else:
                masks.append(pooled.mask & limit.allows(pooled.positions[:, None], pooled.key_positions))
        return masks

    def _limited(self, piece: Piece, limit: Limit) -> Tensor | None:
        """The mask of a piece with a limit; None for a prefix that is too short for the limit to matter."""
        # Copies that do not block: a pass would otherwise wait for the GPU once for each piece.
        positions = piece.positions.to(self.device, non_blocking=True)
        if piece.prefix is None:
            if limit.reaches(piece.tokens):
                return None
            return (positions <= positions[:, None]) & limit.allows(positions[:, None], positions)
        assert piece.mask is not None
        prefix = torch.arange(self.sizes[piece.prefix]).to(self.device, non_blocking=True)
        return piece.mask & limit.allows(positions[:, None], torch.cat([prefix, positions]))


def branch_mask(prefix: int, branches: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
    """The mask of branches of one prefix that attend in one call.

    Args:
        prefix: number of its tokens.
        branches: number of tokens of each branch.
        device: of the mask.

    Returns:
        bool `(S, prefix + S)` with S the tokens of all branches; true where a query sees a key.

    >>> branch_mask(1, [1, 2]).int()
    tensor([[1, 1, 0, 0],
            [1, 0, 1, 0],
            [1, 0, 1, 1]], dtype=torch.int32)
    """
    blocks = [torch.ones(size, size, dtype=torch.bool).tril() for size in branches]
    own = torch.block_diag(*blocks).bool()  # type: ignore[no-untyped-call]
    return torch.cat([own.new_ones(len(own), prefix), own], dim=1).to(device, non_blocking=True)


def _pooled_mask(
    prefix: int, branches: Sequence[int], tokens: Sequence[int], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Columns `(K,)` in the tree of one token of every branch, and their mask `(K, tokens of the tree)`.

    Args:
        prefix: number of its tokens.
        branches: number of tokens of each branch.
        tokens: of each branch the token, counted from the branch's first.
        device: of the results.

    >>> columns, mask = _pooled_mask(1, [1, 3], [0, 1], "cpu")
    >>> columns.tolist(), mask.int().tolist()
    ([1, 3], [[1, 1, 0, 0, 0], [1, 0, 1, 1, 0]])
    """
    sizes = torch.tensor(branches)
    columns = sizes.cumsum(0) - sizes + torch.tensor(tokens)
    own = torch.repeat_interleave(torch.eye(len(branches), dtype=torch.bool), sizes, dim=1)
    own &= torch.arange(sum(branches)) <= columns[:, None]
    mask = torch.cat([own.new_ones(len(branches), prefix), own], dim=1)
    return (columns + prefix).to(device, non_blocking=True), mask.to(device, non_blocking=True)


def _branch_positions(prefix: int, branches: Sequence[int]) -> Tensor:
    """Positions of the tokens of branches in their own sequences, which start with the prefix.

    >>> _branch_positions(3, [2, 1]).tolist()
    [3, 4, 3]
    """
    return torch.cat([torch.arange(prefix, prefix + size) for size in branches])


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
    """Attention with the signature of transformers' `AttentionInterface`.

    Args:
        module: the attention layer.
        query: `(1, H, T, D)`; plain rows may be several.
        key: as `query`, with fewer heads under grouped-query attention.
        value: as `key`, with E channels.
        attention_mask: a `LayerMask` for tree rows; otherwise the mask of plain rows.
        rows: a `TreePlan` for tree rows, if the family passes it on.
        dropout: on the attention weights.
        scaling: of the logits; None: `D ** -0.5`.
        softcap: bound of the logits, for families that have one.
        s_aux: `(H,)` logits of the attention sinks, for families that have them.
        kwargs: further keywords of the family; see `WITHOUT_EFFECT`.

    Returns:
        `(1, T, H, E)`, and None in place of the attention weights.

    Raises:
        ModelError: the layer passes an option that is not implemented.
    """
    formula = _Formula(scaling, dropout, softcap, s_aux)
    if not isinstance(attention_mask, LayerMask):
        # A family that does not ask the mask interface would let branches see each other.
        if isinstance(rows, TreePlan):
            raise ModelError(f"{type(module).__name__} builds its own attention mask")
        return _plain(module, query, key, value, attention_mask, formula, kwargs)
    _check_keywords(module, kwargs, {"is_causal"})
    if kwargs.get("is_causal") is False:
        raise ModelError(f"{type(module).__name__} lets tokens see later ones (is_causal=False)")
    plan, limit = attention_mask.plan, attention_mask.limit
    restricted = plan.restricts(module)
    if formula.is_plain and limit.reaches(plan.longest) and takes_cascade(query, value):
        return _attend_in_cascade(query, key, value, plan, formula, restricted=restricted), None
    if plan.cached:
        return _attend_after_cache(query, key, value, plan, limit, formula), None
    if restricted and not plan.pooling.whole:
        return _attend_pooled(query, key, value, plan, limit, formula), None
    return _attend(query, key, value, plan, limit, formula, restricted=restricted), None


def takes_cascade(query: Tensor, value: Tensor) -> bool:
    """Whether a row is taken in two calls rather than in pieces.

    >>> states = torch.zeros(1, 2, 3, 8)
    >>> takes_cascade(states, states), takes_cascade(states.to("meta"), states.to("meta"))
    (False, True)
    """
    return query.device.type in CASCADE_DEVICES and is_available(query, value)


def _attend_in_cascade(
    query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, formula: _Formula, *, restricted: bool
) -> Tensor:
    """Attention in two calls, `(1, T, H, E)`; if `restricted`, zero for tokens whose output nothing reads."""
    # (1, H, T, D) -> (T, H, D)
    queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))
    scale = query.shape[-1] ** -0.5 if formula.scaling is None else formula.scaling
    if plan.cached:
        return cascade_attention(queries, keys, values, plan.branch_cascade, scale)[None]
    if not restricted:
        return cascade_attention(queries, keys, values, plan.cascade, scale)[None]
    if plan.pooling.whole:
        first = plan.branch_cascade.prefixes
        attended = cascade_attention(queries[first:], keys, values, plan.branch_cascade, scale)
        return torch.cat([attended.new_zeros(first, *attended.shape[1:]), attended])[None]
    attended = cascade_attention(
        queries.index_select(0, plan.pooled_columns), keys, values, plan.pooled_cascade, scale
    )  # fmt: skip
    row = attended.new_zeros(len(queries), *attended.shape[1:])
    return row.index_copy(0, plan.pooled_columns, attended)[None]


def _attend(
    query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, limit: Limit, formula: _Formula, *, restricted: bool
) -> Tensor:
    """Attention piece by piece, `(1, T, H, E)`; if `restricted`, zero for prefixes, whose output nothing reads."""
    # Split and not sliced: the gradient of a split is one concatenation, but that of each slice is as long as the row.
    queries, keys, values = (torch.split(states, plan.sizes, dim=2) for states in (query, key, value))
    outputs = []
    for index, (piece, mask) in enumerate(zip(plan.pieces, plan.masks(limit), strict=True)):
        piece_keys, piece_values = keys[index], values[index]
        if restricted and piece.prefix is None:
            outputs.append(query.new_zeros(*queries[index].shape[:-1], value.shape[-1]))
            continue
        if piece.prefix is not None:
            piece_keys = torch.cat([keys[piece.prefix], piece_keys], dim=2)
            piece_values = torch.cat([values[piece.prefix], piece_values], dim=2)
        outputs.append(formula(queries[index], piece_keys, piece_values, mask))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


@dataclass(frozen=True, slots=True)
class _Formula:
    """The formula of a layer's attention; see `tree_attention` for the fields."""

    scaling: float | None
    dropout: float
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def fused(self) -> bool:
        """Whether torch's scaled dot-product attention implements the formula."""
        return self.softcap is None and self.sinks is None

    @property
    def is_plain(self) -> bool:
        """Whether the weights are a softmax of the scaled logits, without dropout."""
        return self.fused and self.dropout == 0.0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention with heads before tokens, `(1, H, T, E)`; without a mask it is causal."""
        if self.fused:
            # Grouped-query attention inside of the kernel: repeated keys would take the memory of all heads. On a GPU
            # no fast kernel takes a mask together with grouped queries: without the repetition torch would compute all
            # logits in float32, or build a plan for every new shape.
            repeats = query.is_cuda and mask is not None
            if repeats:
                key, value = self._repeated(query, key, value)
            return scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                dropout_p=self.dropout,
                scale=self.scaling,
                is_causal=mask is None,
                enable_gqa=not repeats,
            )
        key, value = self._repeated(query, key, value)
        scaling = query.shape[-1] ** -0.5 if self.scaling is None else self.scaling
        logits = query @ key.transpose(2, 3) * scaling
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        if mask is None:
            mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        # The smallest number and not -inf, which gives NaN in a row without any visible token.
        logits = logits.float().masked_fill(~mask, torch.finfo(torch.float32).min)
        if self.sinks is not None:
            # A sink takes part in the softmax as one more key, whose value is zero.
            sinks = self.sinks.float().reshape(1, -1, 1, 1).expand(*logits.shape[:-1], 1)
            logits = torch.cat([logits, sinks], dim=-1)
        weights = logits.softmax(-1)[..., : key.shape[2]]
        return drop(weights, self.dropout).to(value.dtype) @ value

    @staticmethod
    def _repeated(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with as many heads as the queries."""
        queries_per_key = query.shape[1] // key.shape[1]
        return key.repeat_interleave(queries_per_key, dim=1), value.repeat_interleave(queries_per_key, dim=1)


def _plain(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    formula: _Formula,
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    """Attention of plain rows: that of torch, or `_Formula` for soft caps and sinks, which torch's lacks."""
    _check_keywords(module, kwargs, {"is_causal", "position_bias"})
    if formula.fused:
        return sdpa_attention_forward(
            module, query, key, value, mask, dropout=formula.dropout, scaling=formula.scaling, **kwargs
        )
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if kwargs.get("position_bias") is not None or (mask is None and not causal):
        raise ModelError(
            f"{type(module).__name__} combines soft caps or sinks with a position bias or bidirectional attention, "
            "which is not implemented"
        )
    if mask is None and query.shape[2] == 1:
        # One generated token sees all tokens of the cache. Causality over a square would let it see only the first.
        mask = torch.ones(1, key.shape[2], dtype=torch.bool, device=query.device)
    return formula(query, key, value, mask).transpose(1, 2).contiguous(), None


def _check_keywords(module: nn.Module, kwargs: dict[str, Any], known: set[str]) -> None:
    """Checks the keywords that a layer passes.

    Raises:
        ModelError: an unknown keyword might change the result.
    """
    unknown = {name for name, value in kwargs.items() if value is not None} - known - WITHOUT_EFFECT
    if unknown:
        raise ModelError(
            f"{type(module).__name__} passes {', '.join(sorted(unknown))} to its attention function, which "
            f"'{TREE_ATTENTION}' does not implement"
        )


def _attend_pooled(
    query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, limit: Limit, formula: _Formula
) -> Tensor:  # fmt: skip
    """Attention of the pooled token of every branch, `(1, T, H, E)`; zero for all other tokens."""
    queries, keys, values = (_by_tree(states, plan.trees) for states in (query, key, value))
    outputs = []
    for index, (pooled, mask) in enumerate(zip(plan.pooled_tokens, plan.pooled_masks(limit), strict=True)):
        # One query for each branch: the mask has K rows, and not one for each token of the tree.
        outputs.append(formula(queries[index].index_select(2, pooled.columns), keys[index], values[index], mask))
    attended = torch.cat(outputs, dim=2)
    row = attended.new_zeros(*query.shape[:-1], attended.shape[-1])
    return row.index_copy(2, plan.pooled_columns, attended).transpose(1, 2).contiguous()


def _by_tree(states: Tensor, trees: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The states of each tree, its branches behind its prefix, `(1, H, tokens of the tree, D)`."""
    prefixes = [prefix for prefix, *_ in trees]
    branches = [sum(sizes) for _, *sizes in trees]
    parts = torch.split(states, [*prefixes, *branches], dim=2)
    return [torch.cat([parts[index], parts[len(trees) + index]], dim=2) for index in range(len(trees))]


def _attend_after_cache(
    query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, limit: Limit, formula: _Formula
) -> Tensor:  # fmt: skip
    """Attention of the branches of one tree, `(1, S, H, E)`; keys and values start with those of the cached prefix."""
    keys, values = (torch.split(states, plan.sizes, dim=2) for states in (key, value))
    queries = torch.split(query, plan.sizes[1:], dim=2)
    outputs = []
    # Piece 0 is the prefix: it has keys and values, and no queries in this row.
    for index, mask in enumerate(plan.masks(limit)[1:], start=1):
        piece_keys = torch.cat([keys[0], keys[index]], dim=2)
        piece_values = torch.cat([values[0], values[index]], dim=2)
        outputs.append(formula(queries[index - 1], piece_keys, piece_values, mask))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def register_tree_attention() -> None:
    """Makes transformers find the attention and its masks under the name `TREE_ATTENTION`.

    `load_backbone` calls it; importing this module changes nothing. Calls after the first have no effect.

    >>> register_tree_attention()
    >>> TREE_ATTENTION in AttentionInterface(), TREE_ATTENTION in AttentionMaskInterface()
    (True, True)
    """
    # The two registries belong to the process: transformers gives a model no other way to name an attention function
    # than a string that it looks up there. The name is ours alone, so no other model is affected.
    if TREE_ATTENTION in AttentionInterface():
        return
    # Compiled layers must not trace into the function: the division of a row into prefixes and branches changes at
    # every step, and each division would be compiled again. Layers that are not compiled do not notice the mark.
    AttentionInterface.register(TREE_ATTENTION, torch.compiler.disable(tree_attention))  # type: ignore[no-untyped-call]
    AttentionMaskInterface.register(TREE_ATTENTION, tree_mask)
