"""Targets are found by name, and their signatures read, without importing their modules."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from basereward.recipe.checks import targets
from basereward.recipe.checks.signature import MISSING, import_target, signature_of
from basereward.recipe.checks.targets import TargetError, locate, short_names

Write = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def _forget() -> None:
    """Clear the caches, since each test has other modules."""
    for cached in (locate, signature_of, targets._parse):
        cached.cache_clear()


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An extension folder in a temporary root."""
    monkeypatch.setattr(targets, "ROOT", tmp_path)
    folder = tmp_path / "basereward" / "model" / "heads"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("file", "source", "name"),
    [
        ("bradley_terry", "class BradleyTerry: ...", "BradleyTerry"),
        ("mlp", "class Other: ...\nclass MLP: ...", "MLP"),
        ("tiny_qwen2_5_vl", "class TinyQwen2_5_VL: ...", "TinyQwen2_5_VL"),
        ("tiny_qwen2_5_vl", "def tiny_qwen2_5_vl(folder): ...", "tiny_qwen2_5_vl"),
        ("mlp", "def mlp(): ...\nclass MLP: ...", "MLP"),
    ],
)
def test_short_name_finds_the_class_of_the_file_name(heads: Path, file: str, source: str, name: str) -> None:
    """Case and underscores are ignored; a class takes precedence over a function."""
    (heads / f"{file}.py").write_text(source)
    target = locate(file, "heads")
    assert (target.module, target.name) == (f"basereward.model.heads.{file}", name)


def test_only_files_with_their_class_have_a_short_name(heads: Path) -> None:
    """Helpers, private files and `__init__` are not listed."""
    for name, source in [("mlp", "class MLP: ..."), ("helper", "X = 1"), ("_mlp", "class _MLP: ..."), ("__init__", "")]:
        (heads / f"{name}.py").write_text(source)
    assert list(short_names("heads")) == ["mlp"]
    with pytest.raises(TargetError, match="defines no class or function"):
        locate("helper", "heads")


def test_short_name_has_no_subfolder(heads: Path) -> None:
    """Files of a subfolder have their plain name; deeper folders are not searched."""
    for folder, name in [("deep", "gate"), ("deep/deeper", "hidden")]:
        (heads / folder).mkdir()
        (heads / folder / f"{name}.py").write_text(f"class {name.title()}: ...")
    (heads / "mlp.py").write_text("class MLP: ...")
    assert list(short_names("heads")) == ["gate", "mlp"]
    assert locate("gate", "heads").module == "basereward.model.heads.deep.gate"


def test_unknown_short_name_suggests_the_nearest(heads: Path) -> None:
    """A private name is unknown too."""
    (heads / "mlp.py").write_text("class MLP: ...")
    with pytest.raises(TargetError, match=r"unknown head 'mpl'; did you mean 'mlp'\? Allowed: mlp\."):
        locate("mpl", "heads")
    with pytest.raises(TargetError, match="unknown head"):
        locate("_mlp", "heads")


def test_signature_is_read_without_importing(write_module: Write) -> None:
    """Parent packages are not imported either."""
    write_module("own_package/__init__", "raise RuntimeError('imported')")
    write_module(
        "own_package/inner/heads", "raise RuntimeError\nclass Mine:\n    def __init__(self, size: int, *, deep=1): ..."
    )
    signature = signature_of("own_package.inner.heads.Mine", "heads")
    assert [parameter.name for parameter in signature.parameters] == ["size", "deep"]
    assert "own_package" not in sys.modules


def test_parameters_have_hint_default_and_required(write_module: Write) -> None:
    """As written in the source; a default that is no literal is `MISSING`."""
    source = (
        "class Mine:\n    def __init__(self, size: int, kind: Literal['a'], *, deep: float = 1, other=object()): ..."
    )
    write_module("own_module", f"from typing import Literal\n{source}")
    size, kind, deep, other = signature_of("own_module.Mine", "heads").parameters
    assert (size.hint, size.required, size.default, size.positional) == (int, True, MISSING, True)
    assert (kind.hint, kind.required) == (Literal["a"], True)
    assert (deep.hint, deep.required, deep.default, deep.positional) == (float, False, 1, False)
    assert (other.hint, other.required, other.default) == (Any, False, MISSING)


