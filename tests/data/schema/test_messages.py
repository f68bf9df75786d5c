"""Every key of a message is read, is known metadata, or rejects the row; no turn is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import IMAGE, Group, Part, Turn
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat

PAIR = {"chosen": "yes", "rejected": "no"}


def says(role: str, content: object, **keys: object) -> dict[str, object]:
    """Return a message."""
    return {"role": role, "content": content, **keys}


def parse(row: dict[str, Any], **arguments: Any) -> Group:
    """Return the group of a row of a file."""
    form = RowFormat(images=ImageStore("/data"), of_table=True, **arguments)
    return form.group(row, source="s", row_id="f:1", where="f.jsonl:1")


def rejected(row: dict[str, Any], **arguments: Any) -> RowRejected:
    """Return the rejection of a row."""
    with pytest.raises(RowRejected) as caught:
        parse(row, **arguments)
    return caught.value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tool_calls", [{"function": {"name": "add"}}]), ("function_call", {"name": "add"}), ("tool_call_id", "c1"),
        ("thinking", "Hm."), ("reasoning_content", "Hm."), ("reasoning", "Hm."), ("name", "Ann"), ("refusal", "No."),
        ("audio", {"id": "a"}), ("prefix", True), ("anything", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["prompt", "chosen", "earlier"])
def test_a_key_that_may_change_what_was_said_loses_the_row(key: str, value: object, place: str) -> None:
    """The message names the key; answers that differ only in it are not reported as identical."""
    message = says("assistant" if place == "chosen" else "user", "Q", **{key: value})
    row: dict[str, Any] = {"prompt": "Q", "chosen": [says("assistant", "Q")], "rejected": [says("assistant", "Q")]}
    row |= {"prompt": [message]} if place == "prompt" else {"chosen": [message]}
    if place == "earlier":
        row |= {
            "prompt": None,
            "chosen": [message, says("assistant", "a")],
            "rejected": [message, says("assistant", "b")],
        }
    loss = rejected(row)
    assert loss.reason == "unknown_key"
    assert f"'{key}'" in loss.detail
    assert f"`{'prompt' if place == 'prompt' else 'chosen'}[0]`" in loss.detail


def test_keys_that_say_nothing_are_let_pass_and_named() -> None:
    """Keys of metadata are reported as unread; null and empty keys, as Parquet writes them, are not."""
    form = RowFormat()
    prompt = [says("user", "Q", timestamp=5, language="en", tool_calls=None, name="", images=[])]
    group = form.group({"prompt": prompt, **PAIR}, source="s", row_id="0", where="row")
    assert group.prompt == (Turn("user", (Part("Q"),)),)
    assert form.report.unread == ["prompt[].language", "prompt[].timestamp"]


@pytest.mark.parametrize(
    ("content", "pictures", "parts"),
    [
        ("What?", ["x.png"], (IMAGE, Part("What?"))),
        ("A <image> B <image>", ["x.png", "y.png"], (Part("A "), IMAGE, Part(" B "), IMAGE)),
        ([{"type": "text", "text": "What?"}, {"type": "image"}], ["x.png"], (Part("What?"), IMAGE)),
        ([{"type": "text", "text": "What?"}], "x.png", (IMAGE, Part("What?"))),
    ],
)
@pytest.mark.parametrize("key", ["images", "image"])
def test_pictures_of_a_message_are_its_own(content: object, pictures: Any, parts: tuple[Part, ...], key: str) -> None:
    """They are put at its marks or image parts, or else at its beginning, and never into another turn."""
    first, other = says("user", content, **{key: pictures}), says("user", "And?", images=["z.png"])
    group = parse({"prompt": [first, says("assistant", "A."), other], **PAIR})
    assert group.prompt == (Turn("user", parts), Turn("assistant", (Part("A."),)), Turn("user", (IMAGE, Part("And?"))))
    names = [pictures] if isinstance(pictures, str) else pictures
    assert group.images == tuple(Path("/data") / name for name in (*names, "z.png"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": [says("user", "<image> or <image>?", images=["x.png"])]}, "image_count"),
        ({"prompt": [says("user", [{"type": "image"}], images=["x.png", "y.png"])]}, "image_count"),
        ({"prompt": [says("user", [{"type": "image", "image": "x.png"}], images=["y.png"])]}, "conflicting_columns"),
        ({"prompt": [says("user", "Q", images=["x.png"])], "images": ["y.png"]}, "conflicting_columns"),
        ({"prompt": [says("user", "P", images=["x.png"]), says("assistant", "A"), says("user", "<image>?")]},
         "image_count"),
        ({"prompt": "Q", "chosen": [says("assistant", "a", images=["x.png"])]}, "image_in_response"),
        ({"prompt": [says("user", "Q", image_url="x.png")]}, "unknown_key"),
        ({"prompt": [says("user", "Q", videos=["x.mp4"])]}, "unknown_key"),
    ],
)  # fmt: skip
def test_pictures_of_a_message_that_do_not_fit_lose_the_row(row: dict[str, Any], reason: str) -> None:
    """More or fewer images than places, images in two places or in a response, or under an unread key."""
    assert rejected(PAIR | row).reason == reason


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "x.png"},
        {"type": "image", "url": "x.png", "text": None, "path": ""},
        {"type": "image", "path": "x.png"},
        {"type": "image_url", "image_url": "x.png"},
        {"type": "image_url", "image_url": {"url": "x.png", "detail": "auto"}},
    ],
)
def test_an_image_part_names_its_picture_in_any_manner(part: dict[str, Any]) -> None:
    """In the forms of transformers and of OpenAI."""
    group = parse({"prompt": [says("user", [part, {"type": "text", "text": "What?"}])], **PAIR})
    assert group.prompt == (Turn("user", (IMAGE, Part("What?"))),)
    assert group.images == (Path("/data/x.png"),)


def test_an_image_part_may_hold_base64() -> None:
    """Under the key that transformers' chat templates use."""
    assert parse({"prompt": [says("user", [{"type": "image", "base64": "aGk="}])], **PAIR}).images == (b"hi",)


