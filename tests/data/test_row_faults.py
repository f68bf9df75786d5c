"""Malformed rows: each fault is named with its place, with what was given and with what is needed."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.group import Group
from basereward.data.rows import RowFormat
from basereward.errors import DataError

PLACE = {"type": "image"}
SYSTEM = {"role": "system", "content": "Be brief."}


def _parse(row: dict[str, Any]) -> Group:
    return RowFormat(images_root="/data").group(row, source="s", row_id="f:1", where="f.jsonl:1")


def _user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def _assistant(content: object) -> dict[str, object]:
    return {"role": "assistant", "content": content}


PAIR = {"chosen": "a", "rejected": "b"}
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "Q", "chosen": "a"}, "missing or null: 'rejected'. Columns found: prompt, chosen."),
    ({"prompt": "Q", "chosen": "a", "rejected": None}, "missing or null: 'rejected'"),
    ({"prompt": "Q", "chosen": "a", "reject": "b"}, "'reject' looks like it: columns: {rejected: reject}"),
    ({"prompt": "Q", "good": "a"},
     "missing or null: 'chosen' and 'rejected', or `responses`. Columns found: prompt, good."),
    ({}, "Columns found: none."),
    (PAIR, "there is no prompt"),
    ({"prompt": [], **PAIR}, "there is no prompt"),
    ({"prompt": " ", **PAIR}, "the prompt is empty"),
    ({"prompt": 3, **PAIR}, "`prompt` is 3 (int); a string or a list of messages is needed"),
    ({"prompt": ["Q"], **PAIR}, "`prompt[0]` is 'Q' (str); a message is"),
    ({"prompt": [{"from": "human", "value": "Q"}], **PAIR}, "`prompt[0]` is {'from': 'human', 'value': 'Q'} (dict)"),
    ({"prompt": [{"role": "human", "content": "Q"}], **PAIR},
     "`prompt[0]`: unknown role 'human'. Allowed: assistant, system, user."),
    ({"prompt": [{"role": "usr", "content": "Q"}], **PAIR}, "did you mean 'user'"),
    ({"prompt": [_user(None)], **PAIR}, "`prompt[0]`: content is None (NoneType)"),
    ({"prompt": [_user(["Q"])], **PAIR}, "`prompt[0]`: part 0 is 'Q' (str); a part is"),
    ({"prompt": [_user([{"type": "video"}])], **PAIR}, "unknown type 'video'. Allowed: image, text."),
    ({"prompt": [_user([{"type": "text"}])], **PAIR}, "text is None (NoneType); a string is needed"),
    ({"prompt": [_user([{"type": "image", "url": "x"}])], **PAIR}, "unknown key of a part of type image 'url'"),
    ({"prompt": [_user("Q"), _assistant("A")], **PAIR}, "the prompt ends with a turn of the assistant"),
    ({"prompt": [SYSTEM], **PAIR}, "the prompt ends with a turn of the system"),
    ({"prompt": "Q", "chosen": 5, "rejected": "b"},
     "`chosen` is 5 (int); a response is a string or a list of messages"),
    ({"prompt": "Q", "chosen": [], "rejected": "b"}, "`chosen` is [] (list)"),
    ({"prompt": "Q", "chosen": [_user("a")], "rejected": "b"}, "`chosen` ends with a turn of the user"),
    ({"prompt": "Q", "chosen": [_assistant([PLACE])], "rejected": "b"}, "`chosen`: a response holds an image"),
    ({"chosen": [_user("Q"), _assistant("a")], "rejected": [_user("P"), _assistant("b")]}, "different turns before"),
    ({"prompt": "Q", "chosen": [_user("P"), _assistant("a")], "rejected": [_user("P"), _assistant("b")]},
     "differ from `prompt`"),
    ({"prompt": "Q", **PAIR, "responses": ["a", "b"]}, "both `responses` and `chosen`"),
    ({"prompt": "Q", "responses": "a", "ranking": [0]}, "`responses` is 'a' (str)"),
    ({"prompt": "Q", "responses": [], "ranking": []}, "a list of at least one response"),
    ({"prompt": "Q", "responses": ["a"], "preferences": [[0, 1]]}, "training needs at least 2"),
    ({"prompt": "Q", "responses": ["a", 7], "ranking": [0, 1]}, "`responses[1]` is 7 (int)"),
    ({"prompt": "Q", "responses": ["a", "b"]}, "no preference: give `ranking` or `preferences`"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": []}, "no preference"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0]}, "`ranking` has 1 ranks for 2 responses"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1.5]}, "a list of whole numbers is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [True, False]}, "a list of whole numbers is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "preferences": [[0, 1]]}, "both `ranking` and"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 2]]},
     "`preferences[0]` is [0, 2] (list); the 2 responses have the indices 0 to 1"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 1], [-1, 0]]}, "`preferences[1]` is [-1, 0]"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[1, 1]]}, "a response cannot be preferred to itself"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0]]}, "[winner, loser] is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": {"0": 1}}, "a list of [winner, loser] is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 1]], "margins": [1, 2]}, "a list of 1 is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 1]], "margins": ["x"]}, "`margins[0]` is 'x' (str)"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "margins": [1]}, "`margins` goes with `preferences`"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "margin": 1},
     "`margin` goes with `chosen` and `rejected`"),
    ({"prompt": "Q", **PAIR, "ranking": [0, 1]}, "`ranking` does not go with `chosen` and `rejected`"),
    ({"prompt": "Q", **PAIR, "margin": float("nan")}, "`margin` is nan (float); a finite number is needed"),
    ({"prompt": "Q", **PAIR, "margin": True}, "`margin` is True (bool)"),
    ({"prompt": "<image><image>", **PAIR, "images": ["x"]}, "the prompt has 2 image places, and the row has 1 images"),
    ({"prompt": "<image>", **PAIR, "images": ["x", "y"]}, "the prompt has 1 image places, and the row has 2 images"),
    ({"prompt": "<image>", **PAIR, "images": []}, "the prompt has 1 image places, and the row has 0 images"),
    ({"prompt": [_user([PLACE])], **PAIR}, "the prompt has 1 image places, and the row has 0 images"),
    ({"prompt": [_user([{"type": "image", "image": "x"}, PLACE])], **PAIR}, "2 image places, and the row has 1 images"),
    ({"prompt": [_user([{"type": "image", "image": "x"}])], **PAIR, "images": ["x"]}, "give them in one of the two"),
    ({"prompt": "Q", **PAIR, "images": ["x"], "image": "x"}, "both `images` and `image`"),
    ({"prompt": "Q", **PAIR, "images": [3]}, "images[0] is 3 (int); a path, bytes or a data URI is needed"),
    ({"prompt": "Q", **PAIR, "images": [""]}, "images[0] is '' (str)"),
    ({"prompt": "Q", **PAIR, "images": ["https://x.org/a.png"]}, "nothing is fetched"),
    ({"prompt": "Q", **PAIR, "images": ["data:image/png;base64,###"]}, "images[0]: its base64 is broken"),
    ({"prompt": "Q", **PAIR, "img": "x.png"},
     "column 'img' is not read; if these are the images: columns: {images: img}"),
    ({"prompt": "Q", **PAIR, "video": "x.mp4"}, "videos cannot be used"),
    ({"prompt": "Q", **PAIR, "id": [1]}, "`id` is [1] (list)"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "words"), FAULTS, ids=[words[:40] for _, words in FAULTS])
def test_faults_say_where_and_what(row: dict[str, Any], words: str) -> None:
    """Each begins with file and line, and says what was given and what is needed."""
    with pytest.raises(DataError) as caught:
        _parse(row)
    message = str(caught.value)
    assert message.startswith("f.jsonl:1: ")
    assert words in message


def test_faults_stay_short() -> None:
    """A response of a million letters in the wrong place is not printed whole."""
    with pytest.raises(DataError) as caught:
        _parse({"prompt": ["x" * 1_000_000], **PAIR})
    assert len(str(caught.value)) < 300
