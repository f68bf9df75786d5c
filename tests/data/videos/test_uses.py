"""Videos in conversions, on pages of rows, in published sets, in requests, and in caches of lengths and features."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.cli.main import main
from basereward.data.encoding.content_hash import encoded_content, group_content
from basereward.data.images.feature_store import FeatureStore
from basereward.data.schema.group import Group, Video
from basereward.data.sources.hub import Hub
from basereward.data.sources.jsonl import Jsonl
from basereward.data.videos.shown_frames import with_shown_frames
from basereward.errors import DataError
from basereward.model.families.processing import load_encoder
from basereward.recipe.schema import VideoRecipe
from basereward.serve.reading.request_reader import RequestReader, prompt_key
from basereward.serve.settings import ServerSettings
from tests.fixtures.published.writing import picture as small_picture
from tests.fixtures.published.writing import write_files, write_jsonl, write_zip
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import checkpoint, clip, video_groups, write_rows

ROW = {"prompt": "Then? <video>", "chosen": "a", "rejected": "b"}


def frame_folder(folder: Path, frames: int) -> Path:
    """Write the frames of a video as files."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(clip(frames).frames):
        frame.save(folder / f"{number}.png")  # type: ignore[union-attr]
    return folder


def data_uri(number: int) -> str:
    """Return a frame as it stands in a request."""
    buffer = io.BytesIO()
    clip(1, first=number).frames[0].save(buffer, "PNG")  # type: ignore[union-attr]
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def test_converted_rows_have_the_same_videos(tmp_path: Path) -> None:
    """`convert` writes a row that is read as the same group, with the frames per second and the order of places."""
    frame_folder(tmp_path / "clip", 3)
    content = [{"type": "video", "video": "clip", "fps": 5}, {"type": "text", "text": "Who? <video> <image>"}]
    rows = [{**ROW, "videos": ["clip"]}, {**ROW, "prompt": [{"role": "user", "content": content}]}]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    assert main(["convert", str(source), "--out", str(tmp_path / "out.jsonl")]) == 0
    before, after = (
        Jsonl("s", path=str(path), val=0, test=0).groups("train") for path in (source, tmp_path / "out.jsonl")
    )
    assert len(before) == len(after) == 2
    for one, other in zip(before, after, strict=True):
        assert (one.prompt, group_content(one)) == (other.prompt, group_content(other))
        assert isinstance(other.images[0], Video)
    assert {group.images[0].fps for group in after} == {None, 5.0}  # type: ignore[union-attr]


def test_page_shows_eight_frames_of_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`look` shows evenly spaced frames with the number of all frames, and the first row in words."""
    frame_folder(tmp_path / "clip", 12)
    source = write_rows(tmp_path / "rows.jsonl", [{**ROW, "videos": [{"video": "clip", "fps": 4}]}] * 2)
    assert main(["look", str(source), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "[video: 12 frames, 4 a second; 8 are shown, evenly spaced] [0 s]" in page
    assert "[2.75 s]" in page
    assert page.count("data:image/") == 8  # both rows show the same pictures
    assert "video 1: 12 frames of 56x84 pixels, 4 a second" in capsys.readouterr().out


def test_page_with_a_model_shows_the_frames_that_it_reads(tmp_path: Path) -> None:
    """Two a second of twelve frames at four a second, the default, with their times."""
    frame_folder(tmp_path / "clip", 12)
    source = write_rows(tmp_path / "rows.jsonl", [{**ROW, "videos": [{"video": "clip", "fps": 4}]}])
    model = save_scored_model(tmp_path, head="mlp")
    assert main(["look", str(source), "--model", str(model), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "[video: 12 frames, 4 a second; the model reads 6, in 56 x 84 pixels] [0 s]" in page
    assert re.findall(r"\[([\d.]+) s\]", page) == ["0", "0.5", "1", "1.5", "2", "2.5"]
    assert page.count("data:image/") == 6


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_shown_frames_have_the_pixels_that_the_model_reads(family: str, tmp_path: Path) -> None:
    """As images, resized by nothing, they are cut into the patches of the video."""
    settings = VideoRecipe(frames=4, frame_pixels=64 * 64, total_pixels=4 * 64 * 64)
    encoder = load_encoder(checkpoint(family, tmp_path / "model"), video=settings)
    [sample] = [replace(video_groups()[0], images=(clip(8, side=112),))]
    assert encoder.videos is not None
    shown = with_shown_frames(sample, processor=encoder.videos)
    pixels = encoder(sample).pixels
    assert pixels is not None
    options = {"do_resize": False, "temporal_patch_size": 1, "return_tensors": "pt"}
    values = encoder.videos.frame_processor(images=list(shown.images), **options)["pixel_values"]
    parts = values.view(2, 2, len(values) // 4, 3, -1).permute(0, 2, 3, 1, 4)
    assert torch.equal(parts.flatten(0, 1).flatten(1), pixels.values)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_published_set_with_videos(packed: bool, tmp_path: Path) -> None:
    """MM-RLHF's folders of frames become videos, from the disk or from an archive, in the order of their numbers."""
    files = {f"video/a/frame_{i}.jpg": small_picture(12 * i, kind="JPEG") for i in range(12)}
    write_zip(tmp_path / "video.zip", files) if packed else write_files(tmp_path, files)
    row = {"id": "r", "video": "video/a", "prompt": "What?", "chosen": "A turn.", "rejected": "A fall."}
    write_jsonl(tmp_path / "pairs.jsonl", [row])
    shape = {"_target_": "mm_rlhf", "video": "video"}
    options: dict[str, Any] = {"files": ["pairs.jsonl"], "shape": shape, "images": "video.zip" if packed else None}
    [group] = Hub("v", path=str(tmp_path), val=0, test=0, **options).groups("train")
    [video] = group.images
    assert isinstance(video, Video)
    assert [str(frame).rpartition("_")[2] for frame in video.frames] == [f"{i}.jpg" for i in range(12)]


