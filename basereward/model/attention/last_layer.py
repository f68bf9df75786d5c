"""Restricts the last decoder layer to pooled tokens.

The head reads the states of the pooled tokens alone. In the last decoder layer, the other tokens contribute keys and
values; nothing reads the results of their queries, attention and feed-forward network. Therefore these modules run on
pooled tokens only, and all other states are zero. Scores and gradients do not change: no gradient flows through the
skipped parts.

The indices of the pooled tokens are part of every forward pass, as the keyword `rows` that transformers passes to the
attention of the layer. Therefore passes in several threads are independent, and gradient checkpointing computes the
same tokens again.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Two threads that score with one model must not register its hooks twice.
_installing = threading.Lock()


class _LayerCall(threading.local):
    """The state of one call of the last layer in one thread. Its attention runs first and resets the state.

    Attributes:
        rows: the `RowPlan` of the pass, as a weak reference, so that the pass can be freed.
        shape: `(R, T)` of the rows.
        depth: nesting of restricted modules: an adapter contains the layer that it adapts.
    """

    rows: weakref.ReferenceType[Any] | None = None
    shape: tuple[int, ...] = ()
    depth: int = 0


# Of this thread: a hook gets only the module and its inputs, and `o_proj` and the feed-forward network get no keywords.
_call = _LayerCall()


def _tokens() -> Tensor | None:
    """`(N,)` indices of pooled tokens in the flattened `(R * T)` tokens of the rows; None: all tokens."""
    rows = None if _call.rows is None else _call.rows()
    tokens: Tensor | None = None if rows is None else rows.pooled
    return tokens


class LastLayer:
    """Hooks that restrict the last decoder layer of a transformer to the tokens in `RowPlan.pooled` of a pass.

    >>> LastLayer().install(nn.Linear(2, 2)) is None  # no layers, so nothing is registered
    True
    """

    def __init__(self) -> None:
        self._modules: list[nn.Module] = []
        self._hooks: list[RemovableHandle] = []

    def install(self, transformer: nn.Module) -> int | None:
        """Registers the hooks; also again after adapters were added or merged, which replaces the modules.

        Args:
            transformer: unless its last layer has `self_attn.q_proj`, `self_attn.o_proj` and `mlp.down_proj`, nothing
                is registered.

        Returns:
            The index of the layer; None if it cannot be restricted.
        """
        layers, attention, modules = _last(transformer)
        with _installing:
            # Registered once for a set of modules, because this runs at every forward pass.
            if modules != self._modules:
                for hook in self._hooks:
                    hook.remove()
                self._modules = modules
                self._hooks = [module.register_forward_pre_hook(_gather) for module in modules]
                self._hooks += [module.register_forward_hook(_scatter) for module in modules]
                if attention is not None:
                    self._hooks.append(attention.register_forward_pre_hook(_begin, with_kwargs=True))
        return layers - 1 if modules else None


def restricted_layer(transformer: nn.Module) -> int | None:
    """The index of the layer that `LastLayer` restricts; None if it cannot be restricted.

    >>> restricted_layer(nn.Linear(2, 2)) is None
    True
    """
    layers, _, modules = _last(transformer)
    return layers - 1 if modules else None


def _begin(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Reads the plan of the pass when the attention of the last layer is called."""
    rows = kwargs.get("rows")
    _call.rows = None if rows is None else weakref.ref(rows)
    _call.depth = 0


def _gather(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
    """Reduces the input `(R, T, D)` of a module to pooled tokens, `(1, N, D)`."""
    tokens = _tokens()
    if tokens is None:
        return None
    _call.depth += 1
    # The base layer inside of an adapter gets states that the adapter's own hook has reduced.
    if _call.depth > 1:
        return None
    (states,) = inputs
    _call.shape = tuple(states.shape[:2])
    return (states.flatten(0, 1).index_select(0, tokens)[None],)


def _scatter(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """Expands the output of a module from pooled tokens, `(1, N, D)`, to all tokens, `(R, T, D)`, with zeros."""
    tokens = _tokens()
    if tokens is None:
        return None
    _call.depth -= 1
    if _call.depth > 0:
        return None
    rows, length = _call.shape
    all_tokens = output.new_zeros(rows * length, output.shape[-1])
    return all_tokens.index_copy(0, tokens, output[0]).view(rows, length, -1)


def _last(transformer: nn.Module) -> tuple[int, nn.Module | None, list[nn.Module]]:
    """The number of layers, the attention of the last one, and its modules that process tokens independently.

    Keys and values are not among them: every token of the row needs those of all earlier ones.
    """
    layers: Any = getattr(getattr(transformer, "language_model", transformer), "layers", [])
    last: Any = layers[-1] if len(layers) else None
    attention: Any = getattr(last, "self_attn", None)
    feed_forward: Any = getattr(last, "mlp", None)
    modules = [getattr(attention, "q_proj", None), getattr(attention, "o_proj", None), feed_forward]
    if not hasattr(feed_forward, "down_proj") or not all(isinstance(module, nn.Module) for module in modules):
        return len(layers), None, []
    return len(layers), attention, modules
