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


def make_message(role: str, content: object, **keys: object) -> dict[str, object]:
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
def test_unknown_key_of_a_message_rejects_the_row(key: str, value: object, place: str) -> None:
    """The message names the key; answers that differ only in it are not reported as identical."""
    message = make_message("assistant" if place == "chosen" else "user", "Q", **{key: value})
    row: dict[str, Any] = {
        "prompt": "Q",
        "chosen": [make_message("assistant", "Q")],
        "rejected": [make_message("assistant", "Q")],
    }
    row |= {"prompt": [message]} if place == "prompt" else {"chosen": [message]}
    if place == "earlier":
        row |= {
            "prompt": None,
            "chosen": [message, make_message("assistant", "a")],
            "rejected": [message, make_message("assistant", "b")],
        }
    rejection = rejected(row)
    assert rejection.reason == "unknown_key"
    assert f"'{key}'" in rejection.detail
    assert f"`{'prompt' if place == 'prompt' else 'chosen'}[0]`" in rejection.detail


def test_metadata_keys_are_reported_as_unread() -> None:
    """Keys of metadata are reported as unread; null and empty keys, as Parquet writes them, are not."""
    form = RowFormat()
    prompt = [make_message("user", "Q", timestamp=5, language="en", tool_calls=None, name="", images=[])]
    group = form.group({"prompt": prompt, **PAIR}, source="s", row_id="0", where="row")
    assert group.prompt == (Turn("user", (Part("Q"),)),)
    assert form.report.unread == ["prompt[].language", "prompt[].timestamp"]


@pytest.mark.parametrize(
    ("content", "image_cell", "parts"),
    [
        ("What?", ["x.png"], (IMAGE, Part("What?"))),
        ("A <image> B <image>", ["x.png", "y.png"], (Part("A "), IMAGE, Part(" B "), IMAGE)),
        ([{"type": "text", "text": "What?"}, {"type": "image"}], ["x.png"], (Part("What?"), IMAGE)),
        ([{"type": "text", "text": "What?"}], "x.png", (IMAGE, Part("What?"))),
    ],
)
@pytest.mark.parametrize("key", ["images", "image"])
def test_images_of_a_message_stay_in_it(content: object, image_cell: Any, parts: tuple[Part, ...], key: str) -> None:
    """They are placed at its marks or image parts, otherwise at its beginning, and never in another turn."""
    first, other = make_message("user", content, **{key: image_cell}), make_message("user", "And?", images=["z.png"])
    group = parse({"prompt": [first, make_message("assistant", "A."), other], **PAIR})
    assert group.prompt == (Turn("user", parts), Turn("assistant", (Part("A."),)), Turn("user", (IMAGE, Part("And?"))))
    names = [image_cell] if isinstance(image_cell, str) else image_cell
    assert group.images == tuple(Path("/data") / name for name in (*names, "z.png"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": [make_message("user", "<image> or <image>?", images=["x.png"])]}, "image_count"),
        ({"prompt": [make_message("user", [{"type": "image"}], images=["x.png", "y.png"])]}, "image_count"),
        ({"prompt": [make_message("user", [{"type": "image", "image": "x.png"}], images=["y.png"])]},
         "conflicting_columns"),
        ({"prompt": [make_message("user", "Q", images=["x.png"])], "images": ["y.png"]}, "conflicting_columns"),
        ({"prompt": [make_message("user", "P", images=["x.png"]), make_message("assistant", "A"),
                     make_message("user", "<image>?")]},
         "image_count"),
        ({"prompt": [make_message("user", "Q", image_url="x.png")]}, "unknown_key"),
        ({"prompt": [make_message("user", "Q", videos=["x.mp4"])]}, "unknown_key"),
    ],
)  # fmt: skip
def test_mismatched_images_of_a_message_reject_the_row(row: dict[str, Any], reason: str) -> None:
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
def test_image_part_supports_every_form(part: dict[str, Any]) -> None:
    """In the forms of transformers and of OpenAI."""
    group = parse({"prompt": [make_message("user", [part, {"type": "text", "text": "What?"}])], **PAIR})
    assert group.prompt == (Turn("user", (IMAGE, Part("What?"))),)
    assert group.images == (Path("/data/x.png"),)


def test_image_part_can_be_base64() -> None:
    """Under the key that transformers' chat templates use."""
    assert parse({"prompt": [make_message("user", [{"type": "image", "base64": "aGk="}])], **PAIR}).images == (b"hi",)


QUESTION, MIDDLE, AGAIN = make_message("user", "Go on."), make_message("assistant", "m"), make_message("user", "Go on.")


