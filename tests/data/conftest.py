"""What tests of the data read with: an encoder, and rows that are good."""

from __future__ import annotations

from pathlib import Path

import pytest

from basereward.data.encoding import Encoder
from basereward.model.processing import load_encoder
from tests.bad_rows import as_line
from tests.support import checkpoint, pair_rows


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Of a small Qwen2.5-VL."""
    return load_encoder(checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("model")), max_tokens=2048)


@pytest.fixture
def good(tmp_path: Path) -> list[bytes]:
    """The lines of four good rows, whose pictures lie in the folder of the test."""
    return [as_line(row) for row in pair_rows(4, folder=tmp_path)]
