"""The identity of a judge on this machine: its content, since a folder of the same name may be trained again."""

from __future__ import annotations

from pathlib import Path

from transformers.utils.hub import extract_commit_hash

from basereward.inference.judges.engine import LOCAL
from basereward.inference.judges.trained import is_trained
from basereward.inference.model_content import model_content
from basereward.io.hashing import combined_sha256, file_sha256
from basereward.model.saving.identity import CONFIG, find_file
from basereward.runs.resolve_model import resolve_model

READ = {".bin", ".jinja", ".json", ".model", ".py", ".safetensors", ".txt"}
"""Suffixes of the files of a checkpoint that decide on its texts: weights, settings, code, tokenizer, chat template."""


def local_content(model: str, *, endpoint: str) -> str | None:
    """What `judge_content` gives for a model on this machine.

    Args:
        model: a run or saved model of a trained judge; a hub id or folder.
        endpoint: `local` or `vllm`.

    Raises:
        ModelError, RunError: the model cannot be opened.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> before = local_content(str(folder), endpoint="local")
    >>> _ = (folder / "config.json").write_text("{}")
    >>> local_content(str(folder), endpoint="local") == before
    False
    """
    if endpoint == LOCAL and is_trained(model):
        return model_content(resolve_model(model))
    folder = Path(model)
    if folder.is_dir():
        files = sorted(file for file in folder.iterdir() if file.suffix in READ and file.is_file())
        return combined_sha256((file.name, file_sha256(file)) for file in files)
    config = find_file(model, CONFIG)
    return None if config is None else extract_commit_hash(str(config), None)
