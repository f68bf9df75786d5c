"""Fixtures with small checkpoints, of which every family is written once per session, and changes of checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.families.processing import load_encoder
from tests.helpers.support import checkpoint, group


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a family's small checkpoint, which tests must not change."""

    @lru_cache
    def folder(family: str) -> Path:
        return checkpoint(family, tmp_path_factory.mktemp("checkpoints") / family)

    return folder


@pytest.fixture(scope="session")
def pictures_of(folder_of: Callable[[str], Path]) -> Callable[[str], TreeBatch]:
    """Return a function that gives two groups, one with a picture, as tree rows for a family."""

    @lru_cache
    def pictures(family: str) -> TreeBatch:
        encoder = load_encoder(folder_of(family))
        encoded = [encoder(group(images=1)), encoder(group(responses=("7", "It is 4.")))]
        return collate(encoded, layout="tree", pad_id=encoder.pad_id)

    return pictures


@pytest.fixture(scope="session")
def pictures(pictures_of: Callable[[str], TreeBatch]) -> TreeBatch:
    """Return these tree rows for the small Qwen2.5-VL."""
    return pictures_of("qwen2_5_vl")


def change_a_weight(file: Path) -> None:
    """Add one to the first tensor of a checkpoint."""
    tensors = load_file(file)
    first = sorted(tensors)[0]
    save_file({**tensors, first: tensors[first] + 1}, file, metadata={"format": "pt"})