QUESTION, MIDDLE, AGAIN = says("user", "Go on."), says("assistant", "m"), says("user", "Go on.")


@pytest.mark.parametrize(
    ("prompt", "before", "whole"),
    [
        ([QUESTION], [MIDDLE, AGAIN], "Go on.|m|Go on."),
        ("Go on.", [MIDDLE, AGAIN], "Go on.|m|Go on."),
        ([QUESTION], [QUESTION, MIDDLE, AGAIN], "Go on.|m|Go on."),
        ([says("system", "S"), QUESTION], [MIDDLE, says("user", "Q")], "S|Go on.|m|Q"),
        ([says("user", "Q")], [QUESTION, MIDDLE, says("user", "Q")], "Go on.|m|Q"),
        ([QUESTION, MIDDLE, AGAIN], [], "Go on.|m|Go on."),
    ],
)
def test_no_turn_is_lost_where_answers_hold_turns_too(prompt: Any, before: list[Any], whole: str) -> None:
    """Answers may continue the prompt, repeat it or contain the turns before it; repeated turns are kept."""
    answers = {name: [*before, says("assistant", text)] for name, text in PAIR.items()}
    group = parse({"prompt": prompt, **answers})
    assert "|".join(str(part.text) for turn in group.prompt for part in turn.parts) == whole
    assert group.responses == ("yes", "no")


@pytest.mark.parametrize(
    ("prompt", "chosen_before", "rejected_before"),
    [
        ([says("system", "S"), QUESTION], [says("user", "P"), MIDDLE, QUESTION], [says("user", "P"), MIDDLE, QUESTION]),
        ([QUESTION], [MIDDLE, AGAIN], [says("assistant", "n"), AGAIN]),
        ([QUESTION], [MIDDLE, AGAIN], []),
        ([QUESTION, MIDDLE], [MIDDLE, AGAIN], [MIDDLE, AGAIN]),
    ],
)
def test_turns_that_cannot_be_joined_lose_the_row(prompt: Any, chosen_before: Any, rejected_before: Any) -> None:
    """A system turn would be dropped, or the answers have different prompts."""
    answers = {
        "chosen": [*chosen_before, says("assistant", "yes")], "rejected": [*rejected_before, says("assistant", "no")]
    }  # fmt: skip
    assert rejected({"prompt": prompt, **answers}).reason == "prompts_differ"


