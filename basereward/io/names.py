"""Checks of names and paths that a user gives: of files, folders, metrics and checkpoints."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from basereward.errors import BaseRewardError, RecipeError

LONGEST = 200
"""Most bytes of a name. File systems allow 255, and a suffix and the mark of a temporary file need some of them."""
LONGEST_IN_MLFLOW = 250
"""Most characters of the name of a metric, a parameter or a tag in MLflow."""


def name_problem(name: str, *, slashes: bool = False) -> str | None:
    """Why a name is not allowed for a file, a folder or a metric; None when it is allowed.

    Args:
        name: as the user gave it.
        slashes: whether it may have several parts, as the names of MLflow's experiments and metrics may.

    >>> [name_problem(name) is None for name in ("head depth", "", " ", ".", "..", "a/b", "a\\\\b", "a\\nb", "é" * 101)]
    [True, False, False, False, False, False, False, False, False]
    >>> [name_problem(name, slashes=True) is None for name in ("/data/exp", "a/../b", "a/.", "/")]
    [True, False, False, False]
    """
    given = f"{name!r} given"
    if not name.strip().strip("/"):
        return f"a name is needed; {given}"
    if any(part in (".", "..") for part in name.replace("\\", "/").split("/")):
        return f"a name must stay in its folder, so no part of it may be '.' or '..'; {given}"
    if not slashes and ("/" in name or "\\" in name):
        return f"a name without slashes is needed, because a file or a folder gets it; {given}"
    if not name.isprintable():
        return f"a name has no control characters; {given}"
    # A word of the command line that is not UTF-8 has surrogates, which stand for one byte each.
    size = len(name.encode(errors="surrogateescape"))
    if size > LONGEST:
        return f"a name has at most {LONGEST} bytes; {name[:40]!r}... has {size}"
    return None


def check_name(name: str, *, what: str, slashes: bool = False, error: type[BaseRewardError] = RecipeError) -> None:
    """Checks the name of a file, a folder or a metric; see `name_problem`.

    Args:
        name: as the user gave it.
        what: the option or key that has the name, for the message, such as `--name`.
        slashes: as of `name_problem`.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; the name is not allowed.

    >>> check_name("a/b", what="--name")
    Traceback (most recent call last):
    basereward.errors.RecipeError: --name: a name without slashes is needed, ...; 'a/b' given
    """
    if problem := name_problem(name, slashes=slashes):
        raise error(f"{what}: {problem}")


def clean_name(name: str) -> str:
    """The name with the characters replaced that MLflow forbids in the name of a metric.

    Reports use the same name for columns, so that a column can be found in MLflow.

    >>> clean_name("val/my=source (2)/pair_accuracy"), clean_name("/a//../b")
    ('val/my_source _2_/pair_accuracy', 'b')
    """
    allowed = re.sub(r"[^/\w.\- :]", "_", name)
    # MLflow refuses a name that differs from its normalised path, because it becomes the path of a file.
    path = posixpath.normpath(allowed).lstrip("/.")
    return path[:LONGEST_IN_MLFLOW].rstrip("/") or "_"


def folder_fault(path: str | Path) -> str | None:
    """What is wrong with the path of a checkpoint; None for a folder, or for a text that may be an id of the hub.

    An id of the hub is one name, or two with a slash between them.

    Args:
        path: a text from a recipe or a command line, or a `Path`, which is never an id.

    >>> folder_fault("Qwen/Qwen2.5-VL-7B-Instruct") is None
    True
    """
    text = str(path)
    if os.path.isdir(path):
        return None
    if isinstance(path, Path) or text.count("/") > 1 or text.startswith((".", "~", "/")) or os.path.exists(path):
        kind = "a file and no folder" if os.path.exists(path) else "no folder"
        return (
            f"no model could be loaded from '{text}': {os.path.abspath(path)} is {kind}. A relative path starts from "
            "the working folder. Give a hub id, or a folder with config.json, *.safetensors and a tokenizer."
        )
    return None
