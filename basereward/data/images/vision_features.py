"""Features of images from a frozen vision tower.

Shapes: S states per token (the input of the language model, and those that are added in deeper layers), F visual
tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

Grid = tuple[int, int, int]
"""Patches of an image in time, height and width."""


@dataclass(frozen=True, slots=True)
class Features:
    """The features of one or several images."""

    states: Tensor  # (S, F, D), image after image
    grids: tuple[Grid, ...]  # of each image
    tokens: tuple[int, ...]  # visual tokens of each image; F together

    def map(self, change: Callable[[Tensor], Tensor]) -> Features:
        """Apply a function to the states."""
        return replace(self, states=change(self.states))

    def split(self) -> list[Tensor]:
        """Return the states of each image, `(S, tokens, D)`."""
        return list(torch.split(self.states, list(self.tokens), dim=1))

    @staticmethod
    def joined(features: Sequence[Features]) -> Features:
        """Concatenate features of one vision tower."""
        return Features(
            torch.cat([part.states for part in features], dim=1),
            tuple(chain.from_iterable(part.grids for part in features)),
            tuple(chain.from_iterable(part.tokens for part in features)),
        )
