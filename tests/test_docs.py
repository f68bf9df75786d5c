"""Test the documentation: blocks run or are marked, commands and links are valid, and generated pages are complete.

A block that is not run has the comment `<!-- not run: reason -->` on the line before it. Its commands are still parsed,
and its recipes are still checked.
"""

from __future__ import annotations

import configparser
import functools
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import yaml

from basereward.cli import main, parse
from basereward.cli.commands.sweep import launcher_overrides
from basereward.errors import BaseRewardError
from basereward.recipe import find_experiment

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.{5,}) -->")
LANGUAGES = {"bash", "console", "json", "python", "text", "yaml"}
WITH_COMMANDS = ("bash", "console")
RUN_HERE = ("check", "ls")  # these commands load no model and read no rows outside of the package
READS_RECIPE = ("check", "data", "audit", "train", "sweep")
README_LINES = 130
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
# Pages that the build generates, or copies from outside docs/.
GENERATED = re.compile(r"reference/(recipe|cli|shipped|python/\w+)\.md")


class Block(NamedTuple):
    """A fenced block with its page, first line, language, text, and the reason why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@functools.cache
def blocks_of(page: Path) -> tuple[Block, ...]:
    """Return the fenced blocks of a page in order."""
    blocks: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        marker = NOT_RUN.fullmatch(lines[start - 1]) if start else None
        reason = marker["reason"] if marker else None
        text = "\n".join(lines[start + 1 : number])
        blocks.append(Block(page, start + 1, lines[start].removeprefix("```"), text, reason))
        start = None
    assert start is None, f"{page}: a block has no end"
    return tuple(blocks)


def commands_of(block: Block) -> list[list[str]]:
    """Return the commands of a block as lists of words. Lines that end in a backslash are joined, and a console block
    marks commands by `$`."""
    commands = []
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # an environment variable
            words = words[1:]
        if words and words[-1] == "&":
            words = words[:-1]
        if words:
            commands.append(words)
    return commands


ALL_BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMAND_BLOCKS = [block for block in ALL_BLOCKS if block.language in WITH_COMMANDS]
PYTHON_PAGES = sorted({block.page for block in ALL_BLOCKS if block.language == "python"})


def basereward_commands() -> list[tuple[str, list[str]]]:
    """Return every `basereward` command of a block, and those that its `make` commands call, with their places."""
    commands = []
    for block in COMMAND_BLOCKS:
        for words in commands_of(block):
            if words[0] == "basereward":
                commands.append((block.place, words[1:]))
            elif words[0] == "make":
                commands += [(block.place, called) for called in called_by_make(tuple(words))]
    return commands


@functools.cache
def called_by_make(words: tuple[str, ...]) -> list[list[str]]:
    """Return the arguments of `basereward` in the commands of a target, which `make --dry-run` prints."""
    # Variables of a `make test` that runs this test must not reach the command.
    environment = {name: value for name, value in os.environ.items() if name not in ("ARGS", "MAKEFLAGS", "MFLAGS")}
    command = ["make", "--dry-run", *words[1:]]
    completed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, f"{' '.join(words)}: {completed.stderr}"
    lines = [shlex.split(line) for line in completed.stdout.splitlines() if line.startswith(".venv/bin/basereward")]
    return [line[1:] for line in lines]


def matches(expected: str, printed: str) -> bool:
    """Return whether an output equals the expected one, in which `…` stands for any text."""
    parts = [re.escape(part.strip(" ")) for part in expected.strip().split("…")]
    return re.fullmatch(r"\s*.*?\s*".join(parts), printed.strip(), flags=re.DOTALL) is not None


def docs_module(name: str) -> ModuleType:
    """Load a Python file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and typing look up the module of a class
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the examples in an empty folder with the repository's recipes."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    monkeypatch.chdir(tmp_path)


# Blocks


