"""Test the checks of images and positions on made tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from basereward.errors import TrainingError
from basereward.rl.vision_checks import check_axes, check_image_inputs, checked_axes

IMAGE = 9
IDS = torch.tensor([[1, IMAGE, IMAGE, 2], [0, 1, 2, 3]])
GOOD: dict[str, Any] = {
    "pixel_values": torch.zeros(8, 3),
    "image_grid_thw": torch.tensor([[1, 2, 4]]),
    "mm_token_type_ids": (IDS == IMAGE).long(),
}


def test_images_with_all_their_inputs_pass() -> None:
    """Two tokens stand for eight patches of a grid of 2 by 4."""
    check_image_inputs(IDS, image_token_id=IMAGE, merge_size=2, **GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"pixel_values": None},
        {"pixel_values": torch.zeros(4, 3)},
        {"image_grid_thw": None},
        {"image_grid_thw": torch.tensor([[1, 2, 2]])},
        {"mm_token_type_ids": None},
        {"mm_token_type_ids": torch.zeros_like(IDS)},
    ],
)
def test_image_without_one_of_its_inputs_is_refused(change: dict[str, Any]) -> None:
    """So are pixels without image tokens."""
    with pytest.raises(TrainingError):
        check_image_inputs(IDS, image_token_id=IMAGE, merge_size=2, **GOOD | change)
    with pytest.raises(TrainingError):
        check_image_inputs(IDS[1:], image_token_id=IMAGE, merge_size=2, **GOOD)


def test_axes_must_differ_at_images_of_several_tokens() -> None:
    """Positions that count tokens are refused; text alone, and images of one token, have nothing to check."""
    text = torch.arange(4).expand(3, 2, 4)
    axes = text.clone()
    axes[1, 0, 1:3], axes[2, 0, 1:3] = 1, torch.tensor([1, 2])
    places = IDS == IMAGE
    check_axes(axes, places)
    check_axes(text, torch.tensor([[True, False, True, False], [False] * 4]))
    for wrong in (text, None, text[0]):
        with pytest.raises(TrainingError):
            check_axes(wrong, places)


class Model(nn.Module):
    """Calls its language model with given positions, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.language_model = nn.Identity()

    def forward(self, positions: Any) -> None:
        """One pass."""
        self.language_model.forward = lambda value, position_ids=None: value  # type: ignore[method-assign]
        if positions is not None:
            self.language_model(torch.zeros(1), position_ids=positions)


def test_language_model_that_is_not_called_is_refused() -> None:
    """A pass whose positions were never seen proves nothing."""
    model, places = Model(), IDS == IMAGE
    axes = torch.stack([torch.zeros_like(IDS), torch.zeros_like(IDS), torch.arange(8).view(2, 4)])
    with checked_axes(model, places):
        model(axes)
    with pytest.raises(TrainingError, match="not called"), checked_axes(model, places):
        model(None)
    with pytest.raises(TrainingError, match="positions of text"), checked_axes(model, places):
        model(torch.zeros_like(axes))
