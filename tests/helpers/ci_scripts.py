"""Load the Python scripts of `.ci` as modules."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / ".ci"


def load_ci_script(name: str) -> ModuleType:
    """Load a script such as `check-style` as a module without calling its main function."""
    module_name = name.replace("-", "_")
    # The files have no suffix from which Python would choose a loader.
    loader = SourceFileLoader(module_name, str(FOLDER / name))
    spec = importlib.util.spec_from_loader(module_name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module here while they are defined.
    sys.modules[module_name] = module
    loader.exec_module(module)
    return module
