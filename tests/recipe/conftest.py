"""Fixtures: a folder of experiments, and user modules that a test writes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from basereward.recipe.trust import trusting

PROFILE = """\
# A small profile for tests.
model: {backbone: {path: some/model}}
data: {sources: {words: {_target_: recipe_targets.Words, path: words.txt}}}
batch: {groups: 8}
"""
EXPERIMENT = """\
# One head, one loss.
# Run it: basereward train one
model: {head: {_target_: recipe_targets.Deep, layers: 2}}
loss: {_target_: recipe_targets.Plain}
"""
TARGETS = '''\
"""Importing this module is what a check must not do."""
from typing import Literal, Optional

raise RuntimeError("imported")

Activation = Literal["none", "tanh", "silu"]

class Shallow:
    def __init__(self, hidden_size: int, *, bias: bool = True) -> None: ...

class Deep:
    def __init__(self, hidden_size: int, *, layers: int, activation: "Activation" = "silu", dropout: float = 0,
                 width: Optional[int] = None) -> None: ...

class Plain:
    def __init__(self, *, margin: float | Literal["data"] = 0.0) -> None: ...

class Open:
    def __init__(self, hidden_size, **more) -> None: ...

class Words:
    def __init__(self, name: str, *, path: str, splits: tuple[float, ...] = (0.8, 0.2)) -> None: ...

def maker(folder, *, seed: int = 0): ...
'''


@pytest.fixture(autouse=True)
def trusted() -> Iterator[None]:
    """Allow code of user modules, since the tests have written it."""
    with trusting():
        yield


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Return a function that writes an importable module, removed after the test. A name with a slash is in a
    package."""
    root = tmp_path / "modules"
    monkeypatch.syspath_prepend(str(root))
    written: list[str] = []

    def write(name: str, source: str) -> Path:
        file = root / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
        written.append(name.split("/")[0])
        return file

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] in written]:
        del sys.modules[name]


@pytest.fixture
def experiments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_module: Callable[[str, str], Path]
) -> Callable[..., Path]:
    """A folder with the experiment `one` and the profile `tiny`. Called with NAME=text, it writes more files; `__`
    stands for a slash."""
    folder = tmp_path / "experiments"
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(folder))
    write_module("recipe_targets", TARGETS)

    def write(**files: str) -> Path:
        for name, text in files.items():
            file = folder / f"{name.replace('__', '/')}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return folder

    write(profiles__tiny=PROFILE, one=EXPERIMENT)
    return write
