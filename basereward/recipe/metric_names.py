"""Names in the form that MLflow takes, which is also that of the columns of reports."""

from __future__ import annotations

import posixpath
import re

MAX_NAME = 250


def clean_name(name: str) -> str:
    """The name with everything that MLflow forbids in a name replaced.

    >>> clean_name("val/my=source (2)/pair_accuracy"), clean_name("/a//../b")
    ('val/my_source _2_/pair_accuracy', 'b')
    """
    allowed = re.sub(r"[^/\w.\- :]", "_", name)
    path = posixpath.normpath(allowed).lstrip("/.")
    return path[:MAX_NAME].rstrip("/") or "_"