PROMPT = [says("system", "S"), says("user", "Q")]


@pytest.mark.parametrize(
    "cells",
    [
        {"prompt": json.dumps(PROMPT)},
        {"prompt": "\n " + json.dumps(PROMPT, indent=1)},
        {"prompt": json.dumps([{"id": i, **message} for i, message in enumerate(PROMPT)])},
        {"prompt": PROMPT, "chosen": json.dumps({"id": 1, **says("assistant", "yes")})},
        {"prompt": json.dumps([{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}])},
        {"chosen": json.dumps([*PROMPT, says("assistant", "yes")]),
         "rejected": json.dumps([*PROMPT, says("assistant", "no")])},
        {"prompt": PROMPT, "chosen": json.dumps(says("assistant", "yes"))},
        {"prompt": PROMPT, "chosen": says("assistant", "yes"), "rejected": {"from": "gpt", "value": "no"}},
        {"system": "S", "prompt": says("user", "Q")},
        {"prompt": json.dumps(PROMPT), "chosen": None, "rejected": None, "responses": '["yes", "no"]',
         "preferences": "[[0, 1]]"},
    ],
)  # fmt: skip
def test_messages_in_the_text_of_a_cell_are_messages(cells: dict[str, Any]) -> None:
    """As JSON text in a CSV file; one message counts as a list of one."""
    group = parse(PAIR | cells)
    assert group.prompt == (Turn("system", (Part("S"),)), Turn("user", (Part("Q"),)))
    assert group.responses == ("yes", "no")


@pytest.mark.parametrize(
    "text",
    ["[1, 2] is what?", '[{"x": 1}]', "{}", '{"role": "user"}', '[{"role": "user", "x": 1}]',
     '{"x": {"role": "user", "content": "a"}}', '{"x": 1, "role": "user", "content": oh'],
)  # fmt: skip
def test_other_json_is_text(text: str) -> None:
    """A question about JSON is not parsed, and rows that are not from a file are never parsed."""
    assert parse({"prompt": text, **PAIR}).prompt[0].parts == (Part(text),)
    answer = json.dumps([says("assistant", "a")])
    row = {"prompt": "Q", "responses": [answer]}
    assert RowFormat(for_training=False).group(row, source="s", row_id="0", where="r").responses == (answer,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (str(PROMPT), "python_text"),
        (str([{"id": 1, **PROMPT[1]}]), "python_text"),
        (f"array({PROMPT}, dtype=object)", "python_text"),
        (str(PROMPT[1]), "python_text"),
        (json.dumps(PROMPT)[:-5], "malformed_json"),
    ],
)
@pytest.mark.parametrize("column", ["prompt", "chosen"])
def test_messages_that_are_not_json_lose_the_row(text: str, reason: str, column: str) -> None:
    """In the notation of Python or pandas, or truncated: they never become the text of a turn."""
    loss = rejected(PAIR | {"prompt": "Q"} | {column: text})
    assert (loss.reason, f"`{column}`" in loss.detail) == (reason, True)


def test_numbers_in_text_cells_are_numbers() -> None:
    """Margins and ratings in a file of texts are parsed; a margin that is no number rejects the row."""
    group = parse(PAIR | {"prompt": "Q", "margin": "1.5", "chosen_rating": "4", "rejected_rating": "1.0"})
    assert group.preferences[0].margin == 1.5
    assert group.ratings == (4.0, 1.0)
    assert rejected(PAIR | {"prompt": "Q", "margin": "much"}).reason == "bad_margin"


@pytest.mark.parametrize("text", ["None", "N/A", "null", "7", "nan"])
def test_words_for_nothing_are_answers(text: str) -> None:
    """Answers such as "None" and "N/A" are texts, not missing cells."""
    assert parse({"prompt": "Q", "chosen": text, "rejected": "b"}).responses == (text, "b")
