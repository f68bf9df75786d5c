"""Every column is read or reported; a row is rejected if an unread column contains a part of the prompt."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from basereward.data.schema.group import IMAGE, SPLITS, Group, Part, Turn
from basereward.data.schema.rejections import RowRejected, summary
from basereward.data.schema.rows import RowFormat
from basereward.data.sources.hub import Hub
from basereward.data.sources.jsonl import Jsonl, read_rows
from basereward.errors import DataError
from tests.helpers.support import picture, write_rows

PAIR = {"chosen": "red", "rejected": "grey"}
ROW = {"prompt": "What colour?", **PAIR}


def parse(row: dict[str, Any], columns: dict[str, str | None] | None = None) -> Group:
    """Return the group of a row of a file."""
    return RowFormat(columns=columns, of_table=True).group(row, source="s", row_id="0", where="f.jsonl:1")


def rejected(row: dict[str, Any], columns: dict[str, str | None] | None = None) -> RowRejected:
    """Return the rejection of a row."""
    with pytest.raises(RowRejected) as caught:
        parse(row, columns)
    return caught.value


def turns(group: Group) -> list[tuple[str, str]]:
    """Return the roles and texts of a prompt."""
    return [(turn.role, "".join(part.text or "<image>" for part in turn.parts)) for turn in group.prompt]


IMAGE_COLUMNS = (
    "filename", "image_url", "image_urls", "img", "imgs", "img_url", "img_path", "image_base64",
    "image_name", "image_file", "imageUrl", "IMAGE_DATA", "image_0", "picture", "Pictures", "photo", "pixel_values",
    "screenshot", "jpg", "attachments", "visual",
)  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_COLUMNS)
@pytest.mark.parametrize("prompt", ["<image>What colour?", "What colour?"])
def test_unread_image_column_rejects_the_row(name: str, prompt: str) -> None:
    """With or without an image mark. The message has the mapping that reads the column and the one that ignores it."""
    row = {"prompt": prompt, name: "0.png", **PAIR}
    rejection = rejected(row)
    assert rejection.reason == "image_column_not_mapped"
    assert f"columns: {{images: {name}}}" in rejection.detail
    assert parse(row, {"images": name}).images == (Path("0.png"),)
    assert parse(row | {"prompt": "What colour?"}, {name: None}).images == ()


@pytest.mark.parametrize("name", ["Image", "Images", "IMAGE", "image_path", "image_paths", "image_list", "file_name"])
def test_aliases_of_image_columns_are_read(name: str) -> None:
    """Aliases need no mapping. Next to `images`, a path is the origin of the images, and other images are an error."""
    row = {"prompt": "<image>What colour?", name: ["0.png"], **PAIR}
    group = parse(row)
    assert (group.images, group.prompt[0].parts) == ((Path("0.png"),), (IMAGE, Part("What colour?")))
    both = row | {"images": ["1.png"]}
    if name.startswith("image_path") or name == "file_name":
        assert parse(both).images == (Path("1.png"),)
    else:
        assert rejected(both).reason == "image_column_not_mapped"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("audio", {"path": "a.wav"}, "audio"), ("clip", "v.mp4", "video"),
        ("audios", ["a.wav"], "audio"), ("file_name", "a.wav", "audio"),
        ("video_path", "v.mp4", "video"), ("rejected_videos", ["v.mp4"], "video"),
        ("rejected_images", ["0.png"], "image_in_response"), ("chosen_image", "0.png", "image_in_response"),
    ],
)  # fmt: skip
def test_audio_video_and_response_images_reject_the_row(name: str, value: object, reason: str) -> None:
    """The row is rejected also if it has an image that is read, unless the recipe ignores the column."""
    row = ROW | {"images": ["1.png"], name: value}
    assert rejected(row).reason == reason
    assert parse(row, {name: None}).images == (Path("1.png"),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_width", 640), ("image_id", "COCO_1"), ("image_caption", "A cat"), ("num_images", 1),
        ("has_image", True),
        ("image_source", "coco"), ("images", []), ("img", None), ("img", [None]), ("file_name", "rows.csv"),
        ("img", {"bytes": None, "path": None}), ("image_license", "CC0"), ("url", "https://example.org/"),
    ],
)  # fmt: skip
def test_image_metadata_is_not_an_image(name: str, value: object) -> None:
    """Columns with metadata of images are not taken for images."""
    assert parse(ROW | {name: value}).images == ()


@pytest.mark.parametrize(
    "value",
    [[{"bytes": b"1", "path": None}], [{"bytes": None, "path": "1"}, {"bytes": b"2", "path": None}],
     "data:image/png;base64,iVBORw0K", ["data:image/jpeg;base64,/9j/"]],
)  # fmt: skip
def test_image_columns_are_recognized_by_their_values(value: object) -> None:
    """Images that the `datasets` library stored, and data URIs, are recognised under any name."""
    assert rejected(ROW | {"views": value}).reason == "image_column_not_mapped"
    assert parse(ROW | {"views": value}, {"views": None}).images == ()


@pytest.mark.parametrize("name", ["System", "SYSTEM_PROMPT", "Instruction", "Context", "system_instruction"])
def test_prompt_columns_are_recognized_in_any_case(name: str) -> None:
    """An unread system turn rejects the row, whatever the case of the column's name."""
    rejection = rejected(ROW | {name: "Answer in French."})
    assert (rejection.reason, f"'{name}'" in rejection.detail) == ("prompt_column_not_mapped", True)
    our_column = "system" if name.lower().startswith("system") else "input"
    assert "Answer in French." in str(turns(parse(ROW | {name: "Answer in French."}, {our_column: name})))