@pytest.mark.parametrize(
    ("prompt", "turns_before", "expected"),
    [
        ([QUESTION], [MIDDLE, AGAIN], "Go on.|m|Go on."),
        ("Go on.", [MIDDLE, AGAIN], "Go on.|m|Go on."),
        ([QUESTION], [QUESTION, MIDDLE, AGAIN], "Go on.|m|Go on."),
        ([make_message("system", "S"), QUESTION], [MIDDLE, make_message("user", "Q")], "S|Go on.|m|Q"),
        ([make_message("user", "Q")], [QUESTION, MIDDLE, make_message("user", "Q")], "Go on.|m|Q"),
        ([QUESTION, MIDDLE, AGAIN], [], "Go on.|m|Go on."),
    ],
)
def test_answers_with_turns_are_joined_with_the_prompt(prompt: Any, turns_before: list[Any], expected: str) -> None:
    """Answers may continue the prompt, repeat it or contain the turns before it; repeated turns are kept."""
    answers = {name: [*turns_before, make_message("assistant", text)] for name, text in PAIR.items()}
    group = parse({"prompt": prompt, **answers})
    assert "|".join(str(part.text) for turn in group.prompt for part in turn.parts) == expected
    assert group.responses == ("yes", "no")


@pytest.mark.parametrize(
    ("prompt", "chosen_before", "rejected_before"),
    [
        (
            [make_message("system", "S"), QUESTION],
            [make_message("user", "P"), MIDDLE, QUESTION],
            [make_message("user", "P"), MIDDLE, QUESTION],
        ),
        ([QUESTION], [MIDDLE, AGAIN], [make_message("assistant", "n"), AGAIN]),
        ([QUESTION], [MIDDLE, AGAIN], []),
        ([QUESTION, MIDDLE], [MIDDLE, AGAIN], [MIDDLE, AGAIN]),
    ],
)
def test_turns_that_cannot_be_joined_reject_the_row(prompt: Any, chosen_before: Any, rejected_before: Any) -> None:
    """A system turn would be dropped, or the answers have different prompts."""
    answers = {
        "chosen": [*chosen_before, make_message("assistant", "yes")],
        "rejected": [*rejected_before, make_message("assistant", "no")],
    }
    assert rejected({"prompt": prompt, **answers}).reason == "prompts_differ"


PROMPT = [make_message("system", "S"), make_message("user", "Q")]


@pytest.mark.parametrize(
    "cells",
    [
        {"prompt": json.dumps(PROMPT)},
        {"prompt": "\n " + json.dumps(PROMPT, indent=1)},
        {"prompt": str(PROMPT)},
        {"prompt": str([{"id": i, **message} for i, message in enumerate(PROMPT)])},
        {"prompt": PROMPT, "chosen": str(make_message("assistant", "yes"))},
        {"system": "S", "prompt": json.dumps([{"type": "text", "text": "Q"}])},
        {"prompt": PROMPT, "chosen": json.dumps([{"type": "text", "text": "yes"}])},
        {"prompt": json.dumps([{"id": i, **message} for i, message in enumerate(PROMPT)])},
        {"prompt": PROMPT, "chosen": json.dumps({"id": 1, **make_message("assistant", "yes")})},
        {"prompt": json.dumps([{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}])},
        {"chosen": json.dumps([*PROMPT, make_message("assistant", "yes")]),
         "rejected": json.dumps([*PROMPT, make_message("assistant", "no")])},
        {"prompt": PROMPT, "chosen": json.dumps(make_message("assistant", "yes"))},
        {"prompt": PROMPT, "chosen": make_message("assistant", "yes"), "rejected": {"from": "gpt", "value": "no"}},
        {"system": "S", "prompt": make_message("user", "Q")},
        {"prompt": json.dumps(PROMPT), "chosen": None, "rejected": None, "responses": '["yes", "no"]',
         "preferences": "[[0, 1]]"},
    ],
)  # fmt: skip
def test_json_text_of_messages_is_parsed(cells: dict[str, Any]) -> None:
    """As JSON or Python's notation in a CSV file; one message counts as a list of one, and parts as one message."""
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
    answer = json.dumps([make_message("assistant", "a")])
    row = {"prompt": "Q", "responses": [answer]}
    assert RowFormat(for_training=False).group(row, source="s", row_id="0", where="r").responses == (answer,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"array({PROMPT}, dtype=object)", "python_text"),
        (str(PROMPT)[:-5], "python_text"),
        (json.dumps(PROMPT)[:-5], "malformed_json"),
    ],
)
@pytest.mark.parametrize("column", ["prompt", "chosen"])
def test_messages_as_python_text_reject_the_row(text: str, reason: str, column: str) -> None:
    """With arrays of numpy, or truncated: they never become the text of a turn."""
    rejection = rejected(PAIR | {"prompt": "Q"} | {column: text})
    assert (rejection.reason, f"`{column}`" in rejection.detail) == (reason, True)


def test_numbers_in_text_cells_are_numbers() -> None:
    """Margins and ratings in a file of texts are parsed; a margin that is no number rejects the row."""
    group = parse(PAIR | {"prompt": "Q", "margin": "1.5", "chosen_rating": "4", "rejected_rating": "1.0"})
    assert group.preferences[0].margin == 1.5
    assert group.ratings == (4.0, 1.0)
    assert rejected(PAIR | {"prompt": "Q", "margin": "much"}).reason == "bad_margin"


@pytest.mark.parametrize("text", ["None", "N/A", "null", "7", "nan"])
def test_words_for_missing_values_are_answers(text: str) -> None:
    """Answers such as "None" and "N/A" are texts, not missing cells."""
    assert parse({"prompt": "Q", "chosen": text, "rejected": "b"}).responses == (text, "b")
