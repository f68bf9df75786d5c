"""Markdown of the reference pages, generated from the code: recipe keys, commands, and Python packages.

The modules that it imports load no model library, so that a build takes seconds.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basereward.cli.parser import build_parser
from basereward.recipe import names, schema
from basereward.recipe.json_schema.descriptions import EXPERIMENT_KEYS, meaning

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "basereward"

COMPONENT = "component"
TYPE_WORDS: dict[object, str] = {bool: "true or false", int: "integer", float: "number", str: "string"}

# Recipe keys


class Key(typing.NamedTuple):
    """One key of a recipe: its dotted path, the words for its type, its default as YAML, and its meaning."""

    path: str
    type: str
    default: str
    meaning: str


def recipe_page() -> str:
    """The reference of recipe keys as Markdown: one section for every mapping of the schema."""
    lines = [
        "# Recipe keys",
        "",
        "This page is generated from `basereward/recipe/schema.py`. Set a key in a YAML file, or on the command line",
        "as `key=value` with a dotted key: `optimizer.lr=1e-4`. The value `null` removes an entry of a mapping.",
        "",
        f"A **{COMPONENT}** is a mapping with `_target_`, the name of a class, and the arguments of that class:",
        "",
        "```yaml",
        "head: {_target_: mlp, layers: 2, activation: silu}",
        "```",
        "",
        "`_target_` is the name of a file in the folder of its kind, or a dotted path to a class of your own, which",
        "runs only with `--trust`. The pages of the [Python packages](python/model.md) list the arguments.",
        "",
    ]
    for title, keys in recipe_sections():
        lines += [f"## {title}", "", *_key_table(keys), ""]
    lines += _experiment_keys()
    return "\n".join(lines) + "\n"


def recipe_sections() -> Iterator[tuple[str, list[Key]]]:
    """The sections of the page: a title and the keys of that mapping, the top level first."""
    yield from _sections(schema.Recipe, prefix="", title="Top level")
    yield from _sections(schema.EnsembleRecipe, prefix="ensembles.NAME.", title="`ensembles.NAME`")


def _sections(section: type, *, prefix: str, title: str) -> Iterator[tuple[str, list[Key]]]:
    hints = typing.get_type_hints(section)
    keys = []
    nested: list[tuple[str, type]] = []
    for field in dataclasses.fields(section):
        path = prefix + field.name
        inner = _dataclass_of(hints[field.name])
        if inner is not None:
            nested.append((path, inner))
        words = meaning(path, section, field.name)
        keys.append(Key(path, _words(hints[field.name]), _default(field), words))
    yield title, keys
    for path, inner in nested:
        yield from _sections(inner, prefix=f"{path}.", title=f"`{path}`")


def _key_table(keys: list[Key]) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key in keys:
        yield f"| `{key.path}` | {key.type} | {key.default} | {_cell(_sentence(key.meaning))} |"


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass of `Section` or `Section | None`; None for any other type."""
    for option in (hint, *typing.get_args(hint)):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def _words(hint: Any) -> str:
    """A type in words, for people who write YAML."""
    if hint is type(None):
        return "null"
    if hint == dict[str, Any]:  # `Node` of the schema: the keys besides `_target_` depend on the class
        return COMPONENT
    if hint in TYPE_WORDS:
        return TYPE_WORDS[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {_words(arguments[0])}s"
    if origin is dict:
        return f"mapping of names to {_words(arguments[1])}s"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(option) for option in arguments)
    return "mapping"


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if dataclasses.is_dataclass(value):
        return "see below"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list) or value == "":
        return f"`{json.dumps(value)}`"
    return f"`{value}`"


def _experiment_keys() -> Iterator[str]:
    """The keys of a file that are not part of a cell's recipe."""
    yield from (
        "## Keys of an experiment file",
        "",
        "These keys stand in an experiment or a profile. They produce cells, and are no part of a cell's recipe.",
        "",
        "| key | meaning |",
        "|---|---|",
        *(f"| `{key}` | {_cell(text)} |" for key, text in EXPERIMENT_KEYS.items()),
        "",
    )


# Commands

TABLE_HEAD_LINES = 2