def test_blank_image_cell_is_ignored() -> None:
    """White space in an image column is not an image."""
    assert parse(ROW | {"image": " "}).images == ()


def test_image_url_beside_images_is_ignored() -> None:
    """A row with images may have columns with their URLs."""
    assert parse(ROW | {"images": ["1.png"], "image_url": "https://example.org/1.png"}).images == (Path("1.png"),)
    messages = [{"role": "user", "content": "Q", "images": ["1.png"]}]
    assert parse({"prompt": messages, "image_url": "https://example.org/1.png", **PAIR}).images == (Path("1.png"),)


@pytest.mark.parametrize(
    ("other_columns", "name"),
    [
        ({"image_1": "1.png", "image_2": "2.png"}, "image_2"),
        ({"image": "1.png", "image_url_2": "https://example.org/2.png"}, "image_url_2"),
        ({"images": ["1.png"], "img": "2.png"}, "img"),
        ({"images": ["1.png"], "photo": {"bytes": b"2", "path": None}}, "photo"),
    ],
)
def test_second_image_column_rejects_the_row(other_columns: dict[str, Any], name: str) -> None:
    """One of two images would be ignored; the recipe can allow it."""
    columns: dict[str, str | None] = {"images": "image_1"} if "image_1" in other_columns else {}
    rejection = rejected(ROW | other_columns, columns)
    assert rejection.reason == "image_column_not_mapped"
    assert f"'{name}'" in rejection.detail
    assert parse(ROW | other_columns, columns | {name: None}).images == (Path("1.png"),)


def test_system_column_is_the_first_turn() -> None:
    """For prompts as text and as messages; it is not repeated if the prompt begins with it."""
    expected = [("system", "Be brief."), ("user", "What colour?")]
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "What colour?"}
    rows = [
        ROW | {"system": "Be brief."},
        ROW | {"system_prompt": "Be brief."},
        {"prompt": [user], "system": "Be brief.", **PAIR},
        {"prompt": [system, user], "system": "Be brief.", **PAIR},
        {"system": "Be brief.",
         "chosen": [user, {"role": "assistant", "content": "red"}],
         "rejected": [user, {"role": "assistant", "content": "grey"}]},
    ]  # fmt: skip
    assert [turns(parse(row)) for row in rows] == [expected] * len(rows)
    assert turns(parse(ROW | {"system": ""})) == expected[1:]
    assert rejected({"prompt": [system, user], "system": "Be long.", **PAIR}).reason == "conflicting_columns"
    assert rejected(ROW | {"system": 3}).reason == "wrong_type"


def test_alpaca_columns_form_the_prompt() -> None:
    """`instruction`, a line break, `input`; `history` before it, `system` first. An empty input adds nothing."""
    row = {"instruction": "Translate.", "input": "Hi", "system": "S", "history": [["A?", "B."]], **PAIR}
    assert turns(parse(row)) == [("system", "S"), ("user", "A?"), ("assistant", "B."), ("user", "Translate.\nHi")]
    assert turns(parse({"instruction": "Translate.", "input": "", **PAIR})) == [("user", "Translate.")]
    assert turns(parse({"instruction": "", "input": "Hi", **PAIR})) == [("user", "Hi")]
    assert turns(parse({"instruction": "Translate.", "input": "Hi", **PAIR}, {"prompt": "instruction"})) == [
        ("user", "Translate.\nHi")
    ]
    messages = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]
    assert turns(parse(ROW | {"history": messages})) == [
        ("user", "A?"), ("assistant", "B."), ("user", "What colour?")
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["input", "context", "instruction", "system_message"])
def test_unread_text_of_the_prompt_rejects_the_row(name: str) -> None:
    """A text that the prompt repeats may stay unread; otherwise the proposed mapping reads it."""
    row = ROW | {name: "The sky is red."}
    rejection = rejected(row)
    assert rejection.reason == "prompt_column_not_mapped"
    our_column = "system" if name == "system_message" else "input"
    assert f"columns: {{{our_column}: {name}}}" in rejection.detail
    expected = {"input": [("user", "What colour?\nThe sky is red.")],
             "system": [("system", "The sky is red."), ("user", "What colour?")]}  # fmt: skip
    assert turns(parse(row, {our_column: name})) == expected[our_column]
    assert turns(parse(row, {name: None})) == [("user", "What colour?")]
    assert turns(parse(row | {"prompt": "The sky is red. Why?"})) == [("user", "The sky is red. Why?")]


