"""Rows of every supported form become groups; others are rejected with their location and what to do."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import IMAGE, Group, Part, Preference, Turn
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.errors import DataError

TEXT = Turn("user", (Part("Q"),))


def _parse(row: dict[str, Any], **arguments: Any) -> Group:
    """Return the group of a row."""
    form = RowFormat(**({"images": ImageStore("/data")} | arguments))
    return form.group(row, source="s", row_id="f:1", where="f.jsonl:1")


def _user(content: object) -> dict[str, object]:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def _assistant(content: object) -> dict[str, object]:
    """Return a message of the assistant."""
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}
PLACE = {"type": "image"}


def _text_part(text: str) -> dict[str, str]:
    """Return a text part."""
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"prompt": "Q", "chosen": "yes", "rejected": "no"}, id="strings"),
        pytest.param({"prompt": [_user("Q")], "chosen": "yes", "rejected": "no"}, id="prompt of messages"),
        pytest.param(
            {"prompt": [_user("Q")], "chosen": [_assistant("yes")], "rejected": [_assistant("no")]}, id="explicit"
        ),
        pytest.param(
            {"chosen": [_user("Q"), _assistant("yes")], "rejected": [_user("Q"), _assistant("no")]}, id="implicit"
        ),
        pytest.param(
            {"prompt": "Q", "chosen": [_user("Q"), _assistant("yes")], "rejected": [_user("Q"), _assistant("no")]},
            id="prompt given twice",
        ),
        pytest.param(
            {"prompt": [_user([_text_part("Q")])], "chosen": [_assistant([_text_part("y"), _text_part("es")])],
             "rejected": "no"},
            id="parts",
        ),
        pytest.param(
            {"prompt": [_user([{"type": "text", "text": "Q", "image": None}])], "chosen": "yes", "rejected": "no",
             "images": None, "margin": None, "ranking": None, "id": None, "source": "other"},
            id="nulls as Parquet has them",
        ),
        pytest.param({"prompt": "Q", "chosen": "yes", "rejected": "no", "images": []}, id="no images"),
        pytest.param({"prompt": "Q", "responses": ["yes", "no"], "ranking": [0, 1]}, id="ranking"),
        pytest.param({"prompt": "Q", "responses": ["yes", "no"], "preferences": [[0, 1]]}, id="preferences"),
        pytest.param(
            {"prompt": "Q", "responses": [[_assistant("yes")], "no"], "preferences": [[0, 1]]}, id="mixed"
        ),
    ],
)  # fmt: skip
def test_all_text_forms_are_equivalent(row: dict[str, Any]) -> None:
    """TRL's explicit and implicit prompts, strings and message lists, and the general form."""
    assert _parse(row) == Group("f:1", "s", (TEXT,), ("yes", "no"), (Preference(0, 1),), ())


def test_several_turns_and_a_system_turn_keep_their_order() -> None:
    """The last assistant turn is the response; the earlier ones belong to the prompt."""
    turns = [SYSTEM, _user("Q1"), _assistant("A1"), _user("Q2")]
    expected = (
        Turn("system", (Part("Be brief."),)), Turn("user", (Part("Q1"),)),
        Turn("assistant", (Part("A1"),)), Turn("user", (Part("Q2"),)),
    )  # fmt: skip
    explicit = _parse({"prompt": turns, "chosen": "a", "rejected": "b"})
    implicit = _parse({"chosen": [*turns, _assistant("a")], "rejected": [*turns, _assistant("b")]})
    with_last = _parse({"prompt": "Q2", "chosen": [*turns, _assistant("a")], "rejected": [*turns, _assistant("b")]})
    assert explicit.prompt == implicit.prompt == with_last.prompt == expected
    assert implicit.responses == ("a", "b")


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("Q", (IMAGE, IMAGE, Part("Q"))),
        ("<image>A<image>B", (IMAGE, Part("A"), IMAGE, Part("B"))),
        ([_user([PLACE, _text_part("A"), PLACE])], (IMAGE, Part("A"), IMAGE)),
        ([_user([_text_part("A"), _text_part("B")])], (IMAGE, IMAGE, Part("A"), Part("B"))),
        ([_user([_text_part("<image>A"), _text_part("B<image>")])], (IMAGE, Part("A"), Part("B"), IMAGE)),
        ([_user([PLACE, PLACE, _text_part("a literal <image>")])], (IMAGE, IMAGE, Part("a literal <image>"))),
    ],
)
def test_images_are_placed_by_marks_or_parts(prompt: object, parts: tuple[Part, ...]) -> None:
    """By marks in strings, by image parts, or else at the start of the first user turn."""
    group = _parse({"prompt": prompt, "chosen": "a", "rejected": "b", "images": ["x.png", "/y.png"]})
    assert group.prompt == (Turn("user", parts),)
    assert group.images == (Path("/data/x.png"), Path("/y.png"))


def test_images_without_places_go_to_the_first_user_turn() -> None:
    """Not to the system turn, and not to the last turn."""
    turns = [SYSTEM, _user("Q1"), _assistant("A1"), _user("Q2")]
    group = _parse({"prompt": turns, "chosen": "a", "rejected": "b", "images": ["x.png"]})
    assert [[part.is_visual for part in turn.parts] for turn in group.prompt] == [
        [False],
        [True, False],
        [False],
        [False],
    ]


