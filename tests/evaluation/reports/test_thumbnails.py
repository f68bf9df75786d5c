"""Test thumbnails: their sizes are limited, and they show the original picture."""

from __future__ import annotations

import base64
import io

import numpy as np
import PIL.Image

from basereward.evaluation.reports.thumbnails import BUDGET, MAX_SIDE, MIN_SIDE, data_uri, side_for
from tests.helpers.support import picture


def opened(uri: str) -> PIL.Image.Image:
    """Open the picture of a data URI."""
    return PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_small_picture_is_unchanged() -> None:
    """Every pixel is equal."""
    original = picture(3)
    assert np.array_equal(np.asarray(opened(data_uri(original, side=768))), np.asarray(original))


def test_large_picture_is_scaled_with_its_proportions() -> None:
    """The original picture is not changed."""
    original = PIL.Image.new("RGB", (3000, 1500), "red")
    small = opened(data_uri(original, side=300))
    assert small.size == (300, 150)
    assert small.getpixel((10, 10))[0] > 240  # type: ignore[index]
    assert original.size == (3000, 1500)


def test_picture_of_one_pixel_height_is_scaled() -> None:
    """The shorter side stays one pixel."""
    assert opened(data_uri(PIL.Image.new("RGB", (5000, 1)), side=200)).size == (200, 1)


def test_side_keeps_to_the_budget() -> None:
    """All thumbnails together have at most BUDGET pixels while their side is above the minimum."""
    for number in (1, 200, 1000, 10_000):
        assert number * side_for(number) ** 2 <= BUDGET
    assert side_for(0) == MAX_SIDE
    assert side_for(10**9) == MIN_SIDE