@pytest.mark.parametrize("history", ["A?", [["A?"]], [["A?", 3]], [3]])
def test_invalid_history_rejects_the_row(history: object) -> None:
    """A text, or turns that are not pairs."""
    assert rejected(ROW | {"history": history}).reason in ("wrong_type", "bad_message")


def test_tools_reject_the_row() -> None:
    """Chat templates render tools into the prompt, and we do not; an empty list is no tools."""
    for tools in ([{"name": "add"}], '[{"name": "add"}]', {"add": {}}):
        assert rejected(ROW | {"tools": tools}).reason == "tools"
        assert rejected(ROW | {"Tools": tools}).reason == "tools"
    for tools in (None, [], "", "[]"):
        assert turns(parse(ROW | {"tools": tools})) == [("user", "What colour?")]


@pytest.mark.parametrize(
    ("name", "value"),
    [("conversations", [{"from": "human", "value": "Q"}]), ("messages", "Q"), ("query", "Q"), ("question", "Q"),
     ("Prompt", "Q"), ("input", "Q"), ("user_input", "Q")],
)  # fmt: skip
def test_error_suggests_the_prompt_column(name: str, value: object) -> None:
    """The message has the mapping to write, and all columns."""
    row = {"id": 3, "source": "x", name: value, **PAIR}
    rejection = rejected(row)
    assert rejection.reason == "no_prompt"
    assert f"columns: {{prompt: {name}}}" in rejection.detail
    assert f"id, source, {name}, chosen, rejected" in rejection.detail
    assert turns(parse(row, {"prompt": name})) == [("user", "Q")]


def test_common_beginning_is_not_taken_for_the_prompt() -> None:
    """TRL would split "The sky is" off; the row is rejected, and the message names TRL's function."""
    rejection = rejected({"chosen": "The sky is blue.", "rejected": "The sky is green."})
    assert rejection.reason == "no_prompt"
    assert "extract_prompt" in rejection.detail


def rows_with_cells(count: int, **cells: object) -> list[dict[str, Any]]:
    """Return good rows with additional cells."""
    return [{"prompt": f"Q{i}", "chosen": "yes", "rejected": "no", **cells} for i in range(count)]