def test_every_block_has_a_known_language_and_every_marker_a_block() -> None:
    """No block escapes the tests below."""
    for block in ALL_BLOCKS:
        assert block.language in LANGUAGES, f"{block.place}: {block.language!r}"
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        markers = [number for number, line in enumerate(lines) if line.startswith("<!-- not run")]
        for number in markers:
            assert NOT_RUN.fullmatch(lines[number]), f"{page.name}:{number + 1}"
            assert lines[number + 1].startswith("```"), f"{page.name}:{number + 1}"


def test_every_block_has_a_plain_fence() -> None:
    """No test of this file reads a block with an indented fence or a fence of tildes."""
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            assert not re.match(r"\s+```|\s*~~~", line), f"{page.relative_to(ROOT)}:{number}"


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_python_block_runs_or_is_marked(page: Path) -> None:
    """The blocks of a page share their names like a session; marked blocks must compile."""
    namespace: dict[str, Any] = {}
    for block in blocks_of(page):
        if block.language == "python":
            code = compile(block.text, block.place, "exec")
            if block.not_run is None:
                exec(code, namespace)


@pytest.mark.parametrize("block", [b for b in COMMAND_BLOCKS if b.not_run is None], ids=lambda block: block.place)
def test_unmarked_commands_print_the_output_of_the_page(block: Block, capfd: pytest.CaptureFixture[str]) -> None:
    """A faulty recipe exits with 2, everything else with 0. In an expected output `…` stands for any text."""
    for words in commands_of(block):
        assert words[0] == "basereward", f"{block.place}: mark it"
        assert words[1] in RUN_HERE, f"{block.place}: mark it, or add it to RUN_HERE"
        status = main(words[1:])
        printed = capfd.readouterr().out
        if block.language == "bash":
            assert status == 0, printed
            continue
        expected = block.text.split("\n", maxsplit=1)[1]
        assert status == (0 if "no faults" in expected or "fault" not in expected else 2)
        assert matches(expected, printed), printed


@pytest.mark.parametrize("language", ["json", "yaml"])
def test_data_blocks_can_be_read(language: str) -> None:
    """JSON blocks are read by lines, like rows, and YAML blocks as files."""
    for block in ALL_BLOCKS:
        if block.language == language == "json":
            assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines()), block.place
        elif block.language == language:
            assert isinstance(yaml.safe_load(block.text), dict), block.place


# Commands


def test_every_command_is_accepted_by_the_parser() -> None:
    """This includes marked commands and those that a `make` target calls."""
    commands = basereward_commands()
    assert len(commands) > 40
    for place, words in commands:
        try:
            parse(words)
        except BaseRewardError as error:
            pytest.fail(f"{place}: basereward {shlex.join(words)}: {error}")


def test_every_recipe_of_a_command_has_no_fault() -> None:
    """Experiments, profiles, keys and values are valid; row files may be missing."""
    checked = set()
    # Experiments that the pages write first.
    written = {words[1] for _, words in basereward_commands() if words[0] == "new"}
    for place, words in basereward_commands():
        arguments = parse(words)
        if arguments.command not in READS_RECIPE or arguments.trust or arguments.experiment in written:
            continue
        # The options of a launcher are settings of the recipe.
        launcher = launcher_overrides(arguments) if arguments.command == "sweep" else []
        call = (arguments.experiment, arguments.profile, (*launcher, *arguments.overrides))
        if call in checked or place_shows_a_fault(place):
            continue
        checked.add(call)
        overrides = [word.replace("=RUN", "=run") for word in call[-1]]
        _, faults = find_experiment(arguments.experiment, profile=arguments.profile, overrides=overrides)
        assert faults == [], f"{place}: {shlex.join(words)}"
    assert len(checked) > 15


def place_shows_a_fault(place: str) -> bool:
    """Return whether the block shows the output for a faulty recipe."""
    return any(block.place == place and re.search(r"\d faults?\n", block.text) for block in COMMAND_BLOCKS)


# Pages


