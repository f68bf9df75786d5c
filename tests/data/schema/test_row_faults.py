"""Malformed rows: each fault has its reason, and the message has the location, the given value and what is needed."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat

PLACE = {"type": "image"}
SYSTEM = {"role": "system", "content": "Be brief."}


def _parse(row: dict[str, Any]) -> Group:
    """Return the group of a row."""
    return RowFormat(images=ImageStore("/data")).group(row, source="s", row_id="f:1", where="f.jsonl:1")


def _user(content: object) -> dict[str, object]:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def _assistant(content: object) -> dict[str, object]:
    """Return a message of the assistant."""
    return {"role": "assistant", "content": content}


PAIR = {"chosen": "a", "rejected": "b"}
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": "Q", "chosen": "a"}, "missing_column", "missing: 'rejected'. Columns found: prompt, chosen."),
    ({"prompt": "Q", "chosen": "a", "rejected": None}, "null_response", "'rejected' is null"),
    ({"prompt": "Q", "chosen": "a", "reject": "b"},
     "missing_column", "'reject' looks like it: columns: {rejected: reject}"),
    ({"prompt": "Q", "good": "a"},
     "missing_column", "missing: 'chosen' and 'rejected', or `responses`. Columns found: prompt, good."),
    ({}, "missing_column", "Columns found: none."),
    (PAIR, "no_prompt", "there is no prompt"),
    ({"prompt": [], **PAIR}, "no_prompt", "there is no prompt"),
    ({"prompt": " ", **PAIR}, "empty_prompt", "the prompt is empty"),
    ({"prompt": 3, **PAIR}, "wrong_type", "`prompt` is 3 (int); a string or a list of messages is needed"),
    ({"prompt": ["Q"], **PAIR}, "bad_message", "`prompt[0]` is 'Q' (str); a message is"),
    ({"prompt": [{"by": "human", "value": "Q"}], **PAIR},
     "bad_message", "`prompt[0]` is {'by': 'human', 'value': 'Q'} (dict)"),
    ({"prompt": [{"from": "humn", "value": "Q"}], **PAIR}, "unknown_role", "did you mean 'human'"),
    ({"prompt": [{"role": "human", "content": "Q"}], **PAIR},
     "unknown_role", "`prompt[0]`: unknown role 'human'. Allowed: assistant, system, user."),
    ({"prompt": [{"role": "usr", "content": "Q"}], **PAIR}, "unknown_role", "did you mean 'user'"),
    ({"prompt": [_user(None)], **PAIR}, "wrong_type", "`prompt[0]`: content is None (NoneType)"),
    ({"prompt": [_user(["Q"])], **PAIR}, "bad_message", "`prompt[0]`: part 0 is 'Q' (str); a part is"),
    ({"prompt": [_user([{"type": "audio"}])], **PAIR},
     "unknown_part", "unknown type 'audio'. Allowed: image, image_url, text, video, video_url."),
    ({"prompt": [_user([{"type": ["text"], "text": "Q"}])], **PAIR}, "unknown_part", "Allowed: image, image_url"),
    ({"prompt": [_user([{"type": "text"}])], **PAIR}, "wrong_type", "text is None (NoneType); a string is needed"),
    ({"prompt": [_user([{"type": "image", "max_pixels": 9}])], **PAIR},
     "unknown_part", "unknown key of a part of type image 'max_pixels'"),
    ({"prompt": [_user([{"type": "image", "url": "x", "path": "y"}])], **PAIR},
     "conflicting_columns", "an image is given by url and by path"),
    ({"prompt": [_user([{"type": "image_url", "image_url": {"link": "x"}}])], **PAIR}, "unknown_part", "'link'"),
    ({"prompt": [_user([{"type": "image_url"}])], **PAIR}, "unknown_part", "image_url is None"),
    ({"prompt": [_user("Q"), _assistant("A")], **PAIR}, "bad_turns", "the prompt ends with a turn of the assistant"),
    ({"prompt": [SYSTEM], **PAIR}, "bad_turns", "the prompt ends with a turn of the system"),
    ({"prompt": "Q", "chosen": 5, "rejected": "b"},
     "wrong_type", "`chosen` is 5 (int); a response must be"),
    ({"prompt": "Q", "chosen": [], "rejected": "b"}, "wrong_type", "`chosen` is [] (list)"),
    ({"prompt": "Q", "chosen": [_user("a")], "rejected": "b"}, "bad_turns", "`chosen` ends with a turn of the user"),
    ({"prompt": "Q", "chosen": [_assistant([PLACE])], "rejected": "b"},
     "image_count", "`chosen`: the response has 1 image place, and the row has 0 images"),
    ({"prompt": "Q", "chosen_images": ["a.png"], **PAIR}, "image_in_response", "`chosen_images` alone"),
    ({"prompt": "Q", "responses": ["a", "b"], "response_images": [["a.png"]], "ranking": [0, 1]},
     "wrong_count", "1 lists of images and `responses` has 2 responses"),
    ({"prompt": "Q", "responses": ["a", "b"], "response_images": "a.png", "ranking": [0, 1]},
     "wrong_type", "`response_images` is 'a.png' (str)"),
    ({"prompt": "Q", "responses": ["<image> <image>", "b"], "response_images": [["a.png"], []], "ranking": [0, 1]},
     "image_count", "`responses[0]`: the response has 2 image places, and the row has 1 image"),
    ({"prompt": "Q", "responses": ["a", "b"], "response_images": [[7], []], "ranking": [0, 1]},
     "bad_image_reference", "`responses[0]`: images[0] is 7 (int)"),
    ({"prompt": "Q", "responses": ["a", "b"], "chosen_images": ["a.png"], "rejected_images": [], "ranking": [0, 1]},
     "conflicting_columns", "both `responses` and `chosen_images`"),
    ({"chosen": [_user("Q"), _assistant("a")], "rejected": [_user("P"), _assistant("b")]},
     "prompts_differ", "the turns before the last one differ"),
    ({"prompt": "Q", "chosen": [_user("P"), _assistant("a")], "rejected": [_user("P"), _assistant("b")]},
     "prompts_differ", "differ from `prompt`"),
    ({"prompt": "Q", **PAIR, "responses": ["a", "b"]}, "conflicting_columns", "both `responses` and `chosen`"),
    ({"prompt": "Q", "responses": "a", "ranking": [0]}, "wrong_type", "`responses` is 'a' (str)"),
    ({"prompt": "Q", "responses": [], "ranking": []}, "wrong_type", "a list of at least one response"),
    ({"prompt": "Q", "responses": ["a"], "preferences": [[0, 1]]}, "single_response", "training needs at least 2"),
    ({"prompt": "Q", "responses": ["a", 7], "ranking": [0, 1]}, "wrong_type", "`responses[1]` is 7 (int)"),
    ({"prompt": "Q", "responses": ["a", "b"]}, "no_preference", "no preference: give `ranking`, `preferences`"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": []}, "no_preference", "no preference"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0]}, "bad_ranking", "`ranking` has 1 ranks for 2 responses"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1.5]}, "wrong_type", "a list of integers is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [True, False]},
     "wrong_type", "a list of integers is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "preferences": [[0, 1]]},
     "conflicting_columns", "both `ranking` and"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 2]]},
     "preference_out_of_range", "`preferences[0]` is [0, 2] (list); the 2 responses have the indices 0 to 1"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 1], [-1, 0]]},
     "preference_out_of_range", "`preferences[1]` is [-1, 0]"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[1, 1]]},
     "preference_to_itself", "a response cannot be preferred to itself"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0]]}, "bad_preference", "[winner, loser] is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": {"0": 1}},
     "wrong_type", "a list of [winner, loser] is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 1]], "margins": [1, 2]},
     "bad_margin", "a list of 1 is needed"),
    ({"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 1]], "margins": ["x"]},
     "bad_margin", "`margins[0]` is 'x' (str)"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "margins": [1]},
     "conflicting_columns", "`margins` belongs to `preferences`"),
    ({"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "margin": 1},
     "conflicting_columns", "`margin` belongs to `chosen` and `rejected`"),
    ({"prompt": "Q", **PAIR, "ranking": [0, 1]},
     "conflicting_columns", "`ranking` and also `chosen` and `rejected`"),
    ({"prompt": "Q", **PAIR, "margin": float("nan")},
     "bad_margin", "`margin` is nan (float); a finite number is needed"),
    ({"prompt": "Q", **PAIR, "margin": True}, "bad_margin", "`margin` is True (bool)"),
    ({"prompt": "<image><image>", **PAIR, "images": ["x"]},
     "image_count", "the prompt has 2 image places, and the row has 1 image"),
    ({"prompt": "<image>", **PAIR, "images": ["x", "y"]},
     "image_count", "the prompt has 1 image place, and the row has 2 images"),
    ({"prompt": "<image>", **PAIR, "images": []},
     "image_count", "the prompt has 1 image place, and the row has 0 images"),
    ({"prompt": [_user([PLACE])], **PAIR}, "image_count", "the prompt has 1 image place, and the row has 0 images"),
    ({"prompt": [_user([{"type": "image", "image": "x"}, PLACE])], **PAIR},
     "image_count", "2 image places, and the row has 1 image"),
    ({"prompt": [_user([{"type": "image", "image": "x"}])], **PAIR, "images": ["x"]},
     "conflicting_columns", "give them in one of the two"),
    ({"prompt": "Q", **PAIR, "images": ["x"], "image": "x"}, "conflicting_columns", "both `images` and `image`"),
    ({"prompt": "Q", **PAIR, "images": [3]},
     "bad_image_reference", "images[0] is 3 (int); a path, bytes or a data URI is needed"),
    ({"prompt": "Q", **PAIR, "images": [""]}, "bad_image_reference", "images[0] is '' (str)"),
    ({"prompt": "Q", **PAIR, "images": ["https://x.org/a.png"]},
     "image_is_address", "https://x.org/a.png; images are not downloaded"),
    ({"prompt": "Q", **PAIR, "images": ["data:image/png;base64,###"]}, "bad_base64", "images[0]: its base64 is broken"),
    ({"prompt": "Q", **PAIR, "img": "x.png"},
     "image_column_not_mapped", "column 'img' is not read; if these are the images: columns: {images: img}"),
    ({"prompt": "Q", **PAIR, "clip": "x.mp4"}, "video", "columns: {videos: clip}"),
    ({"prompt": "Q", **PAIR, "id": [1]}, "bad_id", "`id` is [1] (list)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "reason", "message_part"), FAULTS, ids=[message_part[:40] for _, _, message_part in FAULTS]
)
def test_fault_has_reason_location_and_value(row: dict[str, Any], reason: str, message_part: str) -> None:
    """The message begins with file and line, and has the given value and what is needed."""
    with pytest.raises(RowRejected) as caught:
        _parse(row)
    assert caught.value.reason == reason
    message = str(caught.value)
    assert message.startswith("f.jsonl:1: ")
    assert message_part in message


def test_messages_of_faults_are_short() -> None:
    """Messages stay short for a value of a megabyte, thousands of columns and deeply nested lists."""
    long_text = "x" * 1_000_000
    nested: list[Any] = []
    for _ in range(10_000):
        nested = [nested]
    role = {"role": long_text, "content": "Q"}
    for prompt in (
        [long_text],
        [role],
        [_user([{"type": long_text}])],
        [_user([{"type": "text", long_text: 1}])],
        [nested],
    ):
        with pytest.raises(RowRejected) as caught:
            _parse({"prompt": prompt, **PAIR})
        assert len(str(caught.value)) < 300
    for row in ({"prompt": "Q", **PAIR, "images": ["https://" + long_text]}, {f"{long_text}{i}": 1 for i in range(2)}):
        with pytest.raises(RowRejected) as caught:
            _parse(row)
        assert len(str(caught.value)) < 1100
    with pytest.raises(RowRejected, match="and 970 more") as caught:
        _parse({str(i): 1 for i in range(1000)})
