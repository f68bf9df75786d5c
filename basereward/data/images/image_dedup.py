"""The pictures of a batch, each once however often it comes.

Shapes: n pictures to encode, N patches, m places of pictures in the rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.images.image_features import CachedFeatures
from basereward.data.images.pixels import Pixels
from basereward.data.images.vision_features import Features

_SAMPLE = 1024  # values that tell most pictures apart before all are compared


@dataclass(frozen=True, slots=True)
class Distinct:
    """What the model gets to see of a batch's pictures."""

    pixels: Pixels | None  # N patches of the n pictures to encode
    grids: Tensor | None  # (n, 3) their patches in time, height and width
    keys: tuple[str, ...]  # n names to keep their features under; none where features are not kept
    features: Features | None  # of the pictures that need not be encoded
    places: tuple[int, ...]  # m: which picture comes next in the rows: of those to encode, then of `features`


def distinct(groups: Sequence[EncodedGroup], copies: Sequence[int]) -> Distinct:
    """Sorts out the pictures of groups; `copies` says how often each group's come, one copy after the other."""
    table = _Table()
    order: list[tuple[bool, int]] = []
    for group, number in zip(groups, copies, strict=True):
        order += [table.place(picture) for picture in _pictures(group)] * number
    n = len(table.pixels)
    return Distinct(
        pixels=Pixels.joined(table.pixels) if table.pixels else None,
        grids=torch.stack(table.grids) if table.grids else None,
        keys=tuple(table.keys),
        features=Features.joined(table.features) if table.features else None,
        places=tuple(index if encode else n + index for encode, index in order),
    )


@dataclass(frozen=True, slots=True)
class _Picture:
    grid: Tensor  # (3,)
    pixels: Pixels | None
    known: CachedFeatures | None


def _pictures(group: EncodedGroup) -> Iterator[_Picture]:
    """The pictures of a group, in order."""
    if group.images_thw is None:
        return
    first = 0
    for grid, known in zip(group.images_thw, group.known or [None] * len(group.images_thw), strict=True):
        if known is not None and known.features is not None:
            yield _Picture(grid, None, known)
            continue
        assert group.pixels is not None
        here = slice(first, first + int(grid.prod()))
        first = here.stop
        yield _Picture(grid, group.pixels.map(lambda patches, here=here: patches[here]), known)  # type: ignore[misc]


@dataclass(slots=True)
class _Table:
    """Pictures that were met, those to encode apart from those whose features are kept."""

    pixels: list[Pixels] = field(default_factory=list)
    grids: list[Tensor] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    features: list[Features] = field(default_factory=list)
    met: dict[Hashable, list[tuple[bool, int]]] = field(default_factory=dict)

    def place(self, picture: _Picture) -> tuple[bool, int]:
        """Whether the picture is to be encoded, and its index among those that are, or among those that are not."""
        alike = self.met.setdefault(_signature(picture), [])
        for place in alike:
            if picture.known is not None or self._same(picture, place[1]):
                return place
        alike.append(self._add(picture))
        return alike[-1]

    def _same(self, picture: _Picture, index: int) -> bool:
        assert picture.pixels is not None
        return torch.equal(self.pixels[index].patches, picture.pixels.patches)

    def _add(self, picture: _Picture) -> tuple[bool, int]:
        if picture.pixels is None:
            assert picture.known is not None
            assert picture.known.features is not None
            self.features.append(picture.known.features)
            return False, len(self.features) - 1
        self.pixels.append(picture.pixels)
        self.grids.append(picture.grid)
        if picture.known is not None:
            self.keys.append(picture.known.key)
        return True, len(self.pixels) - 1


def _signature(picture: _Picture) -> Hashable:
    """The same for equal pictures: the key, or the grid with some values; different pictures may share the latter."""
    if picture.known is not None:
        return picture.known.key
    assert picture.pixels is not None
    values = picture.pixels.patches.flatten()
    return (*picture.grid.tolist(), values[:: max(1, len(values) // _SAMPLE)].numpy().tobytes())
