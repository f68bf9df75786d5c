"""Whether a loaded transformer gives the same states in our rows as in its own forward pass.

Asked is the model itself, not its configuration: a prompt and three answers of made tokens are run by the family's own
`eager` attention, one sequence at a time, then as plain rows and as a tree row. Longer windows than these few tokens
need no run: attention takes the limit of every layer from the layer (see `attention`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from basereward.data.batching.tree_batch import Layout, TreeBatch, collate
from basereward.data.encoding.encoder import EncodedGroup
from basereward.errors import ModelError
from basereward.model.attention.tree_attention import TREE_ATTENTION
from basereward.model.pooling import LAST, Pooling

PREFIX, BRANCHES = 6, (4, 2, 3)  # tokens

# The relative difference of states, in the mean over a branch, from which on they are other states. Different kernels
# differ by 1e-6 in float32, and by a few hundredths in half precision after many layers; a token that sees too much or
# stands at another place changes them by much more.
OTHER_STATES = {torch.float32: 0.01, torch.float64: 0.01}
OTHER_HALF_STATES = 0.3

# Kinds of layers, of those that configurations name, whose limits attention takes from the layer. Others mix tokens in
# ways that may show in longer rows only, as those do that compress what is far back.
KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}

# What code of a family raises when it is called in a way that it does not know.
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    ModelError,
    RuntimeError,
    TypeError,
    ValueError,
)


class RunLayout(Protocol):
    """What the check needs of a backbone."""

    @property
    def transformer(self) -> PreTrainedModel: ...

    def hidden_states(self, batch: TreeBatch, *, pooling: Pooling | None = None) -> Tensor: ...


def find_tree_fault(backbone: RunLayout) -> str | None:
    """Why a backbone cannot take tree rows; None where it can.

    Where plain rows go wrong by our attention, the transformer keeps its own `eager` attention.

    Raises:
        ModelError: plain rows give other states than the family's own forward pass, so no row can be scored.
    """
    transformer = backbone.transformer
    group = _made_group(transformer)
    with _evaluating(transformer):
        own = _own_states(transformer, group)
        fault = None
        if not _uses_tree_attention(transformer):
            fault = "its layers do not call attention through transformers' AttentionInterface"
        elif reason := _difference(backbone, group, "plain", own):
            fault = f"its attention cannot be replaced ({reason})"
            set_attention(transformer, "eager")
        if fault is not None and (reason := _difference(backbone, group, "plain", own)):
            raise ModelError(
                f"a {transformer.config.model_type} model cannot be a backbone: {reason}. Take a decoder-only language "
                "model, whose tokens see what is not later, or one of the families that read images."
            )
        return fault or _unseen_fault(transformer.config.get_text_config()) or _difference(backbone, group, "tree", own)


def _unseen_fault(config: PreTrainedConfig) -> str | None:
    """What is known to go wrong in tree rows that are longer than the made ones."""
    if unknown := set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS:
        return f"it has layers of {', '.join(sorted(map(str, unknown)))}, which tree rows do not implement"
    if getattr(config, "attn_temperature_tuning", False):
        return "its layers scale queries by their place in the row (attn_temperature_tuning)"
    return None


def set_attention(transformer: PreTrainedModel, name: str) -> None:
    """Has the language model attend by the implementation of that name."""
    text: PreTrainedConfig = transformer.config.get_text_config()
    transformer.set_attn_implementation(name if text is transformer.config else {"text_config": name})


def _uses_tree_attention(transformer: PreTrainedModel) -> bool:
    return bool(transformer.config.get_text_config()._attn_implementation == TREE_ATTENTION)


@torch.no_grad()
def _own_states(transformer: PreTrainedModel, group: EncodedGroup) -> list[Tensor]:
    """What the family's own attention makes of every branch after the prefix: hidden states `(T, D)`."""
    replaced = _uses_tree_attention(transformer)
    if replaced:
        set_attention(transformer, "eager")
    try:
        sequences = [torch.cat([group.prefix, branch])[None].to(transformer.device) for branch in group.branches]
        return [transformer(input_ids=ids, use_cache=False).last_hidden_state[0] for ids in sequences]
    except FAILURES as error:
        raise ModelError(
            f"a {transformer.config.model_type} model cannot be a backbone: called with tokens alone it fails "
            f"({_first_line(error)}). Take a decoder-only language model."
        ) from error
    finally:
        if replaced:
            set_attention(transformer, TREE_ATTENTION)


@torch.no_grad()
def _difference(backbone: RunLayout, group: EncodedGroup, layout: Layout, own: list[Tensor]) -> str | None:
    """What is wrong with rows of a layout; None: nothing."""
    batch = collate([group], layout=layout, pad_id=0).to(backbone.transformer.device)
    try:
        states = _branch_states(backbone.hidden_states(batch), group, layout)
        pooled = backbone.hidden_states(batch, pooling=LAST)[batch.ends[:, 0], batch.ends[:, 1]]
    except FAILURES as error:
        return _first_line(error)
    ends = [sequence[-1:] for sequence in own]
    differences = [
        *(_relative(found, sequence[PREFIX:]) for found, sequence in zip(states, own, strict=True)),
        *(_relative(found[None], end) for found, end in zip(pooled, ends, strict=True)),
    ]
    bound = OTHER_STATES.get(own[0].dtype, OTHER_HALF_STATES)
    if all(difference < bound for difference in differences):
        return None
    return f"its hidden states in {layout} rows differ from those of its own forward pass by {max(differences):.2g}"


def _branch_states(hidden: Tensor, group: EncodedGroup, layout: Layout) -> list[Tensor]:
    sizes = [len(branch) for branch in group.branches]
    if layout == "tree":
        return list(torch.split(hidden[0, PREFIX:], sizes))
    return [row[PREFIX : PREFIX + size] for row, size in zip(hidden, sizes, strict=True)]


def _relative(found: Tensor, expected: Tensor) -> float:
    norms = expected.float().norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    difference = ((found.float() - expected.float()).norm(dim=-1) / norms).mean()
    return float(difference) if difference.isfinite() or not expected.isfinite().all() else float("inf")


def made_tokens(transformer: PreTrainedModel, count: int) -> Tensor:
    """Ordinary tokens `(count,)`, all different where the vocabulary is large enough."""
    embedding: Any = transformer.get_input_embeddings()
    special = set(_special_tokens(transformer.config.to_dict()))
    allowed = [token for token in range(min(embedding.weight.shape[0], 4096)) if token not in special]
    return torch.tensor([allowed[index * 7 % len(allowed)] for index in range(1, count + 1)])


def _made_group(transformer: PreTrainedModel) -> EncodedGroup:
    ids = made_tokens(transformer, PREFIX + sum(BRANCHES))
    return EncodedGroup(
        id="made",
        source="made",
        prefix=ids[:PREFIX],
        positions=torch.arange(PREFIX),
        branches=tuple(torch.split(ids[PREFIX:], list(BRANCHES))),
        preferences=(),
    )


def _special_tokens(config: dict[Any, Any]) -> Iterator[int]:
    """All token ids that a configuration names, at any depth."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _special_tokens(value)
        elif str(name).endswith(("token_id", "token_index")):
            yield from [value] if isinstance(value, int) else value if isinstance(value, list) else []


@contextlib.contextmanager
def _evaluating(transformer: PreTrainedModel) -> Iterator[None]:
    training = transformer.training
    transformer.eval()
    try:
        yield
    finally:
        transformer.train(training)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