def test_request_with_videos() -> None:
    """Frames in a list, in one address of a part, and too many of them; paths need a folder."""
    reader = RequestReader(ServerSettings(max_images=3))
    frames = [data_uri(number) for number in range(3)]
    listed = reader.group("Q", ["a"], videos=[frames])
    joined = "data:video/jpeg;base64," + ",".join(frame.partition(",")[2] for frame in frames)
    content = [{"type": "video_url", "video_url": {"url": joined}}, {"type": "text", "text": "Q"}]
    in_part = reader.group([{"role": "user", "content": content}], ["b"])
    assert prompt_key(listed) == prompt_key(in_part)
    assert prompt_key(reader.group("Q", ["a"], videos=[frames[::-1]])) != prompt_key(listed)
    for videos in ([[*frames, frames[0]]], ["/etc"], ["clips"], [["/etc/hostname"]], ["https://example.org/a.mp4"]):
        with pytest.raises(DataError):
            reader.group("Q", ["a"], videos=videos)


def test_hashes_depend_on_every_frame_and_on_the_rate() -> None:
    """Caches of lengths and of scores must not take one video for another."""
    group = video_groups()[0]
    [video] = group.images
    assert isinstance(video, Video)
    others = [
        replace(video, fps=5.0),
        replace(video, frames=video.frames[::-1]),
        replace(video, frames=video.frames[1:]),
    ]
    for other in others:
        changed: Group = replace(group, images=(other,))
        assert group_content(changed) != group_content(group)
        assert encoded_content(changed) != encoded_content(group)
    # A GIF may be one frame, or a file with several.
    frame, file = (replace(group, images=(one,)) for one in (Video(frames=(b"GIF89a",)), Video(file=b"GIF89a")))
    assert encoded_content(frame) != encoded_content(file)
    # A video is no list of its images.
    assert group_content(replace(group, images=video.frames)) != group_content(group)


def test_feature_cache_has_videos(tmp_path: Path) -> None:
    """A video has a key of its pixels, and one with cached features is not read as pixels."""
    encoder = load_encoder(checkpoint("qwen2_5_vl", tmp_path / "model"))
    store = FeatureStore(tmp_path / "cache", setting="tower", gib=0.1)
    cached = encoder.with_feature_store(store)(video_groups()[1])
    plain = encoder(video_groups()[1])
    assert plain.pixels is not None
    assert cached.pixels is not None
    assert cached.pixels.values.equal(plain.pixels.values)
    assert len({entry.key for entry in cached.cached_features}) == 3
    assert json.dumps(cached.prefix.tolist()) == json.dumps(plain.prefix.tolist())
