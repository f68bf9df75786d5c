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

    The folder that a maker writes is named by a hash of its node, so equal nodes share it. It is written atomically,
    because several processes may write it at once.

    Args:
        recipe: section `model.backbone`; it has a path or a maker.

    Raises:
        OSError: the folder cannot be written.

    >>> backbone_path(BackboneRecipe(path="Qwen/Qwen2.5-VL-7B-Instruct"))
    'Qwen/Qwen2.5-VL-7B-Instruct'
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
            make(recipe.make, "tiny_models", partial)
        # mkdtemp and safetensors give rights to the owner alone, and users of one machine may share the cache.
        partial.chmod(0o755)
        for file in partial.rglob("*.safetensors"):
            apply_umask(file)
        if folder.exists() and not (folder / "config.json").is_file():
            # Another program left it incomplete. It is renamed and not deleted, because it is not known whose it is.
            folder.rename(folder.with_name(f".broken-{folder.name}-{secrets.token_hex(4)}"))
        partial.rename(folder)
    except OSError:
        # If the folder exists, another process was faster, and wrote the same weights.
        if not (folder / "config.json").is_file():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(folder)
