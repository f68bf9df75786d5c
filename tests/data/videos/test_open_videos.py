"""Frames of videos: from images, from files, and what cannot be opened."""

from __future__ import annotations

import importlib.util
import io
import sys
from typing import Any

import numpy as np
import PIL.Image
import pytest

from basereward.data.images.image_store import ImageError
from basereward.data.schema.group import Video
from basereward.data.videos.open_videos import VideoFacts, read_frames, video_facts
from basereward.errors import DataError

LEVELS = [12 * index for index in range(20)]
needs_decoder = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs PyAV, the extra `video`")


def file_of(container_format: str, codec: str) -> bytes:
    """Return a video file of 20 grey frames, 8 a second."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format) as container:
        stream: Any = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in LEVELS:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


@needs_decoder
@pytest.mark.parametrize(("container_format", "codec"), [("mp4", "mpeg4"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")])
def test_frames_of_a_file(container_format: str, codec: str) -> None:
    """The number, the rate and the size; chosen frames have the grey that was written, within the loss of the codec."""
    video = Video(file=file_of(container_format, codec), name="grey")
    assert video_facts(video) == VideoFacts(frames=20, fps=8.0, width=64, height=48)
    frames = read_frames(video, [0, 7, 19, 19])
    expected = [LEVELS[index] for index in (0, 7, 19, 19)]
    assert [frame.getpixel((9, 9))[0] for frame in frames] == pytest.approx(expected, abs=4)  # type: ignore[index]


@needs_decoder
@pytest.mark.parametrize(
    "content",
    [
        b"no video",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
)
def test_playlist_is_no_video(content: bytes) -> None:
    """A file that names other files is not followed."""
    with pytest.raises(ImageError) as caught:
        video_facts(Video(file=content))
    assert caught.value.reason == "video_unreadable"


@needs_decoder
def test_damaged_file_is_an_error() -> None:
    """A file that ends before a frame that its header claims."""
    content = file_of("avi", "mpeg4")
    with pytest.raises(ImageError) as caught:
        read_frames(Video(file=content[: len(content) * 2 // 3]), [0, 19])
    assert caught.value.reason == "video_unreadable"


def test_missing_decoder_is_no_fault_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the run stops: rejected rows would be lost silently."""
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"basereward\[video\]") as caught:
        video_facts(Video(file=b"content"))
    assert not isinstance(caught.value, ImageError)


def test_frames_of_different_sizes_are_an_error() -> None:
    """They cannot be cut into patches of one grid."""
    frames = (PIL.Image.new("RGB", (4, 4)), PIL.Image.new("RGB", (4, 8)))
    with pytest.raises(ImageError) as caught:
        read_frames(Video(frames=frames), [0, 1])
    assert caught.value.reason == "video_unreadable"
