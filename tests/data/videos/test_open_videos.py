"""Frames of videos: from images, from files, and what cannot be opened."""

from __future__ import annotations

import base64
import io
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from basereward.data.images.image_store import ImageError
from basereward.data.schema.group import Video
from basereward.data.videos.open_videos import VideoFacts, read_frames, read_video_file, video_facts
from basereward.errors import DataError
from basereward.serve.reading.request_reader import RequestReader
from basereward.serve.settings import ServerSettings
from tests.helpers.video_files import needs_decoder, video_file

LEVELS = [12 * index for index in range(20)]


@needs_decoder
@pytest.mark.parametrize(("container_format", "codec"), [("mp4", "mpeg4"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")])
def test_frames_of_a_file(container_format: str, codec: str) -> None:
    """The number, the rate and the size; chosen frames have the grey that was written, within the loss of the codec."""
    video = Video(file=video_file(container_format, codec), name="grey")
    assert video_facts(video) == VideoFacts(frames=20, fps=8.0, width=64, height=48)
    frames = list(read_frames(video, [0, 7, 19, 19]))
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


def test_reasons_of_files_that_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, and one that is too large."""
    (tmp_path / "a.mp4").write_bytes(b"0123")
    monkeypatch.setattr("basereward.data.videos.open_videos.MAX_BYTES", 3)
    for name, reason in (("b.mp4", "video_missing"), ("a.mp4", "video_too_large")):
        with pytest.raises(ImageError) as caught:
            read_video_file(Video(file=tmp_path / name))
        assert caught.value.reason == reason


@needs_decoder
def test_damaged_file_is_an_error() -> None:
    """A file that ends before a frame that its header claims."""
    content = video_file("avi", "mpeg4")
    with pytest.raises(ImageError) as caught:
        list(read_frames(Video(file=content[: len(content) * 2 // 3]), [0, 19]))
    assert caught.value.reason == "video_unreadable"


@needs_decoder
def test_pixels_of_all_videos_of_a_request_are_limited() -> None:
    """20 frames of 64 x 48 are 61,440 pixels: within 4 images of 16,000 once, and not twice."""
    reader = RequestReader(ServerSettings(max_images=4, max_image_pixels=16_000))
    address = f"data:video/mp4;base64,{base64.b64encode(video_file('mp4', 'mpeg4')).decode()}"
    assert len(reader.group("Q", ["a"], videos=[address]).images) == 1
    with pytest.raises(DataError):
        reader.group("Q", ["a"], videos=[address, address])


def growing_file() -> bytes:
    """Return a video whose header and first frames have 16 x 16 pixels, and its last frame 320 x 160."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream: Any = container.add_stream("png", rate=4)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb24"
        for number in range(8):
            picture = io.BytesIO()
            PIL.Image.new("RGB", (320, 160) if number == 7 else (16, 16)).save(picture, "PNG")
            packet = av.Packet(picture.getvalue())
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 4), True
            packet.pts = packet.dts = number
            container.mux(packet)
    return buffer.getvalue()


@needs_decoder
def test_frame_larger_than_the_header_is_not_converted() -> None:
    """Limits of pixels, and the tokens of a video, are computed by the size in the header."""
    video = Video(file=growing_file())
    assert (video_facts(video).width, next(read_frames(video, [6])).size) == (16, (16, 16))
    with pytest.raises(ImageError) as caught:
        list(read_frames(video, [7]))
    assert caught.value.reason == "video_unreadable"


@needs_decoder
def test_reasons_of_files_that_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that no decoder has, and more pixels than are opened."""
    content = video_file("avi", "mpeg4")
    with pytest.raises(ImageError) as caught:
        video_facts(Video(file=content.replace(b"FMP4", b"ZZZZ")))
    assert caught.value.reason == "video_unreadable"
    monkeypatch.setattr("basereward.data.videos.open_videos.MAX_PIXELS", 1000)
    with pytest.raises(ImageError) as caught:
        video_facts(Video(file=content))
    assert caught.value.reason == "video_too_large"


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
        list(read_frames(Video(frames=frames), [0, 1]))
    assert caught.value.reason == "video_unreadable"
