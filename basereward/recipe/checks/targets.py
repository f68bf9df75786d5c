"""Finds what a `_target_` names without running it: a file of an extension folder, or a dotted path of the user."""

from __future__ import annotations

import ast
import functools
import pkgutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from basereward.errors import nearest, unknown
from basereward.recipe.trust import REMEDY, is_trusted

TargetKind: TypeAlias = Literal[
    "heads",
    "losses",
    "objectives",
    "sources",
    "adapters",
    "tiny_models",
    "benchmarks",
    "protocols",
    "launchers",
    "rewards",
    "stages",
    "references",
]
KINDS: tuple[TargetKind, ...] = get_args(TargetKind)
SINGULAR: dict[TargetKind, str] = {
    "heads": "head",
    "losses": "loss",
    "objectives": "objective",
    "sources": "source",
    "adapters": "adapter",
    "tiny_models": "tiny model",
    "benchmarks": "benchmark",
    "protocols": "protocol",
    "launchers": "launcher",
    "rewards": "reward",
    "stages": "stage",
    "references": "source or benchmark",
}
JOINED: dict[TargetKind, tuple[TargetKind, ...]] = {"references": ("sources", "benchmarks")}
"""Kinds without a folder of their own, and the kinds whose definitions they accept."""
PACKAGES: dict[TargetKind, str] = {
    "heads": "basereward.model.heads",
    "losses": "basereward.model.losses",
    "objectives": "basereward.training.objectives",
    "sources": "basereward.data.sources",
    "adapters": "basereward.data.adapters",
    "tiny_models": "basereward.model.tiny_models",
    "benchmarks": "basereward.evaluation.benchmarks",
    "protocols": "basereward.evaluation.protocols",
    "launchers": "basereward.sweeps.launchers",
    "rewards": "basereward.rl.rewards",
    "stages": "basereward.pipelines.stages",
}
ROOT = Path(__file__).resolve().parents[3]
"""The folder that contains the package `basereward`."""

Definition: TypeAlias = ast.ClassDef | ast.FunctionDef


class TargetError(LookupError):
    """A `_target_` names nothing; the message has the most similar name that exists.

    >>> locate("mpl", "heads")
    Traceback (most recent call last):
    basereward.recipe.checks.targets.TargetError: unknown head 'mpl'; did you mean 'mlp'? ...
    """


@dataclass(frozen=True)
class Target:
    """The place of a class or a function.

    Attributes:
        module: the dotted name of its module.
        name: its name in the module, dotted where it is nested.
        definition: its syntax tree; None where there is no source, as of C code.
        body: the statements of its module; empty where there is no source.

    >>> locate("mlp", "heads").module
    'basereward.model.heads.mlp'
    """

    module: str
    name: str
    definition: Definition | None
    body: tuple[ast.stmt, ...] = ()


def check_trusted(target: str, kind: TargetKind) -> None:
    """Checks that a target may be imported: it is a part of this package, or the caller trusts code from outside.

    Raises:
        TargetError: it is code from outside this package, and the caller does not trust it.

    >>> check_trusted("mlp", "heads"), check_trusted("basereward.model.heads.mlp.MLP", "heads")
    (None, None)
    >>> check_trusted("os.system", "heads")
    Traceback (most recent call last):
    basereward.recipe.checks.targets.TargetError: 'os.system' is code from outside of this package; allow it ...
    """
    if "." not in target or is_trusted():
        return
    parts = short_names(kind)
    # A longer path would lead through what a module of ours has imported, as `basereward.x.y.os.system`.
    files = _extension_files(kind)
    if target not in [f"{_module_name(files[name])}.{definition.name}" for name, definition in parts.items()]:
        allowed = f"parts of the package: {', '.join(parts)}"
        raise TargetError(f"'{target}' is code from outside of this package; {REMEDY}. Allowed without it: {allowed}")


