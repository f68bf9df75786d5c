"""What a request names and does not contain: files of the allowed folder, and addresses of allowed hosts."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from basereward.data.images.open_images import read_image
from basereward.data.schema.group import Image, Video
from basereward.data.videos.open_videos import read_video_file
from basereward.errors import DataError
from basereward.io.http.addresses import public_addresses
from basereward.io.http.client import HTTPClient, PrivateAddress, TooLarge, TooSlow
from basereward.serve.settings import ServerSettings

DOWNLOAD_S = 20.0
"""Seconds that an image or a video may take to arrive."""
MAX_DOWNLOAD = 32 * 2**20
"""Bytes of an image from an address."""
VIDEO_KEYS = ("video", "url", "frames")
"""Keys of an object with a video whose value may have an address."""


class RequestMedia:
    """Reads the files and addresses of one request, which have one limit of bytes together.

    Images and videos inside of the request are not counted: the limit of its body is theirs.

    Args:
        settings: limits and permissions.

    >>> media = RequestMedia(ServerSettings())
    >>> media.downloaded("data:image/png;base64,iVBORw0K")
    'data:image/png;base64,iVBORw0K'
    >>> media.downloaded("https://example.org/a.png")
    Traceback (most recent call last):
        ...
    basereward.errors.DataError: images and videos are not downloaded from 'example.org'; allowed hosts: none. ...
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._left = settings.max_media_bytes

    def image(self, image: Image) -> bytes:
        """The bytes of an image.

        Raises:
            DataError: it cannot be read, or the limit is reached.
        """
        self._count_file(image)
        content = read_image(image)
        assert isinstance(content, bytes)
        return content

    def video_file(self, video: Video) -> bytes:
        """The bytes of the file of a video; errors are those of `image`."""
        assert video.file is not None
        self._count_file(video.file)
        return read_video_file(video)

    def downloaded(self, image: Any) -> Any:
        """The content of an image that is an address; anything else as it is.

        Raises:
            DataError: the address is not allowed, the download fails, or the limit is reached.
        """
        if not isinstance(image, str) or not _is_address(image):
            return image
        return self._download(image, most=MAX_DOWNLOAD)

    def downloaded_video(self, video: Any) -> Any:
        """A video, or its frames, with the content of each address; anything else as it is. Errors: `downloaded`.

        Args:
            video: an address, a list of frames, or an object with one of these.
        """
        if isinstance(video, str) and _is_address(video):
            return {"bytes": self._download(video, most=self._settings.max_media_bytes)}
        if isinstance(video, list | tuple):
            return [self._frame(frame) for frame in video]
        if isinstance(video, Mapping):
            return {key: self.downloaded_video(value) if key in VIDEO_KEYS else value for key, value in video.items()}
        return video

    def with_downloads(self, prompt: Any) -> Any:
        """A prompt or response, with the content of every image and video that is an address in a part of a message.

        Raises:
            DataError: as `downloaded`.
        """
        if isinstance(prompt, Mapping):
            (message,) = self.with_downloads([prompt])
            return message
        if not isinstance(prompt, list | tuple):
            return prompt
        messages: list[Any] = []
        for message in prompt:
            if isinstance(message, Mapping) and isinstance(message.get("content"), list):
                content = [self._part(part) for part in message["content"]]
                messages.append({**message, "content": content})
            else:
                messages.append(message)
        return messages

    def _part(self, part: Any) -> Any:
        if not isinstance(part, Mapping):
            return part
        read = dict(part)
        kind = "video" if part.get("type") in ("video", "video_url") else "image"
        for key in (f"{kind}_url", kind, "url"):
            value = _address_in(read.get(key))
            content = self.downloaded_video(value) if kind == "video" else self.downloaded(value)
            if content is value:
                continue
            if key.endswith("_url"):
                # A part of this type has an address alone, and no content.
                del read[key]
                key, read["type"] = kind, kind
            read[key] = {"bytes": content} if isinstance(content, bytes) else content
        return read

    def _frame(self, frame: Any) -> Any:
        if isinstance(frame, Mapping) and isinstance(frame.get("url"), str) and _is_address(frame["url"]):
            return {**frame, "url": self.downloaded(frame["url"])}
        return self.downloaded(frame)

    def _count_file(self, file: Image) -> None:
        """Count the bytes of a file before it is read.

        Raises:
            DataError: the limit is reached.
        """
        if isinstance(file, bytes):
            return
        try:
            size = Path(str(file)).stat().st_size
        except (OSError, ValueError):
            # Reading it says what is wrong.
            return
        self._count(size)

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise self._too_large()

    def _download(self, address: str, *, most: int) -> bytes:
        host = _host(address)
        if host not in self._settings.hosts:
            allowed = ", ".join(self._settings.hosts) or "none"
            detail = f"images and videos are not downloaded from {host[:200]!r}; allowed hosts: {allowed}"
            raise DataError(f"{detail}. Send a data URI")
        try:
            content = download(address, max_bytes=min(most, self._left))
        except TooLarge as error:
            if self._left < most:
                raise self._too_large() from error
            raise DataError(f"{address[:200]} cannot be downloaded: {error}") from error
        self._count(len(content))
        return content

    def _too_large(self) -> DataError:
        limit = self._settings.max_media_bytes
        return DataError(
            f"the files and addresses of the request have more than {limit:,} bytes together, which is the limit of "
            "this server (--max-media); send fewer or smaller images and videos"
        )


def download(address: str, *, max_bytes: int) -> bytes:
    """The content at an address. Redirects are not followed, since they may lead to another host.

    Args:
        address: of an image or a video.
        max_bytes: limit of the content.

    Raises:
        TooLarge: the content is longer.
        DataError: the host is not public, or the content does not arrive complete and in time.
    """
    public_addresses(_host(address))
    try:
        reply = HTTPClient(max_bytes=max_bytes, timeout_s=DOWNLOAD_S, public_only=True).get(address)
    except (TooSlow, PrivateAddress, OSError) as error:
        raise DataError(f"{address[:200]} cannot be downloaded: {error}") from error
    if reply.status != HTTPStatus.OK:
        raise DataError(f"{address[:200]} cannot be downloaded: status {reply.status}")
    return reply.content


def _host(address: str) -> str:
    """The host of an address.

    Raises:
        DataError: the address is malformed, or has a part that programs read differently.

    >>> _host("https://images.example.org/a.png")
    'images.example.org'
    """
    # Which host stands before or after a backslash or an @ depends on who reads it.
    if "\\" in address or "@" in address or not address.isprintable():
        raise DataError("the address of an image or a video has a password, a backslash or a control character")
    try:
        return urlsplit(address).hostname or ""
    except ValueError as error:
        raise DataError(f"the address of an image or a video is malformed: {error}") from error


def _address_in(value: Any) -> Any:
    """The address in the form of OpenAI's API, an object with `url`; any other value as it is.

    >>> _address_in({"url": "https://example.org/a.png", "detail": "low"}), _address_in("a.png")
    ('https://example.org/a.png', 'a.png')
    """
    if isinstance(value, Mapping) and isinstance(value.get("url"), str) and set(value) <= {"url", "detail"}:
        return value["url"]
    return value


def _is_address(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))