def test_the_readme_is_short() -> None:
    """The README says what the project is; everything else is in docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_every_relative_link_has_a_target() -> None:
    """`make docs` also checks anchors and generated pages; this test needs no site tool."""
    for page in PAGES:
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            if "://" in link:
                continue
            target = (page.parent / link).resolve()
            generated = target.is_relative_to(ROOT / "docs") and GENERATED.fullmatch(
                target.relative_to(ROOT / "docs").as_posix()
            )
            assert target.exists() or generated, f"{page.relative_to(ROOT)}: {link}"


def test_the_navigation_has_every_page() -> None:
    """It has all pages of docs/ and one for each package."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(re.findall(r"'([\w/-]+\.md)'", str(config["nav"])))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    packages = {f"reference/python/{name}.md" for name in docs_module("reference_pages").packages()}
    assert pages | packages <= listed
    assert config["theme"]["font"] is False


def test_architecture_page_follows_the_import_contract() -> None:
    """`make check` tests the contract in `setup.cfg`."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    layers = config["importlinter:contract:arrows"]["layers"].split()
    diagram = next(block for block in blocks_of(ROOT / "docs" / "architecture.md") if block.language == "text")
    packages = [line.split()[0] for line in diagram.text.splitlines() if re.match(r" [a-z]", line)]
    assert packages == layers
    arrows = re.search(r"`(errors <- [^`]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert arrows is not None
    assert arrows[1].split(" <- ") == layers[::-1]


# Generated pages


def test_recipe_reference_has_every_key() -> None:
    """Type, default and meaning come from the schema: `batch.groups` is an integer, 128 by default."""
    pages = docs_module("reference_pages")
    keys = {key.path: key for _, section in pages.recipe_sections() for key in section}
    assert [path for path, key in keys.items() if not key.meaning] == []
    assert keys["batch.groups"][1:3] == ("integer", "`128`")
    assert keys["model.backbone.quantization"].type == "`nf4`, `int8` or null"
    assert keys["optimizer.betas"][1:3] == ("list of numbers", "`[0.9, 0.999]`")
    assert keys["model.head"].type == "component"
    assert keys["data.sources"].type == "mapping of names to components"
    assert {"trainer.early_stopping.patience", "data.streaming.buffer", "ensembles.NAME.k"} <= set(keys)
    assert all(f"| `{path}` |" in pages.recipe_page() for path in keys)


def test_cli_reference_has_every_command_and_option() -> None:
    """The expected options come from the parsers."""
    pages = docs_module("reference_pages")
    text = pages.cli_page()
    assert {"check", "train", "sweep", "score", "eval", "report", "ls"} <= set(pages.command_parsers())
    for name, parser in pages.command_parsers().items():
        section = text.split(f"## basereward {name}\n")[1].split("\n## ")[0]
        for option in parser.format_usage().split():
            if option.startswith("[--"):
                assert option.strip("[]") in section, f"{name}: {option}"


def test_python_reference_has_every_public_module() -> None:
    """A new file appears without a change of the documentation."""
    pages = docs_module("reference_pages")
    text = pages.package_page("model")
    assert "::: basereward.model.heads.mlp\n" in text
    assert "::: basereward.model.losses.bradley_terry\n" in text
    assert "._" not in text
    assert "| `head_depth` |" in pages.shipped_page()
    assert "[`plackett_luce`][basereward.model.losses.plackett_luce]" in pages.shipped_page()


# Types


def test_python_blocks_pass_a_type_checker(tmp_path: Path) -> None:
    """The exported types fit what the pages do with them. The blocks of a page are one module."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for page in PYTHON_PAGES:
        blocks = [block.text for block in blocks_of(page) if block.language == "python"]
        module = "page_" + re.sub(r"\W", "_", page.relative_to(ROOT).with_suffix("").as_posix())
        (tmp_path / f"{module}.py").write_text("\n\n".join(blocks))
        # A reader's example needs no annotations of its own; its imports and calls are checked all the same.
        config[f"mypy-{module}"] = {"disallow_untyped_defs": "False", "disallow_untyped_calls": "False"}
    config["mypy"].pop("files")
    config["mypy"]["mypy_path"] = f"{tmp_path}:{ROOT}"  # where packages begin
    with (tmp_path / "setup.cfg").open("w") as file:
        config.write(file)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(tmp_path / "setup.cfg"),
        *map(str, tmp_path.glob("*.py")),
    ]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
