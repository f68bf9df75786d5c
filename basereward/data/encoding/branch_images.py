"""Which images stand in which branch of a group, and where. Shapes: L tokens of a branch, V of them of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from basereward.data.schema.group import Group, Part


@dataclass(frozen=True, slots=True)
class BranchImages:
    """The images in one branch.

    Attributes:
        images: indices of the images among those of the group, in the order of the branch.
        tokens: `(V,)` int64, the places of their tokens in the branch.
        positions: `(3, L)` or `(L,)` int64, the positions of the branch's tokens, counted from its start.

    >>> import torch
    >>> BranchImages((1,), torch.tensor([2, 3]), torch.arange(5)).images
    (1,)
    """

    images: tuple[int, ...]
    tokens: Tensor
    positions: Tensor


def response_content(group: Group, index: int) -> str | tuple[Part, ...]:
    """A response as its text, or as texts and places of images if it has any.

    >>> response_content(Group("a", "s", (), ("4",)), 0)
    '4'
    """
    return group.response_parts(index) if group.images_of(index) else group.responses[index]


def images_of_responses(group: Group) -> list[tuple[int, ...]]:
    """For each response the indices of its images among those of the group, of which the prompt's come first.

    >>> from basereward.data.schema.group import PlacedImage
    >>> placed = ((PlacedImage(0, "b.png"),), ())
    >>> images_of_responses(Group("a", "s", (), ("", "4"), images=("a.png",), response_images=placed))
    [(1,), ()]
    """
    indices: list[tuple[int, ...]] = []
    first = len(group.images)
    for index in range(len(group.responses)):
        number = len(group.images_of(index))
        indices.append(tuple(range(first, first + number)))
        first += number
    return indices


def images_of_branches(group: Group, shown: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """For each branch the indices of its images among those of the group.

    Args:
        group: the group.
        shown: for each branch the indices of the responses that it shows, in this order.

    >>> from basereward.data.schema.group import PlacedImage
    >>> group = Group("a", "s", (), ("", ""), response_images=((PlacedImage(0, "a.png"),), (PlacedImage(0, "b.png"),)))
    >>> images_of_branches(group, [(0, 1), (1, 0)])
    [(0, 1), (1, 0)]
    """
    of_responses = images_of_responses(group)
    of_branches: list[tuple[int, ...]] = []
    for responses in shown:
        indices: list[int] = []
        for response in responses:
            indices += of_responses[response]
        of_branches.append(tuple(indices))
    return of_branches
