"""Checks that images and their positions reach a forward pass of a policy.

The code that was released with R1-Reward trains its policy without the images, which nothing in its losses shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from basereward.errors import TrainingError


def check_image_inputs(
    input_ids: Tensor,
    *,
    image_token_id: int,
    merge_size: int,
    pixel_values: Tensor | None,
    image_grid_thw: Tensor | None,
    mm_token_type_ids: Tensor | None,
) -> None:
    """Checks that every image token has its pixels and its mark for positions.

    Args:
        input_ids: `(N, T)`.
        image_token_id: of the placeholder of images.
        merge_size: patches of an image in each direction that become one token.
        pixel_values: `(patches, D)`, of all images.
        image_grid_thw: `(images, 3)`.
        mm_token_type_ids: `(N, T)`; 1 at image tokens.

    Raises:
        TrainingError: they do not fit.

    >>> check_image_inputs(torch.tensor([[5, 7]]), image_token_id=9, merge_size=2, pixel_values=None,
    ...                    image_grid_thw=None, mm_token_type_ids=None)  # no image, no pixels
    """
    places = input_ids == image_token_id
    tokens = int(places.sum())
    patches = 0 if pixel_values is None else len(pixel_values)
    expected = 0 if image_grid_thw is None else int(image_grid_thw.prod(-1).sum())
    if not patches == expected == tokens * merge_size**2:
        raise TrainingError(
            f"a forward pass of the policy has {tokens} image tokens, which stand for {tokens * merge_size**2} "
            f"patches, and gets pixels of {patches} patches (grids: {expected}). Make rows with basereward.rl.rows, "
            "and the processor with basereward.model.policy"
        )
    if tokens and (mm_token_type_ids is None or not torch.equal(mm_token_type_ids == 1, places)):
        raise TrainingError(
            "the types of tokens do not mark the image tokens of a forward pass, so their three-axis positions would "
            "be wrong. The processor must pad on the left; make it with basereward.model.policy"
        )


def check_axes(position_ids: Tensor | None, places: Tensor) -> None:
    """Checks that images have positions of three axes.

    Args:
        position_ids: `(3, N, T)`, or `(4, N, T)` with those of the text first.
        places: `(N, T)`, whether a token is one of an image.

    Raises:
        TrainingError: the positions count tokens, as those of text do.

    >>> check_axes(torch.tensor([[[0, 0]], [[0, 0]], [[0, 1]]]), torch.tensor([[True, True]]))
    """
    # Images are separated by other tokens. One of a single token has the same place on all axes.
    several = (places[:, 1:] & places[:, :-1]).any(-1)
    if not several.any():
        return
    if position_ids is not None and position_ids.ndim == 3 and len(position_ids) >= 3:
        height, width = position_ids[-2], position_ids[-1]
        if bool((((height != width) & places).any(-1) | ~several).all()):
            return
    raise TrainingError(
        "a forward pass of the policy gives image tokens the positions of text, and not those of three axes; the model "
        "would see other images than in training and scoring"
    )


@contextmanager
def checked_axes(model: nn.Module, places: Tensor) -> Iterator[None]:
    """Checks the positions that the language model of a policy gets in the block.

    Args:
        model: of a family with three-axis positions; without parallel wrappers.
        places: see `check_axes`.

    Raises:
        TrainingError: the language model has not been called, or see `check_axes`.
    """
    calls = 0

    def check(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        check_axes(options.get("position_ids"), places)

    handle = language_model(model).register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise TrainingError("a forward pass of the policy has not called its language model; its positions are unknown")


def language_model(model: nn.Module) -> nn.Module:
    """The language model in a vision-language model, below adapters too.

    Raises:
        TrainingError: it has none.

    >>> holder = nn.Module()
    >>> holder.language_model = nn.Linear(1, 1)
    >>> language_model(nn.Sequential(holder)) is holder.language_model
    True
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "language_model":
            found: nn.Module = module
            return found
    raise TrainingError(f"{type(model).__name__} has no module language_model")