@functools.cache
def locate(target: str, kind: TargetKind) -> Target:
    """Find a target by its short name or its dotted path.

    Raises:
        TargetError: there is none.

    >>> locate("conversations", "adapters").name
    'Conversations'
    """
    if "." in target:
        return _locate_dotted(target)
    file = _extension_files(kind).get(target)
    if file is None:
        known = unknown(SINGULAR[kind], target, short_names(kind))
        raise TargetError(f"{known} For one of your own give its dotted path.")
    definition = _of_file(file, kind)
    if definition is None:
        raise TargetError(f"{file} defines no class or function whose name is '{target}' without its underscores")
    return Target(_module_name(file), definition.name, definition, _parse(file))


def kinds_of(kind: TargetKind) -> tuple[TargetKind, ...]:
    """The kinds, each with a folder of its own, whose definitions a kind accepts.

    >>> kinds_of("heads"), kinds_of("references")
    (('heads',), ('sources', 'benchmarks'))
    """
    return JOINED.get(kind, (kind,))


def short_names(kind: TargetKind) -> dict[str, Definition]:
    """The files of an extension folder by name, each with the class or function that it is for.

    >>> list(short_names("losses"))
    ['bradley_terry', 'plackett_luce']
    """
    found = {name: _of_file(file, kind) for name, file in _extension_files(kind).items()}
    return {name: definition for name, definition in found.items() if definition is not None}


def _extension_files(kind: TargetKind) -> dict[str, Path]:
    """The public files of an extension folder and of its direct subfolders by short name, sorted by name.

    A subfolder only groups files: it is no part of the short name. If two files have the same name, the one in the
    extension folder itself is taken.
    """
    files: dict[str, Path] = {}
    for joined in kinds_of(kind):
        folder = ROOT.joinpath(*PACKAGES[joined].split("."))
        # Files of the folder itself come last, and so replace files of the same name in subfolders.
        files |= {file.stem: file for file in [*folder.glob("*/*.py"), *folder.glob("*.py")]}
    return {name: files[name] for name in sorted(files) if not name.startswith("_")}


