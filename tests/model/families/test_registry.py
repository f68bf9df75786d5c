"""The registry of families: every file in `families/supported` and in the user's package is one family."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import LlamaConfig, Qwen2_5_VLConfig

from basereward.errors import ModelError
from basereward.model.families import registry, supported
from basereward.model.families.parts import part_of
from basereward.recipe.trust import trusting

NEW_FAMILY = """
from basereward.model.families.supported.qwen_vl import QwenVL


class NewVL(QwenVL):
    model_types = ("new_vl",)
    liger_types = ()
    unquantized_modules = ("eyes",)

    def part_of(self, path):
        return "vision" if "eyes" in path else None


FAMILY = NewVL()
"""


class NewConfig(LlamaConfig):
    """The configuration of a family without a file."""

    model_type = "new_vl"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a second folder in which the registry looks for families."""
    monkeypatch.setattr(supported, "__path__", [*supported.__path__, str(tmp_path)])
    registry._supported_families.cache_clear()
    yield tmp_path
    registry._supported_families.cache_clear()


def test_new_file_adds_a_family(folder: Path) -> None:
    """The file sets the model types, part names and unquantised modules; without it the type is text-only."""
    assert not registry.find_family(NewConfig()).reads_images
    assert part_of("eyes.blocks.0.weight") == "language"
    (folder / "new_vl.py").write_text(NEW_FAMILY)
    registry._supported_families.cache_clear()
    assert "new_vl" in registry.vision_types()
    assert registry.vision_family(NewConfig()).unquantized_modules == ("eyes",)
    assert part_of("eyes.blocks.0.weight") == "vision"


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a user's folder of families on Python's path, removed after the test."""
    monkeypatch.setattr(registry, "_user_families", {})
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / registry.USER_PACKAGE
    folder.mkdir()
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == registry.USER_PACKAGE]:
        del sys.modules[name]


def test_user_family_requires_trust(user_folder: Path) -> None:
    """The file is imported with trust only; after the import the family works without trust."""
    (user_folder / "new_vl.py").write_text(NEW_FAMILY)
    assert not registry.find_family(NewConfig()).reads_images
    registry.import_user_families()
    assert f"{registry.USER_PACKAGE}.new_vl" not in sys.modules
    with trusting():
        registry.import_user_families()
    assert registry.vision_family(NewConfig()).unquantized_modules == ("eyes",)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "FAMILY"),
        ("FAMILY = 'new_vl'", "FAMILY"),
        ("import no_such_module", "no_such_module"),
        (NEW_FAMILY.replace('("new_vl",)', '("new_vl", "qwen2_vl")'), "qwen2_vl"),
    ],
    ids=["none", "no-family", "import", "known-type"],
)
def test_invalid_family_file_is_named(user_folder: Path, source: str, message: str) -> None:
    """The error names the module and the fault."""
    (user_folder / "new_vl.py").write_text(source)
    with trusting(), pytest.raises(ModelError, match=message) as excinfo:
        registry.import_user_families()
    assert f"{registry.USER_PACKAGE}.new_vl" in str(excinfo.value)


def test_every_type_belongs_to_one_family() -> None:
    """And names its modules; a type that no file lists is text-only."""
    types = registry.vision_types()
    assert len(set(types)) == len(types)
    for family in registry.vision_families():
        parts = [family.part_of([module, "weight"]) for module in family.unquantized_modules]
        assert parts
        assert None not in parts
    assert registry.find_family(Qwen2_5_VLConfig()).reads_images
    assert registry.find_family(LlamaConfig()) is registry.TEXT_ONLY