def test_images_of_several_turns_keep_their_order() -> None:
    """In the parts themselves, or in the image column, whose first image belongs to the first place."""
    inline = [_user([{"type": "image", "image": "1.png"}, _text_part("A")]), _assistant("B"),
               _user([_text_part("C"), {"type": "image", "image": "2.png"}])]  # fmt: skip
    with_places = [_user([PLACE, _text_part("A")]), _assistant("B"), _user([_text_part("C"), PLACE])]
    from_parts = _parse({"prompt": inline, "chosen": "a", "rejected": "b"})
    from_column = _parse({"prompt": with_places, "chosen": "a", "rejected": "b", "images": ["1.png", "2.png"]})
    assert from_parts == from_column
    assert from_parts.images == (Path("/data/1.png"), Path("/data/2.png"))


QUESTION = "What is <image>?"


@pytest.mark.parametrize("image_column", [{}, {"images": None}, {"image": None}, {"images": []}, {"images": ""}])
def test_mark_without_an_image_rejects_the_row(image_column: dict[str, Any]) -> None:
    """The image column is missing, null or empty, so the model would not see the image of the question."""
    with pytest.raises(RowRejected) as caught:
        _parse({"prompt": QUESTION, "chosen": "a", "rejected": "b", **image_column}, of_table=True)
    assert caught.value.reason == "image_count"
    assert "image_mark: null" in caught.value.detail


@pytest.mark.parametrize(
    ("prompt", "arguments"),
    [
        (QUESTION, {"image_mark": None}),
        ([_user([_text_part(QUESTION)])], {}),
        ([_user([_text_part(QUESTION)])], {"of_table": True}),
    ],
)
def test_mark_can_be_literal_text(prompt: object, arguments: dict[str, Any]) -> None:
    """In a text part of a row without an image column, or with `image_mark: null`, `<image>` is literal text."""
    group = _parse({"prompt": prompt, "chosen": "a", "rejected": "b"}, **arguments)
    assert group.prompt == (Turn("user", (Part(QUESTION),)),)


def test_mark_in_a_text_part_needs_an_image_of_the_column() -> None:
    """Null in the column means that an image is missing."""
    with pytest.raises(RowRejected) as caught:
        _parse(
            {"prompt": [_user([_text_part(QUESTION)])], "chosen": "a", "rejected": "b", "images": None}, of_table=True
        )
    assert caught.value.reason == "image_count"


def test_image_mark_can_be_set() -> None:
    """`image_mark` sets it; `<image>` is literal text then."""
    row = {"prompt": "[IMG] <image>?", "chosen": "a", "rejected": "b", "images": ["x.png"]}
    assert _parse(row, image_mark="[IMG]").prompt[0].parts == (IMAGE, Part(" <image>?"))


def test_image_can_be_bytes_data_uri_or_object() -> None:
    """Or a PIL image; the column may be called `image` and contain a single one."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(file, "PNG")
    content = file.getvalue()
    text = base64.b64encode(content).decode()
    for image in (content, {"bytes": content, "path": "x.png"}, f"data:image/png;base64,{text}", {"bytes": text}):
        for column in ({"images": [image]}, {"image": image}, {"images": image}):
            assert _parse({"prompt": "Q", "chosen": "a", "rejected": "b", **column}).images == (content,)
    assert _parse(
        {"prompt": "Q", "chosen": "a", "rejected": "b", "image": {"bytes": None, "path": "x.png"}}
    ).images == (Path("/data/x.png"),)
    picture = PIL.Image.new("RGB", (1, 1))
    assert _parse({"prompt": "Q", "chosen": "a", "rejected": "b", "images": [picture]}).images == (picture,)


def test_null_image_becomes_empty_bytes() -> None:
    """The row is rejected when the image is opened, so that the prompt does not silently lose it."""
    assert _parse({"prompt": "Q", "chosen": "a", "rejected": "b", "images": [None]}).images == (b"",)


def test_ranks_and_margins() -> None:
    """Lower ranks win, equal ranks tie; margins belong to the preferences at the same index."""
    ranked = _parse({"prompt": "Q", "responses": ["a", "b", "c"], "ranking": [1, 0, 1]}).preferences
    assert ranked == (Preference(1, 0), Preference(0, 2, tie=True), Preference(1, 2))
    paired = _parse(
        {"prompt": "Q", "responses": ["a", "b", "c"], "preferences": [[2, 0], [0, 1]], "margins": [1.5, None]}
    )
    assert paired.preferences == (Preference(2, 0, margin=1.5), Preference(0, 1))
    assert _parse({"prompt": "Q", "chosen": "a", "rejected": "b", "margin": 2}).preferences == (
        Preference(0, 1, margin=2.0),
    )


def test_columns_are_renamed() -> None:
    """`columns` maps our names to those in the data; an unmapped column with our own name is not read."""
    row = {"query": "Q", "answers": ["a", "b"], "human": [1, 0], "prompt": "not this", "picture": "x.png", "key": 7}
    columns = {"prompt": "query", "responses": "answers", "ranking": "human", "images": "picture", "id": "key"}
    group = _parse(row, columns=columns)
    assert group.id == "7"
    assert group.prompt[0].parts == (IMAGE, Part("Q"))
    assert group.preferences == (Preference(1, 0),)
    with pytest.raises(DataError, match="unknown column 'chosn'; did you mean 'chosen'"):
        RowFormat(columns={"chosn": "good"})


def test_scoring_accepts_one_response_without_preference() -> None:
    """Training would reject such rows; a blank response is well-formed."""
    group = _parse({"prompt": "Q", "responses": [" \n"]}, for_training=False)
    assert (group.responses, group.preferences) == ((" \n",), ())
