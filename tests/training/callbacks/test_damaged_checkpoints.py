"""Every damaged checkpoint ends in one error that names the file, what is wrong with it, and what to do."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.errors import CheckpointError, DamagedCheckpointError
from basereward.training.callbacks.checkpoints import AtomicCheckpointIO

STATE: dict[str, Any] = {
    "pytorch-lightning_version": "2.6.0",
    "global_step": 3,
    "loops": {},
    "state_dict": {"head.weight": torch.arange(4.0)},
    "optimizer_states": [],
}


def without_a_part(file: Path) -> None:
    """Leave out the tensors of a checkpoint; the list of its parts stays whole."""
    parts = zipfile.ZipFile(file)
    kept = {name: parts.read(name) for name in parts.namelist() if "/data/" not in name}
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in kept.items():
            archive.writestr(name, part)


def not_a_pickle(file: Path) -> None:
    """Replace the pickle in a checkpoint by text that the unpickler reads as operations."""
    parts = zipfile.ZipFile(file)
    contents = {name: parts.read(name) for name in parts.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in contents.items():
            archive.writestr(name, b"hello world" if name.endswith("data.pkl") else part)


# Content, or a change of a whole checkpoint -> a word of the message.
DAMAGES: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    # The unpickler reads `h` as a look-up, `j` as a longer one, and other letters as other operations.
    "hello world": (b"hello world", "no file that training wrote"),
    "letter h": (b"hhhh" * 64, "no file that training wrote"),
    "letter j": (b"junkjunk" * 64, "no file that training wrote"),
    "text": (b"this was a checkpoint\n", "no file that training wrote"),
    "zeros": (bytes(4096), "no file that training wrote"),
    "every byte": (bytes(range(256)), "no file that training wrote"),
    "empty": (b"", "it is empty"),
    "cut off": (lambda file: os.truncate(file, file.stat().st_size // 2), "cut off"),
    "without its tensors": (without_a_part, "a part of it is missing"),
    "no pickle": (not_a_pickle, "a part of it"),
    "a list": (lambda file: torch.save([1, 2], file), "a list"),
    "no state": (lambda file: torch.save({"state_dict": {}, "loops": {}}, file), "global_step, optimizer_states"),
    "code": (lambda file: torch.save({**STATE, "hook": Path}, file), "more than tensors and plain data"),
    "missing folder": (lambda file: torch.save({**STATE, "shards": "last-3.shards"}, file), "a part of it is missing"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    """The cause is ours: messages of torch are about its own arguments."""
    damage, word = DAMAGES[name]
    file = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, file)
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(file)["state_dict"]["head.weight"], torch.arange(4.0))
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        damage(file)
    with pytest.raises(DamagedCheckpointError) as caught:
        AtomicCheckpointIO().load_checkpoint(file)
    message = str(caught.value)
    assert str(file) in message
    assert word in message
    assert "basereward train" in message
    assert "weights_only" not in message


def test_checkpoint_that_the_system_cannot_read_is_not_called_damaged(tmp_path: Path) -> None:
    """The reason of the system is in the message."""
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(CheckpointError, match="Is a directory") as caught:
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert not isinstance(caught.value, DamagedCheckpointError)
