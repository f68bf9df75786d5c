"""Text that a chat template has rendered already is named in a warning, once for each source."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from basereward.data.schema.text import is_rendered
from basereward.data.sources.jsonl import Jsonl
from tests.helpers.support import write_rows

START = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
LLAMA = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
IMPLICIT = {"chosen": f"{START}a<|im_end|>", "rejected": f"{START}b<|im_end|>"}


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (IMPLICIT, "prompt, chosen, rejected"),
        ({"prompt": LLAMA, "chosen": "a", "rejected": "b"}, "prompt"),
        ({"prompt": "Q", "responses": ["a<|eot_id|>", "b"], "ranking": [0, 1]}, "responses"),
        ({"query": "<start_of_turn>user\nQ", "response": "a", "rejected_response": "b"}, "prompt"),
    ],
)
def test_rendered_text_is_named_once(
    row: dict[str, object], columns: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows are still read: the tokens may be the subject of the text."""
    path = write_rows(tmp_path / "rows.jsonl", [row] * 3)
    with caplog.at_level(logging.WARNING):
        source = Jsonl("mine", path=str(path), val=0, test=0)
        assert len(source.groups("train")) == 3
        assert list(source.stream("train"))
    [message] = [record.getMessage() for record in caplog.records if "rendered" in record.getMessage()]
    assert f": {columns};" in message
    assert "messages" in message


@pytest.mark.parametrize("text", ["Does <|im_end|> end a turn?", "a < b", "What does [INST] mean?", "<b>bold</b>"])
def test_text_about_tokens_is_not_rendered(text: str) -> None:
    """A question may name a token of a template."""
    assert not is_rendered(text)
