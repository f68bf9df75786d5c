"""The memory of long videos: frames are used one after another."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from basereward.data.encoding.encoder import Encoder
from basereward.data.images import image_features
from basereward.data.images.open_images import open_image
from basereward.data.schema.group import Video
from basereward.data.schema.rejections import RowRejected
from basereward.data.videos import open_videos
from basereward.model.families.processing import load_encoder
from basereward.recipe.schema import VideoRecipe
from tests.helpers.support import checkpoint, video_groups
from tests.helpers.video_files import needs_decoder, video_file

SIZE = (560, 420)
FRAMES = 8


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Return an encoder whose videos have at most 56 x 56 pixels for each frame, and 8 frames."""
    settings = VideoRecipe(frames=FRAMES, frame_pixels=3136, total_pixels=FRAMES * 3136)
    folder = checkpoint(request.param, tmp_path_factory.mktemp("models") / request.param)
    return load_encoder(folder, video=settings, max_tokens=100_000)


def whole_frames() -> int:
    """Count the images of full size that were made since `gc.freeze`."""
    return sum(PIL.Image.Image in type(found).__mro__ and found.size == SIZE for found in gc.get_objects())


def frame_files(folder: Path) -> Video:
    """Return a video of frames on the disk."""
    for number in range(FRAMES):
        PIL.Image.new("RGB", SIZE, (25 * number, 9, 9)).save(folder / f"{number}.png")
    return Video(frames=tuple(folder / f"{number}.png" for number in range(FRAMES)), fps=4.0)


@pytest.mark.parametrize("method", ["__call__", "layout"])
@pytest.mark.parametrize("kind", ["frames", pytest.param("file", marks=needs_decoder)])
def test_no_more_frames_of_full_size_than_those_of_a_patch_are_in_memory(
    kind: str, method: str, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When any frame is opened, the ones before the two of its patch are gone; 768 of 1080p would have 4.8 GB."""
    levels = [25 * number for number in range(FRAMES)]
    video = (
        Video(file=video_file("avi", "mpeg4", size=SIZE, levels=levels)) if kind == "file" else frame_files(tmp_path)
    )
    counts: list[int] = []
    check = open_videos._check_frame

    def counted(image: Any) -> PIL.Image.Image:
        counts.append(whole_frames())
        return open_image(image)

    def checked(*args: Any, **options: Any) -> None:
        counts.append(whole_frames())
        check(*args, **options)

    monkeypatch.setattr(open_videos, "open_image", counted)
    monkeypatch.setattr(open_videos, "_check_frame", checked)
    # What is frozen is not searched, which makes counting fast.
    gc.freeze()
    try:
        getattr(encoder.images, method)((video,))
    finally:
        gc.unfreeze()
    assert len(counts) >= FRAMES
    # Those of a patch, and the one that a loop still names.
    assert max(counts) <= 2


@pytest.mark.parametrize("method", ["__call__", "measure"])
def test_video_that_cannot_fit_is_rejected_before_its_frames_are_opened(method: str, tmp_path: Path) -> None:
    """The last frame is not there, and the reason is still that 8 frames of 56 x 56 pixels are 4 x 4 tokens."""
    settings = VideoRecipe(frames=FRAMES, frame_pixels=3136)
    small = load_encoder(checkpoint("qwen2_5_vl", tmp_path / "model"), video=settings, max_tokens=15)
    frames = (PIL.Image.new("RGB", (56, 56)),) * (FRAMES - 1)
    group = replace(video_groups()[0], images=(Video(frames=(*frames, tmp_path / "none.png"), fps=4.0),))
    with pytest.raises(RowRejected) as caught:
        getattr(small, method)(group)
    assert caught.value.reason == "too_long"


def test_images_of_a_group_are_opened_one_after_another(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 images of 50 million pixels in a request, no two are in memory in full size."""
    counts: list[int] = []

    def counted(image: Any, **options: Any) -> PIL.Image.Image:
        counts.append(whole_frames())
        return open_image(image, **options)

    monkeypatch.setattr(image_features, "open_image", counted)
    frames = frame_files(tmp_path).frames
    gc.freeze()
    try:
        encoder.images(frames)
    finally:
        gc.unfreeze()
    assert (len(counts), max(counts)) == (FRAMES, 0)
