"""Small copies of pictures: bounded in size, true to what they show."""

from __future__ import annotations

import base64
import io

import numpy as np
import PIL.Image

from basereward.evaluation.reports.thumbnails import BUDGET, MAX_SIDE, MIN_SIDE, data_uri, side_for
from tests.helpers.support import picture


def opened(uri: str) -> PIL.Image.Image:
    """The picture that a data URI holds."""
    return PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_small_picture_stays_as_it_is() -> None:
    """Every pixel of it."""
    given = picture(3)
    assert np.array_equal(np.asarray(opened(data_uri(given, side=768))), np.asarray(given))


def test_a_large_picture_is_made_smaller_and_keeps_its_proportions() -> None:
    """The picture that was given is not changed."""
    given = PIL.Image.new("RGB", (3000, 1500), "red")
    small = opened(data_uri(given, side=300))
    assert small.size == (300, 150)
    assert small.getpixel((10, 10))[0] > 240  # type: ignore[index]
    assert given.size == (3000, 1500)


def test_a_line_of_one_pixel_is_no_error() -> None:
    """Its shorter side stays one pixel."""
    assert opened(data_uri(PIL.Image.new("RGB", (5000, 1)), side=200)).size == (200, 1)


def test_together_they_keep_to_the_budget() -> None:
    """As long as they can still be recognised."""
    for number in (1, 200, 1000, 10_000):
        assert number * side_for(number) ** 2 <= BUDGET
    assert side_for(0) == MAX_SIDE
    assert side_for(10**9) == MIN_SIDE