def _module_name(file: Path) -> str:
    """The dotted name of a module of this package."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def _of_file(file: Path, kind: TargetKind) -> Definition | None:
    """The class, or else the function, with the name of the file: `BradleyTerry` in `bradley_terry.py`.

    A class may have the kind at the end of its name, where the name alone says too little: `RuleReward` in `rule.py`.
    """
    stem = _squeezed(file.stem)
    allowed = [stem, *(stem + _squeezed(SINGULAR[joined]) for joined in kinds_of(kind))]
    named = [node for node in definitions(_parse(file)) if _squeezed(node.name) in allowed]
    # A file may have both, as a class `MLP` and a function `mlp` that makes one; the class has the arguments.
    return min(named, key=lambda node: isinstance(node, ast.FunctionDef), default=None)


def _squeezed(name: str) -> str:
    return name.replace("_", "").replace(" ", "").lower()


def definitions(body: Iterable[ast.stmt]) -> list[Definition]:
    """The classes and functions at the top level of a module.

    >>> [node.name for node in definitions(ast.parse("import os; import re\\nclass A: ...\\ndef f(): ...").body)]
    ['A', 'f']
    """
    return [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


@functools.cache
def _parse(file: Path) -> tuple[ast.stmt, ...]:
    try:
        return tuple(ast.parse(file.read_text(encoding="utf-8")).body)
    except (OSError, SyntaxError, ValueError) as error:
        raise TargetError(f"{file} cannot be read: {error}") from error


def _locate_dotted(target: str) -> Target:
    parts = target.split(".")
    spec, depth = _find_module(parts)
    module, name = ".".join(parts[:depth]), ".".join(parts[depth:])
    if not name:
        raise TargetError(f"'{target}' is a module; give a class or a function in it")
    file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    if file is None or "." in name:
        return Target(module, name, None)
    return _in_module(module, name, file, is_package=spec.submodule_search_locations is not None)


def _in_module(module: str, name: str, file: Path, *, is_package: bool) -> Target:
    """The target that a module defines or re-exports under a name.

    Raises:
        TargetError: the module cannot bind the name.
    """
    body = _parse(file)
    for node in definitions(body):
        if node.name == name:
            return Target(module, name, node, body)
    re_exported = _re_exported(body, name, module, is_package=is_package)
    if re_exported is not None:
        return _locate_dotted(re_exported)
    # With `import *` or a module-level `__getattr__` only the running module knows its names.
    names = _bound_names(body)
    if names.isdisjoint({name, "*", "__getattr__"}):
        close = nearest(name, [node.name for node in definitions(body)])
        raise TargetError(f"{file} has no '{name}'" + (f"; did you mean '{module}.{close}'?" if close else ""))
    return Target(module, name, None)


def base_class(target: Target) -> Target | None:
    """The first base class of a class, where text shows it: it is in the same module, or in this package.

    >>> base_class(locate("jsonl", "sources")).name
    'RowsSource'
    >>> base_class(locate("mlp", "heads")) is None  # of torch, whose text is not read
    True
    """
    if not isinstance(target.definition, ast.ClassDef) or not target.definition.bases:
        return None
    base = target.definition.bases[0]
    if not isinstance(base, ast.Name):
        return None
    for node in definitions(target.body):
        if node.name == base.id:
            return Target(target.module, base.id, node, target.body)
    origin = _re_exported(target.body, base.id, target.module, is_package=False)
    if origin is None or origin.partition(".")[0] != __name__.partition(".")[0]:
        return None
    return _locate_dotted(origin)


def _re_exported(body: Iterable[ast.stmt], name: str, module: str, *, is_package: bool) -> str | None:
    """The dotted path from which a module imports a name by `from ... import`; None when it does not."""
    for statement in body:
        if not isinstance(statement, ast.ImportFrom):
            continue
        for alias in statement.names:
            if (alias.asname or alias.name) == name:
                return f"{_imported_module(statement, module, is_package=is_package)}.{alias.name}"
    return None


def _imported_module(statement: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """The absolute name of the module of a `from ... import` statement, which may be relative."""
    if not statement.level:
        return statement.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - statement.level + is_package]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _bound_names(body: Iterable[ast.stmt]) -> set[str]:
    """Every name that a module may bind; `*` where it imports names that only running it would show."""
    bound = set()
    for node in ast.walk(ast.Module(list(body), [])):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    return bound


def _find_module(parts: list[str]) -> tuple[ModuleSpec, int]:
    """The longest beginning of a dotted path that is a module, and its number of parts. Nothing is imported.

    Raises:
        TargetError: the path begins with no module, or leads through a submodule that does not exist.
    """
    spec = _find_top_module(parts[0])
    if spec is None:
        close = nearest(parts[0], [module.name for module in pkgutil.iter_modules()])
        raise TargetError(f"there is no module '{parts[0]}'" + (f"; did you mean '{close}'?" if close else ""))
    depth = 1
    while depth < len(parts) and spec.submodule_search_locations:
        # The bare name in the folders of the parent: to find a full name, Python would import the parent.
        submodule = PathFinder.find_spec(parts[depth], list(spec.submodule_search_locations))
        if submodule is None:
            break
        spec, depth = submodule, depth + 1
    # One part after the module is the class; more are a path through something that is no module.
    if depth < len(parts) - 1 and spec.submodule_search_locations is not None:
        _check_missing_submodule(parts, spec, depth)
    return spec, depth


def _check_missing_submodule(parts: list[str], spec: ModuleSpec, depth: int) -> None:
    """Checks a path `package.missing.Class`, which is right only if the package itself binds the name `missing`.

    Raises:
        TargetError: the package does not bind it.
    """
    if spec.origin and _bound_names(_parse(Path(spec.origin))) & {parts[depth], "*", "__getattr__"}:
        return
    # The spec of a package lists its folders; that of a single file has none.
    folders = list(spec.submodule_search_locations or [])
    close = nearest(parts[depth], [module.name for module in pkgutil.iter_modules(folders)])
    package = ".".join(parts[:depth])
    suggestion = f"; did you mean '{package}.{close}'?" if close else ""
    raise TargetError(f"there is no module '{package}.{parts[depth]}'{suggestion}")


def _find_top_module(name: str) -> ModuleSpec | None:
    # What `importlib.util.find_spec` does for a name without dots, which imports nothing.
    for finder in sys.meta_path:
        spec = finder.find_spec(name, None)
        if spec is not None:
            return spec
    return None
