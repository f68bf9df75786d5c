"""Videos in rows: references of every kind, places in the prompt, and what rejects a row."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from basereward.data.formats.row_reader import RowReader
from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Group, Video
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.data.videos.references import find_video

PAIR = {"chosen": "a", "rejected": "b"}


def read(row: dict[str, Any], root: Path | None = None) -> Group:
    """Return the group of a row of a file."""
    reader = RowReader(RowFormat(images=ImageStore(root), of_table=True))
    return reader.group(row, source="s", row_id="0", where="rows.jsonl:1")


def rejected(row: dict[str, Any]) -> str:
    """Return the reason for which a row is rejected."""
    with pytest.raises(RowRejected) as caught:
        read(row)
    return caught.value.reason


def parts(group: Group) -> list[str]:
    """Return the parts of the last turn: a text, `[image]` or `[video]`."""
    kinds = {True: "[video]", False: "[image]"}
    return [kinds[part.is_video] if part.text is None else part.text for part in group.prompt[-1].parts]


def png(level: int) -> bytes:
    """Return the content of a small image file."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def test_places_of_all_formats() -> None:
    """ms-swift and LLaMA-Factory mark videos in texts, TRL and OpenAI have parts; without a place they come first."""
    files = {"videos": ["a.mp4", "b.mp4"]}
    url = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    rows: list[tuple[dict[str, Any], list[str]]] = [
        ({"prompt": "Is <video> like <video>?", **files}, ["Is ", "[video]", " like ", "[video]", "?"]),
        ({"prompt": "Who wins?", **files}, ["[video]", "[video]", "Who wins?"]),
        ({"prompt": "Who wins?", "video": "a.mp4"}, ["[video]", "Who wins?"]),
        ({"prompt": "Who?", "videos": '["a.mp4"]', "images": ["1.png"]}, ["[image]", "[video]", "Who?"]),
        ({"prompt": "The tag <video> of HTML?"}, ["The tag <video> of HTML?"]),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "So? "}, url]}]}, ["So? ", "[video]"]),
        ({"prompt": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]}, ["[video]"]),
        ({"prompt": [{"role": "user", "content": [{"type": "video"}]}], "videos": ["a.mp4"]}, ["[video]"]),
    ]
    for row, expected in rows:
        assert parts(read(row | PAIR)) == expected
    swift = {"messages": [{"role": "user", "content": "<video>Who?"}, {"role": "assistant", "content": "a"}]}
    assert parts(read(swift | {"rejected_response": "b", "videos": ["a.mp4"]})) == ["[video]", "Who?"]


def test_images_and_videos_keep_the_order_of_their_places() -> None:
    """The n-th entry of a group belongs to its n-th place."""
    row = {"prompt": "<video> <image> <video>", "images": ["1.png"], "videos": ["a.mp4", ["2.png"]], **PAIR}
    first, image, second = read(row).images
    assert isinstance(first, Video)
    assert isinstance(second, Video)
    assert (first.name, str(image), second.frames) == ("a.mp4", "1.png", (Path("2.png"),))


def test_references_of_every_kind(tmp_path: Path) -> None:
    """A folder in the order of its numbers, lists with and without frames per second, and frames in one data URI."""
    (tmp_path / "clip").mkdir()
    for number in (10, 9, 1):
        (tmp_path / "clip" / f"{number}.png").write_bytes(png(number))
    (tmp_path / "clip" / "notes.txt").write_text("x")
    store = ImageStore(tmp_path)
    [*frames] = find_video("clip", place=0, images=store).frames
    assert [Path(str(frame)).name for frame in frames] == ["1.png", "9.png", "10.png"]
    assert find_video({"video": "clip", "fps": 5}, place=0, images=store).fps == 5.0
    texts = [base64.b64encode(png(level)).decode() for level in (1, 2)]
    joined = find_video("data:video/jpeg;base64," + ",".join(texts), place=0, images=store)
    assert joined.frames == (png(1), png(2))
    other = find_video("data:video/jpeg;base64," + ",".join(texts[::-1]), place=0, images=store)
    # The name stands for the content where groups are told apart by their representation.
    assert joined.name != other.name


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "<video><video>", "videos": ["a.mp4"]}, "video_count"),
        ({"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, "video_count"),
        ({"prompt": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}], "videos": ["b.mp4"]},
         "conflicting_columns"),
        ({"prompt": "Q", "videos": ["a.mp4"], "video": "b.mp4"}, "conflicting_columns"),
        ({"prompt": "Q", "videos": ["https://example.org/a.mp4"]}, "video_is_address"),
        ({"prompt": "Q", "videos": ["no_such_folder"]}, "video_missing"),
        ({"prompt": "Q", "videos": [None]}, "bad_video_reference"),
        ({"prompt": "Q", "videos": [[]]}, "bad_video_reference"),
        ({"prompt": "Q", "videos": [{"video": "a.mp4", "video_start": 3}]}, "bad_video_reference"),
        ({"prompt": "Q", "videos": [{"frames": ["1.png"], "fps": 0}]}, "bad_video_reference"),
        ({"prompt": "Q", "videos": [{"video": "a.mp4", "fps": 2}]}, "bad_video_reference"),
        ({"prompt": "Q", "chosen": [{"role": "assistant", "content": [{"type": "video", "video": "a.mp4"}]}]}, "video"),
    ],
)  # fmt: skip
def test_faulty_video_rejects_the_row(row: dict[str, Any], reason: str) -> None:
    """Wrong numbers of places, two sources of videos, addresses, references that say nothing, videos as responses."""
    assert rejected(PAIR | row) == reason
