"""Names of the user's that become names of files, of folders or of metrics."""

from __future__ import annotations

import posixpath
import re

from basereward.errors import BaseRewardError, RecipeError

LONGEST = 200
"""Bytes of a name. File systems take 255, of which an ending and a temporary name need some."""
LONGEST_IN_MLFLOW = 250
"""Characters of the name of a metric, a parameter or a tag in MLflow."""


def name_problem(name: str, *, slashes: bool = False) -> str | None:
    """Why a name cannot be that of a file, a folder or a metric; None when it can.

    Args:
        name: as the user gave it.
        slashes: whether it may have several parts, as MLflow's experiments and metrics do.

    >>> [name_problem(name) is None for name in ("head depth", "", " ", ".", "..", "a/b", "a\\\\b", "a\\nb", "é" * 101)]
    [True, False, False, False, False, False, False, False, False]
    >>> [name_problem(name, slashes=True) is None for name in ("/data/exp", "a/../b", "a/.", "/")]
    [True, False, False, False]
    """
    given = f"{name!r} given"
    if not name.strip().strip("/"):
        return f"a name is needed; {given}"
    if any(part in (".", "..") for part in name.replace("\\", "/").split("/")):
        return f"a name stays in its folder: no part of it is '.' or '..'; {given}"
    if not slashes and ("/" in name or "\\" in name):
        return f"a name without slashes is needed, since a file or a folder is called by it; {given}"
    if not name.isprintable():
        return f"a name has no control characters; {given}"
    if len(name.encode(errors="surrogateescape")) > LONGEST:
        return f"a name has at most {LONGEST} bytes; {name[:40]!r}... has {len(name.encode(errors='surrogateescape'))}"
    return None


def check_name(name: str, *, what: str, slashes: bool = False, error: type[BaseRewardError] = RecipeError) -> None:
    """Checks a name that becomes that of a file, a folder or a metric; see `name_problem`.

    Args:
        what: what the name is of, for the message, such as `--name`.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`.
    """
    if problem := name_problem(name, slashes=slashes):
        raise error(f"{what}: {problem}")


def clean_name(name: str) -> str:
    """The name with everything that MLflow forbids in the name of a metric replaced; reports call columns by it too.

    >>> clean_name("val/my=source (2)/pair_accuracy"), clean_name("/a//../b")
    ('val/my_source _2_/pair_accuracy', 'b')
    """
    allowed = re.sub(r"[^/\w.\- :]", "_", name)
    path = posixpath.normpath(allowed).lstrip("/.")
    return path[:LONGEST_IN_MLFLOW].rstrip("/") or "_"
