"""The last layer works for pooled tokens alone.

Of the last decoder layer only the pooled tokens' states are read. The other tokens give it their keys and values; their
queries, their attention and their feed-forward network would be thrown away. So these run on the pooled tokens, and
elsewhere the row is zero. Scores and gradients stay what they are: nothing that is left out reaches them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class LastLayer:
    """Restricts the last decoder layer of a transformer to some tokens.

    Modules are looked up anew for every batch, since adapters that are added or folded in take their place.
    """

    def __init__(self) -> None:
        self._tokens: Tensor | None = None  # (N,), places in the flattened (R * T) tokens of the rows
        self._shape: tuple[int, ...] = ()
        self._modules: list[nn.Module] = []
        self._hooks: list[RemovableHandle] = []

    def restrict(self, transformer: nn.Module, places: Tensor | None, *, length: int) -> int | None:
        """Until the next call, the last layer works for the tokens at `places` only.

        That holds for what gradient checkpointing computes again, too: it does so before the next batch.

        Args:
            transformer: one whose last layer has `self_attn.q_proj`, `self_attn.o_proj` and `mlp.down_proj`; of another
                nothing is restricted.
            places: row and column of each, `(N, 2)`; None: all of them.
            length: tokens T of a row.

        Returns:
            The layer's index; None where nothing is restricted.
        """
        layers, modules = _last(transformer)
        if modules != self._modules:
            for hook in self._hooks:
                hook.remove()
            self._modules = modules
            self._hooks = [module.register_forward_pre_hook(self._take) for module in modules]
            self._hooks += [module.register_forward_hook(self._put_back) for module in modules]
        self._tokens = None if places is None else places[:, 0] * length + places[:, 1]
        return layers - 1 if modules and places is not None else None

    def _take(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        if self._tokens is None:
            return None
        (states,) = inputs
        self._shape = tuple(states.shape[:2])
        return (states.flatten(0, 1).index_select(0, self._tokens)[None],)

    def _put_back(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self._tokens is None:
            return None
        rows, length = self._shape
        whole = output.new_zeros(rows * length, output.shape[-1])
        return whole.index_copy(0, self._tokens, output[0]).view(rows, length, -1)


def _last(transformer: nn.Module) -> tuple[int, list[nn.Module]]:
    """How many layers there are, and the modules of the last one that work token by token."""
    layers: Any = getattr(getattr(transformer, "language_model", transformer), "layers", [])
    last: Any = layers[-1] if len(layers) else None
    attention: Any = getattr(last, "self_attn", None)
    feed_forward: Any = getattr(last, "mlp", None)
    if not hasattr(feed_forward, "down_proj") or not hasattr(attention, "q_proj") or not hasattr(attention, "o_proj"):
        return len(layers), []
    return len(layers), [attention.q_proj, attention.o_proj, feed_forward]
