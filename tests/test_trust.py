"""Test that a recipe, a benchmark file or a saved model of a third party runs none of its own code, reads no secret,
and cannot make a check run without end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from basereward.errors import RecipeError
from basereward.recipe import find_experiment, load_recipe, make
from basereward.recipe.fragment import load_fragment
from basereward.recipe.grid import CELLS_LIMIT
from basereward.recipe.trust import trusting
from basereward.recipe.yaml.interpolation import RESOLVED_LIMIT
from tests.helpers.support import console_script

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = (
    "os.system",
    "os.spawnvp",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.__import__",
    "torch.load",
    "pathlib.Path.unlink",
    "planted.Head",
    "planted",
    "basereward.model.heads.mlp.nn.Linear",
    "basereward.io.files.write_atomic",
    "basereward.data.sources.jsonl.Path",
    "..evil",
    "../evil",
    "sub/evil",
    "/tmp/evil",
    "_private",
    "",
)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write a module in the working folder that creates a file when it is imported; return the path of that file."""
    trace = tmp_path / "it-ran"
    body = f"import pathlib; pathlib.Path({str(trace)!r}).touch()\nclass Head:\n    def __init__(self, size): ...\n"
    (tmp_path / "planted.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield trace
    sys.modules.pop("planted", None)


@pytest.mark.parametrize(
    "kind",
    [
        "heads",
        "losses",
        "objectives",
        "sources",
        "tiny_models",
        "adapters",
        "benchmarks",
        "protocols",
        "launchers",
        "stages",
    ],
)
@pytest.mark.parametrize("target", FOREIGN)
def test_make_refuses_targets_outside_the_package(target: str, kind: Any, planted: Path) -> None:
    """Dotted paths, names that a package module imports, and file paths are refused."""
    with pytest.raises(RecipeError):
        make({"_target_": target, "args": "x"}, kind, "x")
    assert not planted.exists()


@pytest.mark.parametrize(
    "override",
    [
        "model.head={_target_: planted.Head}",
        "loss={_target_: planted.Head}",
        "data.sources.mine={_target_: planted.Head}",
        "data.sources.mine={_target_: hub, path: rows, shape: {_target_: planted.Head}}",
        "data.curation.against.mine={_target_: planted.Head}",
        "model.backbone={path: null, make: {_target_: planted.Head}}",
        "grid.model.head=[{_target_: planted.Head}]",
    ],
)
def test_check_imports_no_module_of_a_recipe(override: str, planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds at every place of a recipe; with the caller's trust the class is found."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    _, faults = find_experiment("basereward", overrides=[override])
    assert any("planted.Head" in fault.message and "--trust" in fault.message for fault in faults)
    assert not planted.exists()
    if "head" in override:
        assert not find_experiment("basereward", overrides=[override], trust=True)[1]


def test_benchmark_file_refuses_targets_outside_the_package(planted: Path, tmp_path: Path) -> None:
    """This holds for its class and its protocol."""
    for node in ("_target_: planted.Head", "_target_: annotated\nprotocol: {_target_: planted.Head}\ndata: x"):
        (tmp_path / "mine.yaml").write_text(f"# mine\n{node}\n")
        with pytest.raises(RecipeError, match="--trust"):
            load_fragment(str(tmp_path / "mine.yaml"), "benchmarks")
    assert not planted.exists()


def test_remote_code_of_a_checkpoint_needs_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--trust`, `check` refuses a recipe with `trust_remote_code`."""
    monkeypatch.chdir(ROOT)
    override = "model.backbone.trust_remote_code=true"
    _, faults = find_experiment("basereward", overrides=[override])
    assert [fault.key for fault in faults] == ["model.backbone.trust_remote_code"]
    assert load_recipe("basereward", overrides=[override], trust=True).model.backbone.trust_remote_code


def test_modules_of_the_working_folder_are_not_imported(tmp_path: Path) -> None:
    """A command in a downloaded folder does not run modules named like optional dependencies."""
    names = ("vllm", "liger_kernel", "av", "flash_attn", "planted")
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"import pathlib; pathlib.Path('ran-{name}').touch()\n")
    completed = console_script(tmp_path, "check", "basereward", "model.head._target_=planted.Head")
    assert completed.returncode == 2
    assert not list(tmp_path.glob("ran-*"))


def test_trust_ends_with_its_block() -> None:
    """An inner block without trust does not remove it."""
    node = {"_target_": "fractions.Fraction"}
    with trusting(), trusting(False):
        assert make(node, "losses") == 0
    with pytest.raises(RecipeError):
        make(node, "losses")


@pytest.mark.parametrize("text", ["${oc.env:A_SECRET}", "${ oc.env:A_SECRET,x}", "a${oc.decode:${oc.env:A_SECRET}}b"])
def test_recipe_cannot_read_environment_variables(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value is in no cell and in no message."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("A_SECRET", "hunter2hunter2")
    experiment, faults = find_experiment("basereward", overrides=[f"summary={text}"])
    assert [fault.key for fault in faults] == ["summary"]
    assert "hunter2" not in f"{experiment} {faults}"


def test_escaped_text_is_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """This also holds for text that looks like a resolver."""
    monkeypatch.chdir(ROOT)
    assert load_recipe("basereward", overrides=["summary=\\${oc.env:HOME}"]).summary == "${oc.env:HOME}"


def test_doubling_references_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty texts that each refer to the next one twice would have a trillion characters; they are counted before they
    are resolved."""
    monkeypatch.chdir(ROOT)
    doubled = [
        f"data.sources.s{n}={{_target_: jsonl, path: '${{data.sources.s{n + 1}.path}}${{data.sources.s{n + 1}.path}}'}}"
        for n in range(40)
    ]
    _, faults = find_experiment("basereward", overrides=[*doubled, "data.sources.s40={_target_: jsonl, path: x}"])
    assert any(f"{RESOLVED_LIMIT:,}" in fault.message for fault in faults)


@pytest.mark.parametrize(
    "overrides",
    [
        [f"grid.optimizer.lr=[{','.join(f'{i}e-6' for i in range(1, 2000))}]"],
        [f"seeds=[{','.join(map(str, range(9_000)))}]"],
        [f"seeds=[{','.join(map(str, range(1_000_000)))}]"],
        ["model.head=" + "{a: " * 1_000 + "1" + "}" * 1_000],
        ["model.head=" + "[" * 40_000],
        ["data.sources.x." + ".".join("a" * 2_000) + "=1"],
        ["grid.data.sources.x." + ".".join("a" * 2_000) + "=[1]"],
    ],
    ids=["cells", "seeds", "nodes", "mappings", "lists", "key", "axis"],
)
def test_unbounded_recipe_is_refused_with_a_short_message(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of cells and nesting deeper than the stack are refused, and the messages are truncated."""
    monkeypatch.chdir(ROOT)
    experiment, faults = find_experiment("head_depth", overrides=overrides)
    assert faults
    assert len(experiment.cells) <= CELLS_LIMIT
    assert all(len(fault.message) + len(fault.key) < 1_000 for fault in faults)


def test_doubling_includes_are_refused(tmp_path: Path) -> None:
    """Twenty files that include the next one twice would be read a million times."""
    for index in range(20):
        (tmp_path / f"f{index}.yaml").write_text(
            f"include: [{tmp_path}/f{index + 1}.yaml, {tmp_path}/f{index + 1}.yaml]\n"
        )
    (tmp_path / "f20.yaml").write_text("name: x\n")
    _, faults = find_experiment(str(tmp_path / "f0.yaml"), profile=None)
    assert any("1,000 files" in fault.message for fault in faults)


def test_recipe_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """A FIFO would block, /dev/zero would fill the memory, and a large file is not a recipe."""
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "large.yaml").write_bytes(b"# " + b"x" * 5 * 2**20)
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5_000 + "]" * 5_000)
    for name in ("fifo", "zero", "large", "deep"):
        _, faults = find_experiment(str(tmp_path / f"{name}.yaml"), profile=None)
        assert faults, name


def test_recipe_with_a_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe is saved with every run and model. The value is in no message."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
    _, faults = find_experiment("basereward", overrides=["summary=with hunter2hunter2 in it"])
    assert [fault.key for fault in faults] == ["summary"]
    assert "hunter2" not in faults[0].message
    assert not find_experiment("basereward", overrides=["summary=with another text in it"])[1]
