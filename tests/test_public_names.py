"""Test the public names of `import basereward`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import basereward
import basereward.recipe

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", [basereward, basereward.recipe], ids=["basereward", "recipe"])
def test_every_public_name_exists(package: object) -> None:
    """`__all__` is sorted, and each of its names can be imported."""
    names = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    for name in names:
        assert getattr(package, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    """The error is that of any module."""
    with pytest.raises(AttributeError, match="has no attribute 'loadx'"):
        basereward.loadx  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'loadx'"):
        basereward.recipe.loadx  # noqa: B018


def test_import_loads_no_heavy_library() -> None:
    """Reading and checking a sweep loads none either."""
    code = (
        "import sys, basereward, basereward.cli; dir(basereward); basereward.load_cells('head_depth'); "
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'sklearn', 'mlflow', 'datasets', 'pytorch_lightning'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    completed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout == "[]\n"