def cli_page() -> str:
    """The reference of the command line as Markdown: every command with its arguments and options."""
    lines = [
        "# Command line",
        "",
        "This page is generated from the parsers of the command `basereward`.",
        "`basereward COMMAND --help` prints the same text.",
        "",
        "Commands that read a recipe take `--profile P` and changes as `KEY=VALUE`. All commands take `--json`:",
        "standard output then holds one JSON object and nothing else; logs and progress go to standard error.",
        "",
        "| exit status | meaning |",
        "|---|---|",
        "| 0 | The command is done. |",
        "| 1 | A cell of a sweep failed. |",
        "| 2 | The command line, a recipe, a file or the machine has a fault; the message says which. |",
        "| 130 | The command was interrupted. |",
        "| 141 | The reader of standard output closed it. |",
        "",
    ]
    root_options = list(_option_table(_root_parser()))
    if len(root_options) > TABLE_HEAD_LINES:
        lines += ["Options before the command:", "", *root_options, ""]
    for name, parser in command_parsers().items():
        usage = " ".join(parser.format_usage().removeprefix("usage:").split())
        lines += [f"## basereward {name}", "", _sentence(parser.description or ""), ""]
        lines += ["```text", usage, "```", ""]
        lines += [*_option_table(parser), ""]
        if parser.epilog:
            lines += ["```text", parser.epilog.strip(), "```", ""]
    return "\n".join(lines) + "\n"


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command, by name."""
    commands = next(action for action in _root_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)


def _root_parser() -> argparse.ArgumentParser:
    return build_parser()[0]


def _option_table(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield "| argument | meaning |"
    yield "|---|---|"
    for action in parser._actions:
        shown_elsewhere = isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
        if shown_elsewhere or action.help == argparse.SUPPRESS:
            continue
        flags = ", ".join(action.option_strings)
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        text = str(action.help or "") % {"default": action.default, "prog": parser.prog}
        yield f"| `{_cell(f'{flags} {value}'.strip())}` | {_cell(_sentence(text))} |"


# Python packages


def packages() -> list[str]:
    """Names of the packages below `basereward`, in alphabetical order."""
    return sorted(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file())


def package_page(package: str) -> str:
    """The reference of one package: an instruction to mkdocstrings for each of its modules, a heading a folder."""
    lines = [f"# basereward.{package}", "", _docstring(PACKAGE / package / "__init__.py"), ""]
    current = PACKAGE / package
    for file in sorted(current.rglob("*.py"), key=lambda path: (path.parent != current, path)):
        if file.name.startswith("_") or not _has_public_name(file):
            continue
        if file.parent != current:
            current = file.parent
            folder = ".".join(current.relative_to(ROOT).parts)
            lines += [f"## {folder}", "", _docstring(current / "__init__.py"), ""]
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        lines += [f"::: {module}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines) + "\n"


def _docstring(file: Path) -> str:
    """The first paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n", maxsplit=1)[0].split())


def _has_public_name(file: Path) -> bool:
    """Whether a module defines anything that a reader can import."""
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Assign, ast.AnnAssign)
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(isinstance(node, definitions) for node in body)


# Shipped parts

LISTED_KINDS = ("experiments", "profiles", "sources", "benchmarks")
# Folders in which a recipe or a benchmark file finds a class by the name of its file, and the key that names it.
EXTENSION_FOLDERS = {
    "model/heads": "`model.head`",
    "model/losses": "`loss`",
    "training/objectives": "`objective`",
    "data/sources": "`data.sources.NAME`",
    "data/adapters": "`data.sources.NAME.shape`",
    "model/tiny_models": "`model.backbone.make`",
    "evaluation/protocols": "`protocol` of a benchmark file",
    "sweeps/launchers": "the option `--on` of `basereward sweep`",
    "pipelines/stages": "`stages.NAME` of an experiment",
}


def shipped_page() -> str:
    """The shipped experiments, profiles, sources and benchmarks, and the classes that `_target_` finds by name."""
    lines = [
        "# Shipped parts",
        "",
        "This page is generated from the shipped files. `basereward ls KIND` prints the first four lists, and those of",
        "heads, losses, adapters and tiny models.",
        "",
    ]
    for kind in LISTED_KINDS:
        lines += [f"## {kind.capitalize()}", "", "| name | what it is |", "|---|---|"]
        lines += [f"| `{entry.name}` | {_cell(entry.summary)} |" for entry in names(kind)]
        lines += [""]
    for folder, key in EXTENSION_FOLDERS.items():
        lines += [
            f"## {folder}",
            "",
            f"Values of `_target_` under {key}.",
            "",
            "| `_target_` | what it is |",
            "|---|---|",
        ]
        lines += [*_extension_rows(PACKAGE / folder), ""]
    return "\n".join(lines) + "\n"


def _extension_rows(folder: Path) -> Iterator[str]:
    """A row for every file of an extension folder, linked to its arguments in the Python reference."""
    for file in sorted(folder.rglob("*.py"), key=lambda path: path.stem):
        if not file.name.startswith("_") and _defines_target(file):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            yield f"| [`{file.stem}`][{module}] | {_cell(_docstring(file))} |"


def _defines_target(file: Path) -> bool:
    """Whether a file defines the class or function that its name stands for; `bradley_terry` is `BradleyTerry`."""
    wanted = file.stem.replace("_", "")
    body = ast.parse(file.read_text(encoding="utf-8")).body
    definitions = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return any(name.replace("_", "").lower() == wanted for name in definitions)


def _cell(text: str) -> str:
    """Text of a table cell: a bar would end the cell, and an angle bracket would begin a tag."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


def _sentence(text: str) -> str:
    """A comment or a help text with a capital letter first, unless it begins with a value or the name of a thing.

    >>> _sentence("train one reward model"), _sentence("null: all do"), _sentence("torch.compile of the layers")
    ('Train one reward model', 'null: all do', 'torch.compile of the layers')
    """
    first = text.split(" ", maxsplit=1)[0]
    return text[:1].upper() + text[1:] if first.rstrip(",;").isalpha() else text
