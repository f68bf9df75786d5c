"""Converts the video references of a row to videos. Nothing is opened or decoded.

A reference is the path of a video file or of a folder of frames, a list of frames, the bytes of a video file, a data
URI, or an object with one of these. Frames are references of images (see `schema.image_references`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from basereward.data.images.image_store import MAX_BYTES, ImageStore
from basereward.data.schema.group import ArchivedImage, Image, Video
from basereward.data.schema.image_references import SCHEME, find_image
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

KEYS = ("frames", "video", "bytes", "path", "url")
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
"""Files in a folder that are frames of a video."""
FILE_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".gif")
"""A path that ends with one of these is a video file; any other one is a folder of frames, if there is one."""
# vLLM sends the frames of a video as one address: images in base64, with commas between them.
FRAMES_URI = re.compile(r"data:video/jpeg;base64,", re.IGNORECASE)
VIDEO_URI = re.compile(r"data:video/[\w.+-]+;base64,", re.IGNORECASE)


def find_video(video: object, *, place: int, images: ImageStore) -> Video:
    """Resolve the video reference of a row without opening the video.

    Args:
        video: the reference.
        place: the index of the video in the row, for messages.
        images: resolves paths, and lists the frames of a folder.

    Raises:
        RowRejected: `bad_video_reference`, `video_is_address`, `video_missing`; or as `find_image`, for a frame.

    >>> find_video({"frames": ["1.png", "2.png"], "fps": 2}, place=0, images=ImageStore()).fps
    2.0
    >>> str(find_video("clips/cat.mp4", place=0, images=ImageStore("data")).file)
    'data/clips/cat.mp4'
    """
    fps: float | None = None
    while isinstance(video, Mapping):
        given = _fps(video.get("fps"), place=place)
        fps = fps if given is None else given
        video = _of_mapping(video, place=place)
    if isinstance(video, list | tuple):
        return _of_frames(video, place=place, images=images, fps=fps)
    if isinstance(video, bytes | bytearray):
        return _of_bytes(bytes(video), place=place, fps=fps)
    if isinstance(video, str | Path) and str(video):
        return _of_text(str(video), place=place, images=images, fps=fps)
    raise _bad(place, f"is {shown(video)}; a path, a list of frames or a data URI is needed")


def frame_names(names: Sequence[str]) -> list[str]:
    """Select the names of images, in the order of the numbers in them.

    >>> frame_names(["a/10.jpg", "a/9.jpg", "a/notes.txt"])
    ['a/9.jpg', 'a/10.jpg']
    """
    return sorted((name for name in names if name.lower().endswith(FRAME_SUFFIXES)), key=numeric_order)


def numeric_order(name: str) -> list[tuple[int, str]]:
    """Sort key that compares digits as numbers.

    >>> sorted(["frame_10", "frame_2"], key=numeric_order)
    ['frame_2', 'frame_10']
    """
    # Frame numbers without leading zeros would be sorted as 1, 10, 2.
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def _of_mapping(video: Mapping[Any, Any], *, place: int) -> object:
    """Return what an object with a video contains: its one key of `KEYS`."""
    _check_keys(video, place=place)
    present = [key for key in KEYS if video.get(key) is not None]
    # The `datasets` library stores a file as its bytes with its path.
    if present == ["bytes", "path"]:
        present = ["bytes"]
    if len(present) != 1:
        raise _bad(place, f"is {shown(dict(video))}; an object with one of {', '.join(KEYS)} is needed")
    content = video[present[0]]
    if present[0] == "bytes" and isinstance(content, str) and content[:5].lower() != "data:":
        return f"data:video/mp4;base64,{content}"
    return content


def _check_keys(video: Mapping[Any, Any], *, place: int) -> None:
    """Reject a key that is not read: it may say which frames are meant, as `video_start` does."""
    for key, value in video.items():
        if key not in (*KEYS, "fps") and value is not None:
            raise _bad(
                place, f"has the key '{str(key)[:60]}', which is not read; keys that are: {', '.join(KEYS)}, fps"
            )


def _fps(value: object, *, place: int) -> float | None:
    if value is None:
        return None
    try:
        fps = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        # JSON has integers without a limit.
        fps = math.inf
    if not 0 < fps < math.inf:
        raise _bad(place, f"has fps {shown(value)}; frames per second are a number above 0")
    return fps


def _of_frames(frames: Sequence[object], *, place: int, images: ImageStore, fps: float | None) -> Video:
    if not frames:
        raise _bad(place, "is an empty list; a video has at least one frame")
    found: list[Image] = []
    for index, frame in enumerate(frames):
        if isinstance(frame, list | tuple):
            raise _bad(place, "is a list of lists; a video is a list of frames, and `videos` is a list of videos")
        found.append(find_image(frame, place=index, images=images))
    return Video(frames=tuple(found), fps=fps, name=_name(found))


def _name(frames: Sequence[Image]) -> str:
    """A name for messages, by which different videos differ also where they have no path."""
    if isinstance(frames[0], str | Path | ArchivedImage):
        return f"{len(frames)} frames from {frames[0]!s} to {frames[-1]!s}"
    digest = hashlib.blake2b(digest_size=6)
    for frame in frames:
        digest.update(frame if isinstance(frame, bytes) else _pixels(frame))
    return f"{len(frames)} frames ({digest.hexdigest()})"


def _pixels(frame: Image) -> bytes:
    """The pixels of a decoded image, or the path of one that is not decoded."""
    content = getattr(frame, "tobytes", None)
    return bytes(content()) if content is not None else str(frame).encode("utf-8", "surrogateescape")


def _of_bytes(content: bytes, *, place: int, fps: float | None) -> Video:
    _check_no_fps(fps, place=place)
    if not content:
        raise _bad(place, "has 0 bytes")
    if len(content) > MAX_BYTES:
        raise RowRejected("video_too_large", f"videos[{place}] has {len(content):,} bytes; at most {MAX_BYTES:,}")
    digest = hashlib.blake2b(content, digest_size=6).hexdigest()
    return Video(file=content, name=f"video of {len(content)} bytes ({digest})")


def _of_text(text: str, *, place: int, images: ImageStore, fps: float | None) -> Video:
    """Resolve a data URI, the path of a file, or the path of a folder of frames."""
    if match := FRAMES_URI.match(text):
        frames = [f"data:image/jpeg;base64,{frame}" for frame in text[match.end() :].split(",")]
        return _of_frames(frames, place=place, images=images, fps=fps)
    if VIDEO_URI.match(text) or text[:5].lower() == "data:":
        # The limits and the decoding of base64 are those of images.
        content = find_image(text, place=place, images=images)
        assert isinstance(content, bytes)
        return _of_bytes(content, place=place, fps=fps)
    path = _path(text, place=place)
    if not path.lower().endswith(FILE_SUFFIXES):
        names = frame_names(images.listing(path))
        if not names:
            raise RowRejected(
                "video_missing",
                f"videos[{place}]: there is no folder {text[:300]} with images; a video is a folder of frames or a "
                f"file that ends with {', '.join(FILE_SUFFIXES)}",
            )
        return Video(frames=tuple(images.find(name) for name in names), fps=fps, name=text[:300])
    _check_no_fps(fps, place=place)
    return Video(file=images.find(path), name=text[:300])


def _path(text: str, *, place: int) -> str:
    """Return the path of a `file://` URL; any other text that is no URL is a path."""
    match = SCHEME.match(text)
    if match is None:
        return text
    if match[1].lower() != "file":
        detail = f"videos[{place}] is the URL {text[:300]}; videos are not downloaded: download it and give its path"
        raise RowRejected("video_is_address", detail)
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise _bad(place, f"is {shown(text)}, a malformed URL: {error}") from None
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise _bad(place, f"is {shown(text)}; the URL of a local file is file:///folder/name.mp4")
    return unquote(parts.path)


def _check_no_fps(fps: float | None, *, place: int) -> None:
    """Reject frames per second beside a video file, which states its own; they would be ignored."""
    if fps is not None:
        raise _bad(place, f"is a file, and `fps` is {fps:g}; `fps` belongs to frames. Set data.encoding.video.fps")


def _bad(place: int, detail: str) -> RowRejected:
    return RowRejected("bad_video_reference", f"videos[{place}] {detail}")
