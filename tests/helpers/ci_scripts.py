"""The Python scripts of `.ci` as modules."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / ".ci"


def load_ci_script(name: str) -> ModuleType:
    """The module of a script such as `check-style`; its main function is not called."""
    module_name = name.replace("-", "_")
    # The loader is named because the files have no suffix by which Python would choose one.
    loader = SourceFileLoader(module_name, str(FOLDER / name))
    spec = importlib.util.spec_from_loader(module_name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up here while they are made.
    sys.modules[module_name] = module
    loader.exec_module(module)
    return module
