"""The identity of a backbone: its path, the hub's commit, and a hash of each part that is read when it is loaded.

It is recorded with a run, a checkpoint and a saved model, and compared when one of them is opened or resumed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from transformers.utils.hub import cached_file, extract_commit_hash

from basereward.data.encoding.content_hash import encoder_hashes
from basereward.data.encoding.encoder import Encoder
from basereward.errors import BaseRewardError, ModelError
from basereward.io.hashing import combined_sha256, file_sha256
from basereward.io.limits import read_json_object

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
UNHASHED = ("_name_or_path", "transformers_version")
"""Keys of `config.json` that describe its origin and not the model."""


@dataclass(frozen=True, slots=True)
class BackboneIdentity:
    """Where a backbone comes from, with hashes of what was read.

    Args:
        path: hub id, or the absolute path of a folder.
        revision: the requested branch, tag or commit.
        commit: the commit that the hub's cache resolved it to; None for a folder.
        fingerprint: a hash of 64 values of each weight. Models that were saved without `hashes` are compared by it.
        hashes: SHA-256 of each part: `weights`, `config`, and those of `encoder_hashes`; `precision` is text. Empty if
            nothing was hashed.

    >>> BackboneIdentity("Qwen/Qwen3-8B", revision="main").as_dict()["commit"] is None
    True
    """

    path: str
    revision: str | None = None
    commit: str | None = None
    fingerprint: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)

    def with_encoder(self, encoder: Encoder) -> BackboneIdentity:
        """The identity with the hashes of the tokenizer, the chat template and the image processor."""
        return replace(self, hashes={**self.hashes, **encoder_hashes(encoder)})

    def as_dict(self) -> dict[str, Any]:
        """The identity as JSON values; `read_identity` reads it."""
        return {
            "path": self.path,
            "revision": self.revision,
            "commit": self.commit,
            "fingerprint": self.fingerprint,
            "hashes": dict(self.hashes),
        }


def read_identity(value: Any, *, where: str, error: type[BaseRewardError] = ModelError) -> BackboneIdentity:
    """Builds the identity from the JSON object of `as_dict`.

    Args:
        value: from a file.
        where: the file, for the error message.
        error: type of the error that is raised.

    Raises:
        BaseRewardError: of type `error`; a key is missing or has a value of another type.

    >>> identity = BackboneIdentity("Qwen/Qwen3-8B", hashes={"precision": "bfloat16, nf4"})
    >>> read_identity(identity.as_dict(), where="reward_model.json") == identity
    True
    """
    optional = ("revision", "commit", "fingerprint")
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        raise error(f"{where}: the identity of the backbone must be an object with a path; {str(value)[:80]} given")
    wrong = [key for key in optional if not isinstance(value.get(key), str | None)]
    hashes = value.get("hashes")
    if not isinstance(hashes, dict) or not all(isinstance(digest, str) for digest in hashes.values()):
        wrong.append("hashes")
    if wrong:
        raise error(f"{where}: {', '.join(wrong)} of the backbone's identity must be text")
    assert isinstance(hashes, dict)
    return BackboneIdentity(
        value["path"], value.get("revision"), value.get("commit"), value.get("fingerprint"), hashes=hashes
    )


def precision_text(dtype: Any, quantization: str | None) -> str:
    """The precision of a backbone as the text in its identity.

    >>> precision_text("torch.bfloat16", "nf4"), precision_text("torch.float32", None)
    ('bfloat16, nf4', 'float32, not quantized')
    """
    return f"{str(dtype).removeprefix('torch.')}, {quantization or 'not quantized'}"


def find_file(path: str | Path, name: str, *, revision: str | None = None) -> Path | None:
    """A file of a checkpoint in a folder or on the hub, from which it is downloaded; None if it does not exist.

    >>> import tempfile
    >>> find_file(tempfile.mkdtemp(), CONFIG) is None
    True
    """
    if os.path.isdir(path):
        file = Path(path) / name
        return file if file.exists() else None
    # transformers' own function, so that its cache, its offline mode and its tokens apply.
    cached = cached_file(str(path), name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if cached is None else Path(cached)


def weight_files(path: str | Path, *, revision: str | None = None) -> dict[str, Path]:
    """The safetensors files of a checkpoint that transformers reads, by name.

    Raises:
        ModelError: there is no such file, the index is malformed, or it names a file outside the checkpoint's folder.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / WEIGHTS).touch()
    >>> list(weight_files(folder))
    ['model.safetensors']
    """
    # In transformers' order: a single file wins over an index.
    whole = find_file(path, WEIGHTS, revision=revision)
    if whole is not None:
        return {WEIGHTS: whole}
    index = find_file(path, INDEX, revision=revision)
    if index is None:
        raise ModelError(
            f"no model could be loaded from '{path}': it has neither {WEIGHTS} nor {INDEX}. "
            "Give a hub id, or a folder with config.json, *.safetensors and a tokenizer. Weights in other formats, for "
            "example pickles, are not read"
        )
    shards = {}
    for name in sorted(_shard_names(index)):
        file = find_file(path, name, revision=revision)
        if file is None:
            raise ModelError(f"'{index}' names {name}, which does not exist. Copy the complete checkpoint again")
        shards[name] = file
    return shards


def _shard_names(index: Path) -> set[str]:
    """The file names of an index; each must stay in the folder of the checkpoint."""
    shards = read_json_object(index, limit=256 * 2**20, error=ModelError).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise ModelError(f"'{index}' has no weight_map that gives a file for every weight")
    names = set(shards.values())
    for name in names:
        # A path out of the folder would let a checkpoint have any file of this machine opened.
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or not name.endswith(".safetensors"):
            raise ModelError(
                f"'{index}' names the file '{name}'; allowed are *.safetensors in the folder of the checkpoint"
            )
    return names


def checkpoint_identity(path: str | Path, *, revision: str | None = None, precision: str) -> BackboneIdentity:
    """The identity of a checkpoint, from hashes of its weights and `config.json` and the commit on the hub.

    Args:
        path: hub id or folder.
        revision: branch, tag or commit of the hub's repository.
        precision: see `precision_text`.

    Raises:
        ModelError: a file is missing, malformed or unreadable.
    """
    config = find_file(path, CONFIG, revision=revision)
    if config is None:
        raise ModelError(f"no model could be loaded from '{path}': it has no config.json")
    settings = read_json_object(config, error=ModelError)
    # A canonical form: other white space, another order of keys or another origin do not change the model.
    content = json.dumps({key: settings[key] for key in settings if key not in UNHASHED}, sort_keys=True)
    try:
        weights = [(name, file_sha256(file)) for name, file in weight_files(path, revision=revision).items()]
    except OSError as error:
        raise ModelError(f"the weights of '{path}' cannot be read: {error}") from error
    local = os.path.isdir(path)
    return BackboneIdentity(
        path=os.path.abspath(path) if local else str(path),
        revision=revision,
        commit=None if local else extract_commit_hash(str(config), None),
        hashes={
            "weights": combined_sha256(weights),
            "config": combined_sha256([("config", content)]),
            "precision": precision,
        },
    )
