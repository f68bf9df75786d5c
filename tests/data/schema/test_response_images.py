"""Images of responses in rows: in parts of messages, in columns of either form, and with marks in the texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from basereward.data.conversion import convert
from basereward.data.encoding.content_hash import encoded_content, group_content
from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Group, PlacedImage, Preference
from basereward.data.schema.preferences import reference_answers
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.data.schema.validation import check_usable
from basereward.data.sources.jsonl import read_rows
from tests.helpers.support import drawn_groups, picture, placed

A, B = Path("/data/a.png"), Path("/data/b.png")


def parse(row: dict[str, Any], **arguments: Any) -> Group:
    """Return the group of a row of a file."""
    form = RowFormat(images=ImageStore("/data"), of_table=True, **arguments)
    return form.group({"prompt": "Draw a cat.", **row}, source="s", row_id="f:1", where="f.jsonl:1")


def says(*parts: Any, **keys: Any) -> list[dict[str, Any]]:
    """Return a response as messages; a text is a text part, a dict any other."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "assistant", "content": content, **keys}]


def named(**keys: Any) -> dict[str, Any]:
    """Return an image part."""
    return {"type": "image", **keys}


PAIR = ("See: .", "")
FORMS: list[dict[str, Any]] = [
    {"chosen": "See: <image>.", "rejected": "", "chosen_images": ["a.png"], "rejected_images": ["b.png"]},
    {"chosen": says("See: ", named(image="a.png"), "."), "rejected": says(named(path="b.png"))},
    {"chosen": says("See: ", named(), "."), "rejected": "", "chosen_images": "a.png", "rejected_images": ["b.png"]},
    {
        "chosen": [{"role": "assistant", "content": "See: <image>.", "images": ["a.png"]}],
        "rejected": says({"type": "image_url", "image_url": {"url": "b.png"}}),
    },
    {
        "responses": ["See: <image_1>.", ""],
        "response_images": [["a.png"], ["b.png"]],
        "ranking": [0, 1],
    },
    {"responses": '["See: <image>.", ""]', "response_images": '[["a.png"], ["b.png"]]', "ranking": "[0, 1]"},
]


@pytest.mark.parametrize("row", FORMS)
def test_all_forms_are_equivalent(row: dict[str, Any]) -> None:
    """The texts have no marks, and each image has its place in the text."""
    group = parse(row)
    assert group.responses == PAIR
    assert group.response_images == ((PlacedImage(5, A),), (PlacedImage(0, B),))
    assert group.preferences == (Preference(0, 1),)
    assert group.all_images == (A, B)
    check_usable(group)


def test_responses_that_are_images_alone_need_no_texts() -> None:
    """In both forms; a column mapping names the columns of a published set, and images without places come first."""
    expected = ((PlacedImage(0, A),), (PlacedImage(0, B),))
    mapped = {"chosen_images": "path1", "rejected_images": "path2"}
    pair = parse({"path1": "a.png", "path2": "b.png"}, columns=mapped)
    general = parse({"response_images": ["a.png", ["b.png"]], "ranking": [0, 1]})
    for group in (pair, general):
        assert (group.responses, group.response_images) == (("", ""), expected)
    one = parse({"responses": ["A cat", "none"], "response_images": [["a.png", "b.png"], []], "ranking": [0, 1]})
    assert one.response_images == ((PlacedImage(0, A), PlacedImage(0, B)), ())
    assert [part.text for part in one.response_parts(0)] == [None, None, "A cat"]


def test_mark_in_a_response_without_images_is_a_word() -> None:
    """Beside a response with images too; a row with images for training does not hold such a word."""
    group = parse({"responses": ["<image>", "No <image>."], "response_images": [["a.png"], []], "ranking": [0, 1]})
    assert group.responses == ("", "No <image>.")
    with pytest.raises(RowRejected) as caught:
        check_usable(group)
    assert caught.value.reason == "image_mark_in_response"
    assert parse({"chosen": "<image>", "rejected": "b"}).response_images == ()


def test_responses_differ_by_their_images() -> None:
    """Equal texts with other images are no identical responses, and hashes of groups depend on images and places."""
    images = {"chosen_images": ["a.png"], "rejected_images": ["a.png"]}
    with pytest.raises(RowRejected) as caught:
        check_usable(parse(images))
    assert caught.value.reason == "identical_responses"
    first, _ = drawn_groups()
    others = [
        replace(first, response_images=(placed((0, 3)), placed((0, 5)))),
        replace(first, responses=("x", ""), response_images=(placed((1, 3)), placed((0, 4)))),
        replace(first, responses=("x", ""), response_images=(placed((0, 3)), placed((0, 4)))),
        replace(first, response_images=()),
    ]
    for content in (group_content, encoded_content):
        assert len({content(group) for group in (first, *others)}) == 5
        assert content(replace(first, id="b")) == content(first)


def test_selected_responses_keep_their_images() -> None:
    """Those of the other responses are left out, and a response with an image is no reference text."""
    _, edited = drawn_groups()
    chosen = edited.select([2, 1])
    assert (chosen.responses, chosen.response_images) == (("So:", "Never."), (placed((3, 6)), ()))
    assert chosen.images == edited.images
    assert reference_answers(edited) == ()
    assert reference_answers(edited.select([1])) == ("Never.",)


def test_converted_rows_are_read_alike(tmp_path: Path) -> None:
    """Rows that are written from groups give the same texts, places and images."""
    for index in (0, 1):
        picture(index).save(tmp_path / f"{index}.png")
    rows = [
        {
            "prompt": "Draw.",
            "responses": ["", "<image> or <image>"],
            "response_images": [["0.png"], ["1.png", "0.png"]],
        },
        {"prompt": "Draw.", "responses": ["a", "b"], "response_images": [["0.png"], []]},
    ]
    rows = [{**row, "ranking": [0, 1]} for row in rows]
    form = RowFormat(images=ImageStore(tmp_path), of_table=True)
    groups = [form.group(row, source="s", row_id=str(index), where="here") for index, row in enumerate(rows)]
    for row in rows:
        row["response_images"] = [[str(tmp_path / name) for name in names] for names in row["response_images"]]
    convert(rows, tmp_path / "rows.jsonl")
    read = read_rows(tmp_path / "rows.jsonl")
    for group, again in zip(groups, read, strict=True):
        assert (again.responses, again.response_images) == (group.responses, group.response_images)
