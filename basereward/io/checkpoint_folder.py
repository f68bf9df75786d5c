"""Finds a wrong path of a checkpoint before a library takes it for the name of a repository of the hub."""

from __future__ import annotations

import os
from pathlib import Path


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
