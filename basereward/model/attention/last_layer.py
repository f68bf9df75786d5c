"""The last layer works for pooled tokens alone.

Of the last decoder layer only the pooled tokens' states are read. The other tokens give it their keys and values; their
queries, their attention and their feed-forward network would be thrown away. So these run on the pooled tokens, and
elsewhere the row is zero. Scores and gradients stay what they are: nothing that is left out reaches them.

Which tokens those are comes with every pass, as the keyword `rows` that transformers hands to the layer's attention.
So passes in several threads do not see each other's, and what gradient checkpointing computes again gets the same.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_installing = threading.Lock()


class _LayerCall(threading.local):
    """What the modules of the last layer need during one call of it, in one thread. Its attention, which runs first,
    sets it anew; it ends with the pass, whose `RowPlan` is not kept alive."""

    rows: weakref.ReferenceType[Any] | None = None
    shape: tuple[int, ...] = ()  # (R, T)
    depth: int = 0  # of restricted modules in one another: adapters have the layer that they adapt inside


_call = _LayerCall()


def _tokens() -> Tensor | None:
    """`(N,)` places in the flattened `(R * T)` tokens of the rows; None: all of them."""
    rows = None if _call.rows is None else _call.rows()
    tokens: Tensor | None = None if rows is None else rows.pooled
    return tokens


class LastLayer:
    """Restricts the last decoder layer of a transformer to the tokens that a pass names in `RowPlan.pooled`."""

    def __init__(self) -> None:
        self._modules: list[nn.Module] = []
        self._hooks: list[RemovableHandle] = []

    def install(self, transformer: nn.Module) -> int | None:
        """Has the last layer obey; adapters that were added or folded in since the last call are found.

        Args:
            transformer: one whose last layer has `self_attn.q_proj`, `self_attn.o_proj` and `mlp.down_proj`; another
                is left as it is.

        Returns:
            The layer's index; None where it cannot be restricted.
        """
        layers, attention, modules = _last(transformer)
        with _installing:
            if modules != self._modules:
                for hook in self._hooks:
                    hook.remove()
                self._modules = modules
                self._hooks = [module.register_forward_pre_hook(_take) for module in modules]
                self._hooks += [module.register_forward_hook(_put_back) for module in modules]
                if attention is not None:
                    self._hooks.append(attention.register_forward_pre_hook(_begin, with_kwargs=True))
        return layers - 1 if modules else None


def _begin(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    rows = kwargs.get("rows")
    _call.rows = None if rows is None else weakref.ref(rows)
    _call.depth = 0


def _take(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
    tokens = _tokens()
    if tokens is None:
        return None
    _call.depth += 1
    if _call.depth > 1:
        return None
    (states,) = inputs
    _call.shape = tuple(states.shape[:2])
    return (states.flatten(0, 1).index_select(0, tokens)[None],)


def _put_back(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    tokens = _tokens()
    if tokens is None:
        return None
    _call.depth -= 1
    if _call.depth > 0:
        return None
    rows, length = _call.shape
    whole = output.new_zeros(rows * length, output.shape[-1])
    return whole.index_copy(0, tokens, output[0]).view(rows, length, -1)


def _last(transformer: nn.Module) -> tuple[int, nn.Module | None, list[nn.Module]]:
    """How many layers there are, the attention of the last one, and its modules that work token by token."""
    layers: Any = getattr(getattr(transformer, "language_model", transformer), "layers", [])
    last: Any = layers[-1] if len(layers) else None
    attention: Any = getattr(last, "self_attn", None)
    feed_forward: Any = getattr(last, "mlp", None)
    modules = [getattr(attention, "q_proj", None), getattr(attention, "o_proj", None), feed_forward]
    if not hasattr(feed_forward, "down_proj") or not all(isinstance(module, nn.Module) for module in modules):
        return len(layers), None, []
    return len(layers), attention, modules
