"""A recipe, a benchmark file or a saved model from somebody else runs no code of its own, reads no secret, and cannot
make a check run without end.
"""

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
    """A module in the working folder that leaves a file behind when it is imported; the path of that file."""
    trace = tmp_path / "it-ran"
    body = f"import pathlib; pathlib.Path({str(trace)!r}).touch()\nclass Head:\n    def __init__(self, size): ...\n"
    (tmp_path / "planted.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield trace
    sys.modules.pop("planted", None)


@pytest.mark.parametrize(
    "kind",
    ["heads", "losses", "objectives", "sources", "tiny_models", "adapters", "benchmarks", "protocols", "launchers"],
)
@pytest.mark.parametrize("target", FOREIGN)
def test_no_node_makes_anything_that_is_not_a_part_of_the_package(target: str, kind: Any, planted: Path) -> None:
    """Neither by a dotted path, nor through what a module of ours has imported, nor by a path to a file."""
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
def test_a_check_imports_nothing_of_a_recipe(override: str, planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any place of a recipe; with the caller's word the class is found."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    _, faults = find_experiment("basereward", overrides=[override])
    assert any("planted.Head" in fault.message and "--trust" in fault.message for fault in faults)
    assert not planted.exists()
    if "head" in override:
        assert not find_experiment("basereward", overrides=[override], trust=True)[1]


def test_a_benchmark_file_names_parts_of_the_package_only(planted: Path, tmp_path: Path) -> None:
    """Its class and its protocol."""
    for node in ("_target_: planted.Head", "_target_: annotated\nprotocol: {_target_: planted.Head}\ndata: x"):
        (tmp_path / "mine.yaml").write_text(f"# mine\n{node}\n")
        with pytest.raises(RecipeError, match="--trust"):
            load_fragment(str(tmp_path / "mine.yaml"), "benchmarks")
    assert not planted.exists()


def test_remote_code_of_a_checkpoint_needs_the_callers_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that asks for it is refused by `check` without `--trust`."""
    monkeypatch.chdir(ROOT)
    override = "model.backbone.trust_remote_code=true"
    _, faults = find_experiment("basereward", overrides=[override])
    assert [fault.key for fault in faults] == ["model.backbone.trust_remote_code"]
    assert load_recipe("basereward", overrides=[override], trust=True).model.backbone.trust_remote_code


def test_modules_of_the_working_folder_are_no_part_of_the_program(tmp_path: Path) -> None:
    """A downloaded folder that holds a module named as an optional dependency is not run by a command in it."""
    names = ("vllm", "liger_kernel", "av", "flash_attn", "planted")
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"import pathlib; pathlib.Path('ran-{name}').touch()\n")
    done = console_script(tmp_path, "check", "basereward", "model.head._target_=planted.Head")
    assert done.returncode == 2
    assert not list(tmp_path.glob("ran-*"))


def test_the_word_ends_with_its_block() -> None:
    """And an inner block without it does not take it away."""
    node = {"_target_": "fractions.Fraction"}
    with trusting(), trusting(False):
        assert make(node, "losses") == 0
    with pytest.raises(RecipeError):
        make(node, "losses")


@pytest.mark.parametrize("text", ["${oc.env:A_SECRET}", "${ oc.env:A_SECRET,x}", "a${oc.decode:${oc.env:A_SECRET}}b"])
def test_a_recipe_reads_nothing_of_the_environment(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value stands in no cell and in no message."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("A_SECRET", "hunter2hunter2")
    experiment, faults = find_experiment("basereward", overrides=[f"summary={text}"])
    assert [fault.key for fault in faults] == ["summary"]
    assert "hunter2" not in f"{experiment} {faults}"


def test_text_that_is_escaped_is_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it looks like a resolver."""
    monkeypatch.chdir(ROOT)
    assert load_recipe("basereward", overrides=["summary=\\${oc.env:HOME}"]).summary == "${oc.env:HOME}"


def test_references_that_double_are_counted_before_they_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty texts that each name the next one twice would have a trillion characters."""
    monkeypatch.chdir(ROOT)
    doubled = [
        f"data.sources.s{i}={{_target_: jsonl, path: '${{data.sources.s{i + 1}.path}}${{data.sources.s{i + 1}.path}}'}}"
        for i in range(40)
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
def test_a_recipe_without_bound_is_refused_with_a_short_message(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of cells and nesting beyond any stack; what is printed of them is cut."""
    monkeypatch.chdir(ROOT)
    experiment, faults = find_experiment("head_depth", overrides=overrides)
    assert faults
    assert len(experiment.cells) <= CELLS_LIMIT
    assert all(len(fault.message) + len(fault.key) < 1_000 for fault in faults)


def test_files_that_include_each_other_twice_are_not_read_without_end(tmp_path: Path) -> None:
    """Twenty files that name the next one twice would be read a million times."""
    for i in range(20):
        (tmp_path / f"f{i}.yaml").write_text(f"include: [{tmp_path}/f{i + 1}.yaml, {tmp_path}/f{i + 1}.yaml]\n")
    (tmp_path / "f20.yaml").write_text("name: x\n")
    _, faults = find_experiment(str(tmp_path / "f0.yaml"), profile=None)
    assert any("1,000 files" in fault.message for fault in faults)


def test_a_recipe_that_is_no_regular_file_is_refused_unread(tmp_path: Path) -> None:
    """A FIFO would block, /dev/zero would fill the memory, and a large file is not a recipe."""
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "large.yaml").write_bytes(b"# " + b"x" * 5 * 2**20)
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5_000 + "]" * 5_000)
    for name in ("fifo", "zero", "large", "deep"):
        _, faults = find_experiment(str(tmp_path / f"{name}.yaml"), profile=None)
        assert faults, name


def test_a_recipe_that_holds_a_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written beside every run and model. The value stands in no message."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
    _, faults = find_experiment("basereward", overrides=["summary=with hunter2hunter2 in it"])
    assert [fault.key for fault in faults] == ["summary"]
    assert "hunter2" not in faults[0].message
    assert not find_experiment("basereward", overrides=["summary=with another text in it"])[1]
