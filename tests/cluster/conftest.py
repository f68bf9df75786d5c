"""The address of the Ray cluster of a module, under the name that the tests of this folder use."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def address(ray_address: str) -> str:
    """Return the address of a Ray cluster with two CPUs."""
    return ray_address