@pytest.mark.parametrize("reader", ["jsonl", "hub", "score"])
def test_unread_columns_are_logged_once(reader: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One warning per source, however many splits and passes; null and ignored columns are not in it."""
    rows = rows_with_cells(30, notes="n", score=3, empty=None, model="m")
    rows[7] |= {"late": 1}
    path = str(write_rows(tmp_path / "a.jsonl", rows))
    columns: dict[str, str | None] = {"model": None}
    with caplog.at_level(logging.WARNING):
        if reader == "score":
            assert len(read_rows(path, columns=columns)) == 30
        else:
            source = (
                Jsonl("mine", path=path, columns=columns)
                if reader == "jsonl"
                else Hub("mine", path=path, columns=columns)
            )
            for split in SPLITS:
                list(source.groups(split))
                list(source.stream(split))
            assert source.columns_read().unread == ["notes", "score", "late"]
            assert source.columns_read().read == {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    [warning] = [record.getMessage() for record in caplog.records if "not read" in record.getMessage()]
    assert warning.endswith("notes, score, late")


def test_warning_lists_ten_unread_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The warning has ten names and the number of the others."""
    path = write_rows(tmp_path / "a.jsonl", rows_with_cells(3, **{f"c{i}": 1 for i in range(14)}))
    with caplog.at_level(logging.WARNING):
        read_rows(path)
    assert "c8, c9 and 4 more" in caplog.text
    assert "c10" not in caplog.text


def test_partly_read_stream_logs_unread_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The warning has the columns of the rows that were read; a later one has the others."""
    rows = rows_with_cells(30, notes="n")
    rows[20]["late"] = 1
    source = Jsonl("mine", path=str(write_rows(tmp_path / "a.jsonl", rows)), val=0, test=0)
    with caplog.at_level(logging.WARNING):
        assert any(True for _ in source.stream("train"))
        assert caplog.messages == ["source 'mine': columns that are not read: notes"]
        assert len(list(source.stream("train"))) == 30
    assert caplog.messages[1:] == ["source 'mine': columns that are not read: late"]


def test_ignored_column_must_exist(tmp_path: Path) -> None:
    """Otherwise a typing error in `columns` would have no effect."""
    path = str(write_rows(tmp_path / "a.jsonl", rows_with_cells(3)))
    with pytest.raises(DataError, match="no row has the column chosn"):
        Jsonl("mine", path=path, columns={"chosn": None}).groups("train")


def shaped(tmp_path: Path, rows: list[dict[str, Any]], shape: str, **arguments: Any) -> Hub:
    """Return a source with an adapter."""
    path = str(write_rows(tmp_path / "rows.jsonl", rows))
    return Hub("mine", path=path, shape={"_target_": shape}, val=0, test=0, **arguments)


SHAREGPT = {
    "conversations": [{"from": "human", "value": "Say hi."}],
    "chosen": {"from": "gpt", "value": "Bonjour."},
    "rejected": {"from": "gpt", "value": "Hi."},
}


def test_sharegpt_pairs_keep_their_system_prompt(tmp_path: Path) -> None:
    """The system prompt may be the reason for the preference."""
    source = shaped(tmp_path, [SHAREGPT | {"system": "Answer in French."}, SHAREGPT], "sharegpt_pairs")
    one, other = source.groups("train")
    assert turns(one) == [("system", "Answer in French."), ("user", "Say hi.")]
    assert turns(other) == [("user", "Say hi.")]
    assert source.columns_read().unread == []


@pytest.mark.parametrize(
    ("other_columns", "reason"),
    [
        ({"tools": '[{"name": "add"}]'}, "tools"),
        ({"audios": ["a.wav"]}, "audio"),
        ({"clips": ["v.mp4"]}, "video"),
        ({"rejected_images": ["0.png"]}, "image_in_response"),
        ({"img": "0.png"}, "image_column_not_mapped"),
        ({"conversations": [{"from": "human", "value": "Say hi.", "tool_calls": [1]}]}, "unknown_key"),
        ({"chosen": {"from": "gpt", "value": "Hi.", "thinking": "Hm."}}, "unknown_key"),
        ({"chosen": {"from": "human", "value": "Hi."}}, "bad_turns"),
    ],
)
def test_columns_unread_by_an_adapter_are_checked(other_columns: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Columns that an adapter does not access are checked like those of rows in our own format."""
    source = shaped(tmp_path, [SHAREGPT, SHAREGPT | other_columns], "sharegpt_pairs")
    assert summary(source.rejected("train")) == {"mine": {reason: 1}}


def test_adapter_without_system_prompts_rejects_them(tmp_path: Path) -> None:
    """The row is rejected unless the recipe ignores the column."""
    row = {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 0}
    rows = [row | {"system": "S"}, row]
    source = shaped(tmp_path, rows, "pku_saferlhf")
    assert summary(source.rejected("train")) == {"mine": {"prompt_column_not_mapped": 1}}
    assert source.columns_read().unread == ["safer_response_id", "system"]
    assert len(shaped(tmp_path, rows, "pku_saferlhf", columns={"system": None}).groups("train")) == 2


def test_mapped_columns_of_an_adapter_are_reported_by_both_names(tmp_path: Path) -> None:
    """The report maps the adapter's names to those in the data, also for joined rows."""
    prompt_template = "Question: [Why?]\nThe LMM response: [{}]\nASSISTANT:\n"
    rows = [
        {"talk": [{"from": "human", "value": prompt_template.format(answer)},
                  {"from": "gpt", "value": f"Score: {score}"}],
         "image": "0.png", "left": "x"}
        for answer, score in (("a", 20), ("b", 95))
    ]  # fmt: skip
    picture(0).save(tmp_path / "0.png")
    source = shaped(tmp_path, rows, "llava_critic_pointwise", columns={"conversations": "talk"})
    report = source.columns_read()
    assert report.read == {"conversations": "talk", "image": "image"}
    assert report.unread == ["left"]
    [group] = source.groups("train")
    assert group.prompt == (Turn("user", (IMAGE, Part("Why?"))),)


def test_messages_of_a_csv_are_read(tmp_path: Path) -> None:
    """pandas' `to_csv` with message lists written by `json.dumps`."""
    import csv

    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "chosen", "rejected", "margin"])
        for i in range(3):
            message_lists = [
                [{"role": "user", "content": f"Q{i}"}],
                *([{"role": "assistant", "content": text}] for text in "ab"),
            ]
            writer.writerow([*map(json.dumps, message_lists), 1.5])
    groups = Hub("mine", path=str(tmp_path / "rows.csv"), val=0, test=0).groups("train")
    assert [turns(group) for group in groups] == [[("user", f"Q{i}")] for i in range(3)]
    assert {group.responses for group in groups} == {("a", "b")}
    assert {group.preferences[0].margin for group in groups} == {1.5}