@pytest.mark.parametrize("statement", ["from .inner import Mine", "from own_package.inner import Other as Mine"])
def test_imported_name_is_followed(write_module: Write, statement: str) -> None:
    """The signature is read from the file that defines the class, which is not imported."""
    write_module("own_package/__init__", f"{statement}\nraise RuntimeError")
    constructor = "    def __init__(self, a): ..."
    inner = f"class Mine:\n{constructor}\nclass Other(object):\n{constructor}\nraise RuntimeError"
    write_module("own_package/inner", inner)
    assert signature_of("own_package.Mine", "heads").parameters[0].name == "a"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "import dataclasses\n@dataclasses.dataclass\nclass Mine:\n    size: int\n    deep: float = 1.0",
            ["size", "deep"],
        ),
        ("class Base:\n    def __init__(self, size, deep=1): ...\nclass Mine(Base): ...", ["size", "deep"]),
        (
            "def make():\n    class Made:\n        def __init__(self, size): ...\n    return Made\nMine = make()",
            ["size"],
        ),
    ],
    ids=["dataclass", "inherited", "made"],
)
def test_signature_that_the_source_does_not_have_is_imported(
    write_module: Write, source: str, expected: list[str]
) -> None:
    """Dataclasses, inherited constructors and classes that a function makes."""
    write_module("own_module", source)
    signature = signature_of("own_module.Mine", "heads")
    assert [parameter.name for parameter in signature.parameters] == expected
    assert "own_module" in sys.modules


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("own_module.Mien", "did you mean 'own_module.Mine'"),
        ("own_modul.Mine", "there is no module 'own_modul'; did you mean 'own_module'"),
        ("own_module", "unknown head 'own_module'"),
        ("json.decodr.JSONDecoder", "there is no module 'json.decodr'; did you mean 'json.decoder'"),
        ("json.decoder", "is a module"),
        ("own_module.number", "is no class and no function"),
    ],
)
def test_unknown_dotted_path_suggests_the_nearest(write_module: Write, target: str, message: str) -> None:
    """The suggestion is for the part of the path that fails."""
    write_module("own_module", "class Mine: ...\nnumber = 3")
    with pytest.raises(TargetError) as caught:
        signature_of(target, "heads")
    assert message in str(caught.value)


def test_broken_module_is_a_target_error(write_module: Write) -> None:
    """A syntax error, and any exception during the import."""
    write_module("own_module", "class Mine(: ...")
    with pytest.raises(TargetError, match=r"own_module\.py cannot be read"):
        signature_of("own_module.Mine", "heads")
    write_module("own_other", "class Base: ...\nclass Mine(Base): ...\nraise OSError('no disk')")
    with pytest.raises(TargetError, match="cannot be imported: OSError: no disk"):
        signature_of("own_other.Mine", "heads")


def test_class_without_a_constructor_has_no_parameters(write_module: Write) -> None:
    """The module is not imported to find this out."""
    write_module("own_module", "raise RuntimeError\nclass Mine: ...")
    assert signature_of("own_module.Mine", "losses").parameters == ()


def test_import_target_returns_the_class(write_module: Write) -> None:
    """Only building a recipe imports it."""
    write_module("own_module", "class Mine:\n    def __init__(self): ...")
    assert import_target("own_module.Mine", "losses").__name__ == "Mine"


HANDING_ON = """
from elsewhere import Other

class Base:
    def __init__(self, size, *, kind, layers: int = 2, width=4, **more): ...

class Mine(Base):
    def __init__(self, size, *, width=8, **options):
        super().__init__(size, kind="a", **options)

class Strange(Other):
    def __init__(self, size, **options):
        super().__init__(size, **options)
"""


def test_arguments_that_a_base_class_gets_are_read(write_module: Write) -> None:
    """Those that the call gives, by place or by name, are none of the class; a base elsewhere leaves it open."""
    write_module("own_module", HANDING_ON)
    signature = signature_of("own_module.Mine", "heads")
    assert [(item.name, item.default) for item in signature.parameters] == [
        ("size", MISSING),
        ("width", 8),
        ("layers", 2),
    ]
    assert signature.open
    strange = signature_of("own_module.Strange", "heads")
    assert ([item.name for item in strange.parameters], strange.open) == (["size"], True)


def test_sources_of_rows_share_six_arguments() -> None:
    """They stand once, and a recipe may give no other argument of their base class."""
    shared = {"val", "test", "columns", "image_mark", "rating_range", "seed"}
    for name in ("hub", "jsonl"):
        signature = signature_of(name, "sources")
        assert shared < {item.name for item in signature.parameters}
        assert not signature.open
        assert not {"open_table", "train", "adapter"} & {item.name for item in signature.parameters}
