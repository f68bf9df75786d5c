"""Resolves a recipe's backbone to a hub id or a folder; a maker writes the folder first if the recipe has one."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from basereward.io.files import apply_umask, cache_folder
from basereward.io.processes import remove_leftovers, temporary_name
from basereward.model.backbone import quiet_transformers
from basereward.recipe import make
from basereward.recipe.schema import BackboneRecipe


def backbone_path(recipe: BackboneRecipe) -> str:
    """The hub id or the absolute path of the folder to load.

    The folder of a maker is named by a hash of its node, so equal nodes share it. It is written atomically, because
    several processes may write it at once.
    """
    if recipe.path is not None:
        folder_of_user = os.path.expanduser(recipe.path)
        return os.path.abspath(folder_of_user) if os.path.isdir(folder_of_user) else folder_of_user
    assert recipe.make is not None, "the recipe's check asks for a path or a maker"
    node = json.dumps(recipe.make, sort_keys=True)
    folder = cache_folder() / "backbones" / hashlib.sha256(node.encode()).hexdigest()[:16]
    if (folder / "config.json").is_file():
        return str(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent, ".making.*")
    partial = Path(tempfile.mkdtemp(prefix=temporary_name("making", "-"), dir=folder.parent))
    try:
        with quiet_transformers():
            make(recipe.make, "makers", partial)
        partial.chmod(0o755)
        for file in partial.rglob("*.safetensors"):
            apply_umask(file)
        if folder.exists() and not (folder / "config.json").is_file():
            # Left incomplete by another program: it is set aside, since nothing but a maker writes whole folders here.
            folder.rename(folder.with_name(f".broken-{folder.name}-{secrets.token_hex(4)}"))
        partial.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():  # else another process was first, with the same weights
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(folder)
