"""What `import basereward` offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import basereward
import basereward.recipe

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", [basereward, basereward.recipe], ids=["basereward", "recipe"])
def test_every_public_name_is_there(package: object) -> None:
    """The list is sorted, and each name of it can be had."""
    listed = package.__all__  # type: ignore[attr-defined]
    assert listed == sorted(listed)
    for name in listed:
        assert getattr(package, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="has no attribute 'loadx'"):
        basereward.loadx  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'loadx'"):
        basereward.recipe.loadx  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Nor does reading and checking a sweep, on whatever profile."""
    code = (
        "import sys, basereward, basereward.cli; dir(basereward); basereward.load_cells('head_depth'); "
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'sklearn', 'mlflow', 'datasets', 'pytorch_lightning'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
