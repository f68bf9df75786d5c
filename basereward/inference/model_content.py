"""A hash of everything that the scores of a saved model depend on: shards of scores are named by it."""

from __future__ import annotations

import json
from pathlib import Path

from basereward.inference.ensemble import is_ensemble, member_folders, model_digest
from basereward.io.hashing import combined_sha256
from basereward.model.saving.card import read_card
from basereward.model.saving.identity import checkpoint_identity
from basereward.runs.resolve_model import resolve_model


def model_content(folder: Path) -> str:
    """A hash of the files of a model, and of a backbone outside of its folder: its content, and its commit on the hub.

    Args:
        folder: a saved model or an ensemble.

    Raises:
        ModelError: it is not a saved model, or its backbone or a member is missing.

    >>> model_content(Path("no folder"))
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: 'no folder' is not a saved reward model...
    """
    parts = [("files", model_digest(folder))] if folder.is_dir() else []
    if is_ensemble(folder):
        members = member_folders(folder, find=resolve_model)
        parts += [(f"member {number}", model_content(member)) for number, member in enumerate(members)]
    else:
        parts.append(("backbone", _outside(folder)))
    return combined_sha256(parts)


def named_model_content(model: str) -> str:
    """The content of what `load` opens by a name.

    Args:
        model: run id, address of MLflow, hub id or folder.

    Raises:
        RunError, ModelError: there is no such model, or a part of it is missing.

    >>> named_model_content("no folder")
    Traceback (most recent call last):
        ...
    basereward.errors.RunError: ...
    """
    return model_content(resolve_model(model))


def _outside(folder: Path) -> str:
    """The identity of the backbone as JSON; '' for one in the folder itself.

    Raises:
        ModelError: as `model_content`.
    """
    card = read_card(folder)
    if card["kind"] == "full":
        return ""
    origin = card["backbone"]
    # Loading the model reads the same hashes, and those of large files are cached.
    identity = checkpoint_identity(origin["path"], revision=origin["revision"], precision="")
    return json.dumps([identity.commit, dict(identity.hashes)], sort_keys=True)
