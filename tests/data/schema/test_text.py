"""Texts that no tokenizer should get: too long ones, lone surrogates, and invisible ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from basereward.data.encoding.encoder import Encoder
from basereward.data.schema import text
from basereward.data.schema.group import Reasoning
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.text import is_blank
from tests.helpers.bad_rows import GOOD_IDS, as_line, local, read_data, row_with, used_groups, write_lines
from tests.helpers.support import group

TEN_MEGABYTES = 10_000_000
ZERO_WIDTH = "\u200b\ufeff\u2060\u00ad\ufe0f"
ROWS = {
    "text_too_long": [
        row_with(rejected="x" * TEN_MEGABYTES),
        row_with(prompt="\n" * TEN_MEGABYTES + "Q"),
        row_with(chosen=[{"role": "assistant", "content": "word " * (TEN_MEGABYTES // 5)}]),
    ],
    "empty_response": [row_with(chosen=ZERO_WIDTH)],
    "empty_prompt": [row_with(prompt=ZERO_WIDTH + " ", images=...)],
}


@pytest.mark.parametrize(("reason", "index"), [(reason, i) for reason, rows in ROWS.items() for i in range(len(rows))])
def test_row_with_unusable_text_is_rejected_alone(
    reason: str, index: int, small_encoder: Encoder, good: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is rejected before tokenization, which would take minutes; the good rows are used."""
    tokenized: list[int] = []
    tokenize = type(small_encoder.tokenizer).__call__

    def recording_call(self: object, text_to_tokenize: str, **options: object) -> object:
        tokenized.append(len(text_to_tokenize))
        return tokenize(self, text_to_tokenize, **options)

    monkeypatch.setattr(type(small_encoder.tokenizer), "__call__", recording_call)
    path = write_lines(tmp_path, [*good, as_line(ROWS[reason][index])])
    data = read_data(local(path), small_encoder)
    assert [row.reason for row in data.rejected] == [reason]
    assert list(used_groups(data)) == GOOD_IDS
    assert max(tokenized) < 10_000


def test_length_limit_is_over_all_texts_of_a_group(small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt, responses, critiques and reasonings; texts at the limit pass."""
    monkeypatch.setattr(text, "MAX_CHARACTERS", 100)
    fitting = group("p" * 40, ("a" * 30, "b" * 30))
    assert small_encoder(fitting).longest > 0
    changes = ({"responses": ("a" * 31, "b" * 30)}, {"critiques": ("c", "")}, {"reasonings": (Reasoning(0, 1, "r"),)})
    for change in changes:
        for encode in (small_encoder, small_encoder.measure):
            with pytest.raises(RowRejected) as caught:
                encode(replace(fitting, **change))
            assert caught.value.reason == "text_too_long"


def test_lone_surrogate_is_rejected(small_encoder: Encoder) -> None:
    """In a response or a prompt from Python; the tokenizer would raise a TypeError."""
    for group_with_surrogate in (group(responses=("good \ud83d", "b")), group("What \udc00?")):
        with pytest.raises(RowRejected, match=r"\\ud83d|\\udc00") as caught:
            small_encoder(group_with_surrogate)
        assert caught.value.reason == "half_surrogate"


@pytest.mark.parametrize("invisible", ["", " \n\t", ZERO_WIDTH, "\u3164", "\u2800 ", "\x00\x07", "\u202e\u2066"])
def test_invisible_text_is_blank(invisible: str) -> None:
    """Space, zero-width, filler and control characters are blank."""
    assert is_blank(invisible)


@pytest.mark.parametrize("visible", ["a", "0", "\u200ba", "\u0439", "👍🏽", "e\u0301", "漢", "\u200d\u0915", "."])
def test_visible_text_is_not_blank(visible: str) -> None:
    """Letters, numbers, marks and signs of any script are not blank."""
    assert not is_blank(visible)
