"""The order of windows equals that of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers.vision_utils import get_vision_window_index

from basereward.model.families.supported.qwen_vl import window_order

GRIDS = [[(1, 8, 8)], [(1, 10, 6), (2, 4, 14)], [(3, 2, 2), (1, 64, 62), (1, 16, 16)]]


@pytest.mark.parametrize("side", [1, 2, 4])
@pytest.mark.parametrize("grids", GRIDS)
def test_window_order_equals_transformers(grids: list[tuple[int, int, int]], side: int) -> None:
    """Order of the merged tokens and bounds of the windows, with windows cut at the edges and several frames."""
    expected_order, expected_bounds = get_vision_window_index(
        torch.tensor(grids), spatial_merge_size=2, window_size=side * 2 * 14, patch_size=14
    )
    order, sizes = window_order(grids, side=side, merge=2)
    assert order.tolist() == expected_order.tolist()
    assert torch.tensor([0, *sizes]).cumsum(0).tolist() == expected_bounds.tolist()
