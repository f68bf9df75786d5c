"""Checks that a loaded transformer gives the same hidden states in tree rows as in its own forward pass.

The check runs the model and does not rely on its configuration. It passes a prompt and three answers of arbitrary
tokens through the family's own `eager` attention, one sequence at a time, then as plain rows and as a tree row. Windows
longer than these few tokens need no run: attention reads the limit of every layer from its mask function (see
`tree_attention`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import Layout, TreeBatch
from basereward.data.encoding.encoder import EncodedGroup
from basereward.errors import ModelError
from basereward.model.attention.tree_attention import TREE_ATTENTION
from basereward.model.families.registry import find_family
from basereward.model.pooling import LAST, Pooling

# Tokens of the prompt and of the answers. Different lengths show a wrong offset, and a branch after another one shows a
# token that sees its neighbour branch.
PREFIX, BRANCHES = 6, (4, 2, 3)

# Limits of the relative difference of states, as the mean over a branch. Different kernels differ by 1e-6 in float32,
# and by a few hundredths in half precision after many layers. A token that sees too much or has a wrong position
# changes the states by much more.
MAX_DIFFERENCE = {torch.float32: 0.01, torch.float64: 0.01}
MAX_DIFFERENCE_HALF = 0.3

# Layer types in configurations whose limits attention reads from the mask function. Other types may mix tokens in ways
# that appear in longer rows only, such as compressing distant tokens.
KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}

# Errors that a family's code raises when it is called in a way that it does not support.
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
    """The part of `Backbone` that the check uses; `backbone.py` imports this file, so it cannot be imported here."""

    @property
    def transformer(self) -> PreTrainedModel:
        """The transformer, without the wrapper of its adapters."""
        ...

    def hidden_states(self, batch: TreeBatch, *, pooling: Pooling | None = None) -> Tensor:
        """Hidden states `(R, T, D)` of a batch; see `Backbone.hidden_states`."""
        ...


def find_tree_fault(backbone: RunLayout) -> str | None:
    """The reason why a backbone cannot take tree rows; None if it can.

    If plain rows are wrong with the tree attention, the transformer is switched to its own `eager` attention.

    Args:
        backbone: as loaded, without adapters.

    Raises:
        ModelError: plain rows are wrong with the family's own attention too, so no row can be scored.
    """
    transformer = backbone.transformer
    group = _arbitrary_group(transformer)
    with _evaluation_mode(transformer):
        own = _own_states(transformer, group)
        fault = None
        if not _uses_tree_attention(transformer):
            fault = "its layers do not call attention through transformers' AttentionInterface"
        elif reason := _difference(backbone, group, "plain", own):
            fault = f"its attention cannot be replaced ({reason})"
            set_attention(transformer, "eager")
        if fault is not None and (reason := _difference(backbone, group, "plain", own)):
            raise ModelError(
                f"a {transformer.config.model_type} model cannot be a backbone: {reason}. Use a decoder-only language "
                "model with causal attention, or one of the families that read images."
            )
        return fault or _unseen_fault(transformer.config.get_text_config()) or _difference(backbone, group, "tree", own)


def _unseen_fault(config: PreTrainedConfig) -> str | None:
    """A known fault that appears only in rows longer than those of the check; None if there is none."""
    if unknown := set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS:
        return f"it has layers of {', '.join(sorted(map(str, unknown)))}, which tree rows do not implement"
    if getattr(config, "attn_temperature_tuning", False):
        return "its layers scale queries by their position in the row (attn_temperature_tuning)"
    return None


def set_attention(transformer: PreTrainedModel, name: str) -> None:
    """Sets the attention implementation of the language model.

    Args:
        transformer: of any family.
        name: of an implementation that transformers knows, such as `eager`.
    """
    # The vision tower keeps its own attention, which is over images and not over tree rows.
    text: PreTrainedConfig = transformer.config.get_text_config()
    transformer.set_attn_implementation(name if text is transformer.config else {"text_config": name})
    # The call resets the tower to the attention in the model's configuration.
    find_family(transformer.config).prepare(transformer)


def _uses_tree_attention(transformer: PreTrainedModel) -> bool:
    return bool(transformer.config.get_text_config()._attn_implementation == TREE_ATTENTION)


@torch.no_grad()
def _own_states(transformer: PreTrainedModel, group: EncodedGroup) -> list[Tensor]:
    """Hidden states `(T, D)` of the prefix with each branch, by the family's own attention."""
    replaced = _uses_tree_attention(transformer)
    if replaced:
        set_attention(transformer, "eager")
    try:
        sequences = [torch.cat([group.prefix, branch])[None].to(transformer.device) for branch in group.branches]
        return [transformer(input_ids=ids, use_cache=False).last_hidden_state[0] for ids in sequences]
    except FAILURES as error:
        raise ModelError(
            f"a {transformer.config.model_type} model cannot be a backbone: called with tokens alone it fails "
            f"({_first_line(error)}). Use a decoder-only language model."
        ) from error
    finally:
        if replaced:
            set_attention(transformer, TREE_ATTENTION)


