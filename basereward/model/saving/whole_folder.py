"""Writes a folder of weights beside its place, so that it appears whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from basereward.errors import CheckpointError, sentence
from basereward.io.files import apply_umask
from basereward.io.outputs import replace_folder
from basereward.model.backbone import quiet_transformers


@contextlib.contextmanager
def whole_folder(folder: Path, *, content: str, advice: str) -> Iterator[Path]:
    """A temporary folder that replaces `folder` at the end of the block.

    Args:
        folder: where to write; an older folder is replaced.
        content: what is saved, for messages, such as "model".
        advice: what to do when the disk is full.

    Raises:
        CheckpointError: the folder cannot be written, for example because the disk is full.
    """
    fault = f"the {content} cannot be saved in '{folder}'"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise CheckpointError(f"{fault}: {sentence(error)} Give another folder.") from error
    try:
        with quiet_transformers():
            yield partial
        open_to_readers(partial)
        replace_folder(partial, folder)
    # For a full disk the libraries raise errors of their own besides OSError.
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{fault}: {sentence(error)} {advice}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_to_readers(folder: Path) -> None:
    """Give a folder and its weights the rights of ordinary files; mkdtemp and safetensors give them to the owner alone.

    Args:
        folder: made by `mkdtemp`.
    """
    folder.chmod(0o755)
    for file in folder.rglob("*.safetensors"):
        apply_umask(file)
