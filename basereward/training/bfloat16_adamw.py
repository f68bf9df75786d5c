"""AdamW for weights in bfloat16, whose 8 significant bits are too few for small steps.

Rounded to the nearest number, a step of less than about 1/512 of a weight changes nothing. Float32 master copies keep
such steps until they add up (Micikevicius et al., arXiv 1710.03740). Stochastic rounding needs no copies: it rounds up
or down with probabilities that make the mean of the result exact (Gupta et al., arXiv 1502.02551).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

Bfloat16Update = Literal["nearest", "master", "stochastic"]
FUSED = ("cpu", "cuda")
"""Devices for which torch has a fused AdamW that our tests cover."""
CUT_BITS = 16
"""Bits of a float32 that a bfloat16 does not have."""


class Bfloat16AdamW(torch.optim.Optimizer):
    """AdamW whose moments and arithmetic are in float32 whatever the precision of the weights.

    Weights in float32 are updated as by torch's AdamW, bit for bit.

    Args:
        groups: parameter groups with `lr` and `weight_decay`.
        update: `master` keeps a float32 copy of every weight in bfloat16, and the weight is its nearest number;
            `stochastic` rounds the updated weight at random.
        betas: as in torch's AdamW.
        eps: as in torch's AdamW.

    >>> weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    >>> optimizer = Bfloat16AdamW(
    ...     [{"params": [weight], "lr": 1e-3, "weight_decay": 0.0}], update="master", betas=(0.9, 0.999), eps=1e-8
    ... )
    >>> for _ in range(3):
    ...     weight.grad = torch.ones_like(weight)
    ...     optimizer.step()
    >>> weight.item(), round(optimizer.state[weight]["master"].item(), 6)  # the step below 1 is 1/256
    (0.99609375, 0.997)
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        update: Literal["master", "stochastic"],
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        # The number of steps is on the host as well as in the states: as a seed, it must not be read from a GPU.
        super().__init__(list(groups), {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0, "steps": 0})
        self.update = update

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight that has a gradient.

        Args:
            closure: computes the gradients before the update.

        Returns:
            What `closure` returns.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        index = 0
        for group in self.param_groups:
            group["steps"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, index=index)
                index += 1
        return result

    @torch.no_grad()
    def _update(self, parameter: Tensor, group: Mapping[str, Any], *, index: int) -> None:
        """Update one weight; `index` is its number among all weights."""
        # One weight at a time, so that float32 copies of one gradient and one weight exist at once.
        state = self.state[parameter]
        in_float32 = parameter.dtype == torch.float32
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
            if self.update == "master" and not in_float32:
                state["master"] = parameter.detach().float()
        updated = state["master"] if "master" in state else parameter.float()
        gradient = cast(Tensor, parameter.grad).float()
        moments = ([state["exp_avg"]], [state["exp_avg_sq"]])
        adamw(
            *([updated], [gradient], *moments, [], [state["step"]]),
            fused=parameter.device.type in FUSED,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        if in_float32:
            return
        if self.update == "stochastic":
            # Of the step and the weight alone, so that a resumed run draws the same numbers.
            generator = torch.Generator(parameter.device).manual_seed((group["steps"] << 24) + index)
            updated = round_stochastically(updated, generator=generator)
        parameter.copy_(updated)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load states as they were saved; torch would cast them to the precision of the weights.

        Args:
            state_dict: of an optimizer with the same weights.
        """
        super().load_state_dict(state_dict)
        numbers: list[int] = []
        for group in state_dict["param_groups"]:
            numbers += group["params"]
        for number, parameter in zip(numbers, self._parameters(), strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[parameter][name] = value.to(parameter.device, copy=True)

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]


def round_stochastically(values: Tensor, *, generator: torch.Generator) -> Tensor:
    """Round to one of the two neighbours in bfloat16, each with a probability that makes the mean exact.

    Args:
        values: float32.
        generator: on the same device.

    Returns:
        bfloat16, of the same shape.

    >>> values = torch.tensor([1.0, -3.0, 0.0, float("inf")])  # numbers of bfloat16 stay
    >>> round_stochastically(values, generator=torch.Generator()).tolist()
    [1.0, -3.0, 0.0, inf]
    """
    noise = torch.randint(2**CUT_BITS, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    # The bits of a float are ordered as its magnitude: adding below the cut carries over with the right probability.
    bits = (values.contiguous().view(torch.int32) + noise) & -(2**CUT_BITS)
    rounded: Tensor = bits.view(torch.float32).to(torch.bfloat16)
    return rounded
