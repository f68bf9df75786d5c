"""Deduplicates the images of a batch, so that the vision tower encodes each distinct image once.

Shapes: n images to encode, N patches, m image places in the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.images.image_features import CachedFeatures
from basereward.data.images.pixels import Pixels
from basereward.data.images.vision_features import Features, Grid

# Values that are hashed first. Most different images already differ in these, and hashing all would take longer.
_SAMPLE = 1024


@dataclass(frozen=True, slots=True)
class BatchImages:
    """The images of a batch, each distinct one once.

    Attributes:
        pixels: N patches of the n images to encode; None if there are none.
        grids: patches of each of these images in time, height and width. They stay on the host, where all that depends
            on them is computed.
        keys: for each of the n images, the key to store its features under; empty without a feature store.
        features: features of images that need not be encoded; None if there are none.
        places: for each of the m image places, group by group, the index of its image: 0 to n - 1 are the images to
            encode, n and above those in `features`.
        tokens: `(V,)` int64, the tokens of these m places among the flattened `(R * T)` of the rows, in the order of
            `places`; None if there are none. Found on the host, since a search on a GPU would wait for it.

    >>> BatchImages().places
    ()
    """

    pixels: Pixels | None = None
    grids: tuple[Grid, ...] = ()
    keys: tuple[str, ...] = ()
    features: Features | None = None
    places: tuple[int, ...] = ()
    tokens: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> BatchImages:
        """Return the images with all tensors changed."""
        return replace(
            self,
            pixels=self.pixels.map(change) if self.pixels is not None else None,
            features=self.features.map(change) if self.features is not None else None,
            tokens=change(self.tokens) if self.tokens is not None else None,
        )


def deduplicate_images(groups: Sequence[EncodedGroup], placed: Sequence[Sequence[int]]) -> BatchImages:
    """Collect the distinct images of groups.

    Args:
        groups: the groups.
        placed: for each group the indices of its images, as often as they stand in the rows; see `placed_images`.

    >>> text, grid = torch.tensor([1, 2]), torch.tensor([[1, 1, 2]])
    >>> group = EncodedGroup("a", "s", text, text, (text,), (), pixels=Pixels(torch.ones(2, 6)), images_thw=grid)
    >>> images = deduplicate_images([group, group], [[0], [0, 0]])
    >>> images.grids, images.places
    (((1, 1, 2),), (0, 0, 0))
    """
    table = _Table()
    order: list[tuple[bool, int]] = []
    for group, indices in zip(groups, placed, strict=True):
        images = list(_images(group))
        known: dict[int, tuple[bool, int]] = {}
        for index in indices:
            if index not in known:
                known[index] = table.place(images[index])
            order.append(known[index])
    n = len(table.pixels)
    return BatchImages(
        pixels=Pixels.joined(table.pixels) if table.pixels else None,
        grids=tuple(table.grids),
        keys=tuple(table.keys),
        features=Features.joined(table.features) if table.features else None,
        places=tuple(index if encode else n + index for encode, index in order),
    )


def placed_images(group: EncodedGroup, layout: Literal["tree", "plain"]) -> list[int]:
    """The indices of a group's images as often as they stand in its rows: those of the prompt before those of branches.

    Args:
        group: the group.
        layout: a plain row repeats the prompt for every branch.

    >>> text, grid = torch.tensor([1, 2]), torch.tensor([[1, 1, 2]])
    >>> placed_images(EncodedGroup("a", "s", text, text, (text, text), (), images_thw=grid), "plain")
    [0, 0]
    """
    prefix = list(group.prefix_images)
    placed = prefix if layout == "tree" else []
    for number in range(len(group.branches)):
        if layout == "plain":
            placed = placed + prefix
        if group.branch_images:
            placed = [*placed, *group.branch_images[number].images]
    return placed


@dataclass(frozen=True, slots=True)
class _Image:
    """One image: its patches, or its cached features."""

    grid: Grid
    pixels: Pixels | None
    cached: CachedFeatures | None


def _images(group: EncodedGroup) -> Iterator[_Image]:
    """Yield the images of a group, in order."""
    if group.images_thw is None:
        return
    first = 0
    entries = group.cached_features or [None] * len(group.images_thw)
    for thw, cached in zip(group.images_thw.tolist(), entries, strict=True):
        grid: Grid = (thw[0], thw[1], thw[2])
        # `group.pixels` has no patches of images whose features are cached.
        if cached is not None and cached.features is not None:
            yield _Image(grid, None, cached)
            continue
        assert group.pixels is not None
        here = slice(first, first + math.prod(grid))
        first = here.stop
        yield _Image(grid, group.pixels.map(lambda patches, here=here: patches[here]), cached)  # type: ignore[misc]


@dataclass(slots=True)
class _Table:
    """The distinct images so far; those to encode and those with features are numbered separately."""

    pixels: list[Pixels] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    features: list[Features] = field(default_factory=list)
    by_signature: dict[Hashable, list[tuple[bool, int]]] = field(default_factory=dict)

    def place(self, image: _Image) -> tuple[bool, int]:
        """Return whether an image is to be encoded, and its index among the images of that kind."""
        candidates = self.by_signature.setdefault(_signature(image), [])
        for place in candidates:
            # Keys are hashes of the content. Without a key, equal signatures do not prove that the images are equal.
            if image.cached is not None or self._same(image, place[1]):
                return place
        candidates.append(self._add(image))
        return candidates[-1]

    def _same(self, image: _Image, index: int) -> bool:
        assert image.pixels is not None
        return torch.equal(self.pixels[index].patches, image.pixels.patches)

    def _add(self, image: _Image) -> tuple[bool, int]:
        if image.pixels is None:
            assert image.cached is not None
            assert image.cached.features is not None
            self.features.append(image.cached.features)
            return False, len(self.features) - 1
        self.pixels.append(image.pixels)
        self.grids.append(image.grid)
        if image.cached is not None:
            self.keys.append(image.cached.key)
        return True, len(self.pixels) - 1


def _signature(image: _Image) -> Hashable:
    """A value that equal images share: the key, or the grid with a sample of the patches."""
    if image.cached is not None:
        return image.cached.key
    assert image.pixels is not None
    # A sample over the whole image, because images often share their borders, for example a white margin.
    values = image.pixels.patches.flatten()
    return (*image.grid, values[:: max(1, len(values) // _SAMPLE)].numpy().tobytes())