@torch.no_grad()
def _difference(backbone: RunLayout, group: EncodedGroup, layout: Layout, own: list[Tensor]) -> str | None:
    """Compares rows of a layout with `own`: the fault as text, or None if all states agree."""
    batch = collate([group], layout=layout, pad_id=0).to(backbone.transformer.device)
    try:
        states = _branch_states(backbone.hidden_states(batch), group, layout)
        # Again as in scoring, where the last layer computes pooled tokens only.
        pooled = backbone.hidden_states(batch, pooling=LAST)[batch.rows.ends[:, 0], batch.rows.ends[:, 1]]
    except FAILURES as error:
        return _first_line(error)
    differences: list[float] = []
    for sequence, branch, end in zip(own, states, pooled, strict=True):
        differences.append(_relative_difference(branch, sequence[PREFIX:]))
        differences.append(_relative_difference(end[None], sequence[-1:]))
    limit = MAX_DIFFERENCE.get(own[0].dtype, MAX_DIFFERENCE_HALF)
    if all(difference < limit for difference in differences):
        return None
    return f"its hidden states in {layout} rows differ from those of its own forward pass by {max(differences):.2g}"


def _branch_states(hidden: Tensor, group: EncodedGroup, layout: Layout) -> list[Tensor]:
    """The states of every branch, from those of the rows, `(R, T, D)`."""
    sizes = [len(branch) for branch in group.branches]
    if layout == "tree":
        return list(torch.split(hidden[0, PREFIX:], sizes))
    return [row[PREFIX : PREFIX + size] for row, size in zip(hidden, sizes, strict=True)]


def _relative_difference(states: Tensor, expected: Tensor) -> float:
    """The mean over tokens of the relative difference of states `(T, D)`.

    It is infinite if `states` alone are not finite, and NaN if `expected` are not, which is no fault of the layout.
    """
    norms = expected.float().norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    difference = ((states.float() - expected.float()).norm(dim=-1) / norms).mean()
    if difference.isfinite() or not expected.isfinite().all():
        return float(difference)
    return float("inf")


def arbitrary_tokens(transformer: PreTrainedModel, count: int) -> Tensor:
    """Ordinary tokens `(count,)`, all different if the vocabulary is large enough.

    Args:
        transformer: whose vocabulary is used.
        count: number of tokens.
    """
    embedding: Any = transformer.get_input_embeddings()
    # An image token or the padding token would be treated specially by the model.
    special = set(_special_tokens(transformer.config.to_dict()))
    allowed = [token for token in range(min(embedding.weight.shape[0], 4096)) if token not in special]
    # A step of 7 spreads the tokens over the vocabulary, so that neighbours are not alike.
    return torch.tensor([allowed[index * 7 % len(allowed)] for index in range(1, count + 1)])


def _arbitrary_group(transformer: PreTrainedModel) -> EncodedGroup:
    ids = arbitrary_tokens(transformer, PREFIX + sum(BRANCHES))
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
            if isinstance(value, int):
                yield value
            elif isinstance(value, list):
                yield from value


@contextlib.contextmanager
def _evaluation_mode(transformer: PreTrainedModel) -> Iterator[None]:
    """Turns dropout off for a block."""
    training = transformer.training
    transformer.eval()
    try:
        yield
    finally:
        transformer.train(training)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
