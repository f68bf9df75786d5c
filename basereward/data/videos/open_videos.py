"""Opens videos: their number of frames, their size, and chosen frames as images.

Frames that are images need no further package. Files are decoded by PyAV, which is the extra `video`.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import PIL.Image

from basereward.data.images.image_store import MAX_BYTES, ImageError, read_archived
from basereward.data.images.open_images import MAX_PIXELS, open_image
from basereward.data.schema.group import ArchivedImage, Video
from basereward.errors import DataError

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,asf,gif,ogg"
"""Formats that FFmpeg may open. Playlists are not among them: they name other files and addresses."""
MAX_FRAMES = 1_000_000
"""Frames of a file; nine hours at 30 a second."""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What the choice of frames depends on.

    Attributes:
        frames: the number of frames.
        fps: frames per second; None: unknown.
        width, height: of a frame, in pixels.

    >>> VideoFacts(frames=48, fps=24.0, width=640, height=360).seconds
    2.0
    """

    frames: int
    fps: float | None
    width: int
    height: int

    @property
    def seconds(self) -> float | None:
        """The duration; None: unknown."""
        return None if self.fps is None else self.frames / self.fps


def spaced(count: int, wanted: int) -> list[int]:
    """Choose at most `wanted` evenly spaced indices below `count`, with the first and the last one.

    >>> spaced(10, 4), spaced(3, 8), spaced(9, 1)
    ([0, 3, 6, 9], [0, 1, 2], [4])
    """
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [count // 2]
    return [index * (count - 1) // (wanted - 1) for index in range(wanted)]


def video_facts(video: Video) -> VideoFacts:
    """Find the number and the size of the frames; of a file, only what its header says is read if it says both.

    Raises:
        ImageError: `video_missing`, `video_unreadable`, `video_too_large`; or as `open_image`, for a frame.
        DataError: the video is a file, and the package that decodes it is not installed.

    >>> frames = (PIL.Image.new("RGB", (8, 4)), PIL.Image.new("RGB", (8, 4)))
    >>> video_facts(Video(frames=frames, fps=2.0))
    VideoFacts(frames=2, fps=2.0, width=8, height=4)
    """
    if video.file is None:
        first = open_image(video.frames[0])
        return VideoFacts(len(video.frames), video.fps, first.width, first.height)
    with _opened(video) as (container, stream):
        fps = stream.average_rate or stream.guessed_rate
        if not fps:
            raise ImageError("video_unreadable", f"{video.name} does not say its frames per second")
        # Some formats, such as WebM, do not say how many frames they have.
        frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        if not 0 < frames <= MAX_FRAMES:
            raise ImageError("video_unreadable", f"{video.name} has {frames:,} frames; 1 to {MAX_FRAMES:,} are read")
        return VideoFacts(frames, float(fps), stream.width, stream.height)


def read_frames(video: Video, indices: Sequence[int]) -> Iterator[PIL.Image.Image]:
    """Open some frames of a video in mode RGB, one after another. Frames of another size than the first one are an
    error.

    A frame is read when it is asked for, so that a caller that uses each one at once needs the memory of one.

    Args:
        video: the video.
        indices: of the frames, ascending; an index may occur more than once.

    Raises:
        ImageError, DataError: as `video_facts`.

    >>> frames = (PIL.Image.new("RGB", (2, 2)), PIL.Image.new("RGB", (2, 2), "red"))
    >>> [frame.getpixel((0, 0)) for frame in read_frames(Video(frames=frames), [1, 1])]
    [(255, 0, 0), (255, 0, 0)]
    """
    size: tuple[int, int] | None = None
    times = Counter(indices)
    for index, frame in _listed(video, times) if video.file is None else _decoded(video, times):
        size = size or frame.size
        if frame.size != size:
            detail = f"the frames of {video.name} have different sizes: {size} and {frame.size} pixels"
            raise ImageError("video_unreadable", detail)
        for _ in range(times[index]):
            yield frame


def _listed(video: Video, wanted: Collection[int]) -> Iterator[tuple[int, PIL.Image.Image]]:
    """Open frames that are images, with their indices."""
    for index in sorted(wanted):
        yield index, open_image(video.frames[index])


def _decoded(video: Video, wanted: Collection[int]) -> Iterator[tuple[int, PIL.Image.Image]]:
    """Decode a file from its beginning to the last frame that is wanted, and give these with their indices."""
    missing = sorted(wanted, reverse=True)
    with _opened(video) as (container, stream):
        # The decoder changes these at a frame of another size.
        size = stream.width, stream.height
        for index, frame in enumerate(container.decode(stream)):
            if index == missing[-1]:
                _check_frame(frame, index, size=size, name=video.name)
                yield missing.pop(), frame.to_image()
            if not missing:
                return
    detail = f"{video.name} ends before frame {missing[-1]}, although it claims to have more frames; it is damaged"
    raise ImageError("video_unreadable", detail)


def _check_frame(frame: Any, index: int, *, size: tuple[int, int], name: str) -> None:
    """Check the size of a frame before it is converted: limits, and the size in tokens, are by that of the header.

    Raises:
        ImageError: `video_unreadable`.
    """
    if (frame.width, frame.height) != size:
        detail = f"frame {index} has {frame.width} x {frame.height} pixels, and the file states {size[0]} x {size[1]}"
        raise ImageError("video_unreadable", f"{name}: {detail}; encode it again with one size")


@contextlib.contextmanager
def _opened(video: Video) -> Iterator[tuple[Any, Any]]:
    """Open a video file, and give its container and its first video stream."""
    av = _decoder(video)
    try:
        # As a file object and with these formats only: a file must not make FFmpeg open other files or addresses.
        options = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
        with _content(video) as content, av.open(content, options=options) as container:
            if not container.streams.video:
                raise ImageError("video_unreadable", f"{video.name} has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ImageError("video_unreadable", f"{video.name} has a codec that PyAV does not decode")
            # Also of frames that are larger than the header states.
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            if stream.width * stream.height > MAX_PIXELS:
                size = f"{stream.width} x {stream.height} pixels"
                raise ImageError("video_too_large", f"{video.name}: {size}; at most {MAX_PIXELS:,} pixels are opened")
            # Frames in several threads at once have the same bits.
            stream.thread_type = "AUTO"
            yield container, stream
    except ImageError:
        # A `ValueError` too, which already says what is wrong.
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ImageError("video_unreadable", f"{video.name} cannot be decoded: {error}") from error


def _decoder(video: Video) -> Any:
    try:
        import av
    except ImportError:
        # Not a fault of the row: with the package the same row can be used.
        raise DataError(
            f"{video.name} is a video file, and the package that decodes it is not installed. "
            "Install it (pip install 'basereward[video]'), or give a folder of frames"
        ) from None
    return av


def read_video_file(video: Video) -> bytes:
    """Read the content of a video file, within the limit of its size.

    Raises:
        ImageError: `video_missing`, `video_unreadable`, `video_too_large`.

    >>> read_video_file(Video(file=b"content"))
    b'content'
    """
    with _content(video) as file:
        try:
            return file.read()
        except OSError as error:
            raise ImageError("video_unreadable", f"{video.name} cannot be read: {error}") from error


@contextlib.contextmanager
def _content(video: Video) -> Iterator[BinaryIO]:
    """Open the content of a video file, within the limit of its size. A file on the disk is not read into memory.

    Raises:
        ImageError: as `read_video_file`.
    """
    file = video.file
    assert file is not None
    if isinstance(file, ArchivedImage):
        file = read_archived(file)
    with io.BytesIO(file) if isinstance(file, bytes) else _on_disk(Path(file), video.name) as opened:
        yield opened


def _on_disk(path: Path, name: str) -> BinaryIO:
    try:
        if not path.is_file():
            raise ImageError("video_missing", f"there is no file {name}")
        if path.stat().st_size > MAX_BYTES:
            raise ImageError("video_too_large", f"{name}: at most {MAX_BYTES:,} bytes are read")
        return path.open("rb")
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError("video_unreadable", f"{name} cannot be read: {error}") from error
