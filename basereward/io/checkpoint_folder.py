"""Whether the path of a checkpoint can only be that of a folder on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def folder_fault(path: str | Path) -> str | None:
    """Where a folder was looked for that is not there; None where it is there, or the path may be an id of the hub.

    An id is a name, or two with a slash between them.

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
