"""Videos: folders of frames on disk and in an archive, and rows whose frames are missing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from basereward.data.images.open_images import open_image
from basereward.data.schema.group import SPLITS
from basereward.data.schema.rejections import RowRejected, summary
from basereward.data.sources.hub import Hub
from basereward.errors import RecipeError
from tests.fixtures.published.writing import picture, write_files, write_jsonl, write_zip

FRAMES = {f"video/a/frame_{i}.jpg": picture(12 * i, kind="JPEG") for i in range(20)} | {"video/a/.thumbs": b"x"}
ROW = {"id": "r", "video": "video/a", "prompt": "What happens?", "chosen": "A turn.", "rejected": "A fall."}


def hub(folder: Path, *, images: str | None = None, row: dict[str, Any] | None = None, **shape: Any) -> Hub:
    """Return a source with one row about a video."""
    write_jsonl(folder / "pairs.jsonl", [row or ROW])
    node = {"_target_": "mm_rlhf", **shape}
    return Hub("v", path=str(folder), files=["pairs.jsonl"], shape=node, images=images, val=0, test=0)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_frames_are_evenly_spaced_in_the_order_of_their_numbers(packed: bool, tmp_path: Path) -> None:
    """Frame 10 comes after frame 9, not after frame 1; the first and last are included, other files are not."""
    if packed:
        write_zip(tmp_path / "video.zip", FRAMES)
    else:
        write_files(tmp_path, FRAMES)
    source = hub(tmp_path, images="video.zip" if packed else None, video="frames_as_images", frames=4)
    [group] = pickle.loads(pickle.dumps(source)).groups("train")  # noqa: S301  # our own
    assert [str(image).rpartition("_")[2] for image in group.images] == ["0.jpg", "6.jpg", "12.jpg", "19.jpg"]
    reds = [open_image(image).getpixel((0, 0))[0] for image in group.images]  # type: ignore[index]
    assert reds == sorted(reds)
    assert sum(part.is_visual for turn in group.prompt for part in turn.parts) == 4


def test_short_video_is_used_whole(tmp_path: Path) -> None:
    """No frame is repeated."""
    write_files(tmp_path, {f"video/a/{i}.png": picture(i) for i in range(3)})
    [group] = hub(tmp_path, video="frames_as_images", frames=8).groups("train")
    assert len(group.images) == 3


def test_video_is_rejected_by_default(tmp_path: Path) -> None:
    """The reason is `video`, and the message has the argument that uses the frames."""
    write_files(tmp_path, FRAMES)
    write_jsonl(tmp_path / "other.jsonl", [ROW, {**ROW, "video": None, "image": "video/a/frame_0.jpg"}])
    source = Hub("v", path=str(tmp_path), files=["other.jsonl"], shape={"_target_": "mm_rlhf"}, val=0, test=0)
    assert len(source.groups("train")) == 1
    rejected = [row for split in SPLITS for row in source.rejected(split)]
    assert summary(rejected) == {"v": {"video": 1}}
    assert "shape.video=frames_as_images" in rejected[0].detail


@pytest.mark.parametrize(
    ("video", "reason"), [("video/b", "video_missing"), ("../a", "image_outside_root"), (["a"], "wrong_type")]
)
def test_missing_or_outside_folder_rejects_the_row(video: Any, reason: str, tmp_path: Path) -> None:
    """A folder that does not exist, one outside of the data set, and a value that is no text."""
    write_files(tmp_path, FRAMES)
    valid_row = {**ROW, "id": "g"}
    write_jsonl(tmp_path / "two.jsonl", [valid_row, {**ROW, "video": video}])
    node = {"_target_": "mm_rlhf", "video": "frames_as_images"}
    source = Hub("v", path=str(tmp_path), files=["two.jsonl"], shape=node, val=0, test=0)
    assert len(source.groups("train")) == 1
    assert summary(source.rejected("train")) == {"v": {reason: 1}}


def test_frames_must_be_at_least_1(tmp_path: Path) -> None:
    """`frames` below 1 is an error before anything is read."""
    with pytest.raises(RecipeError, match=r"frames is 0.*at least 1"):
        hub(tmp_path, video="frames_as_images", frames=0)


def test_the_error_for_a_missing_image_of_an_archive_shows_an_example(tmp_path: Path) -> None:
    """If the names in an archive have another prefix than those in the rows, the message shows an example."""
    write_zip(tmp_path / "video.zip", {"inner/video/a/1.jpg": picture(1)})
    [group] = hub(tmp_path, images="video.zip", row={**ROW, "video": None, "image": "video/a/1.jpg"}).groups("train")
    with pytest.raises(RowRejected, match=r"has no member video/a/1\.jpg; its first is inner/video/a/1\.jpg"):
        open_image(group.images[0])
