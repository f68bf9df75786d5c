"""Reads the prompt, the responses and the images of a request, within the limits and permissions of the server."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import PIL.Image

from basereward.data.images.image_store import ImageError, ImageStore
from basereward.data.images.open_images import FORMATS, read_image
from basereward.data.schema.group import Group, Image, PlacedImage, Video, Visual, flat_images, visual_content
from basereward.data.schema.rows import RowFormat
from basereward.data.videos.open_videos import read_video_file, video_facts
from basereward.errors import DataError
from basereward.io.http.addresses import public_addresses
from basereward.io.http.client import HTTPClient, PrivateAddress, TooLarge, TooSlow
from basereward.serve.settings import ServerSettings

DOWNLOAD_S = 20.0
"""Seconds that an image may take to arrive."""
MAX_DOWNLOAD = 32 * 2**20
"""Bytes of an image from an address."""


class _ServedImages(ImageStore):
    """Paths below the allowed folder, and none without one."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__(folder, closed=True)
        self._folder = folder.resolve() if folder is not None else None

    def find(self, name: str | Path) -> Path:
        """As the base; a link that leads out of the folder is refused too."""
        if self._folder is None:
            raise ImageError(
                "image_outside_root", "image paths are not read here; send the image as a data URI in base64"
            )
        path = super().find(name)
        assert isinstance(path, Path)
        try:
            resolved = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            # A circle of links, a name that is too long, or a zero byte.
            raise ImageError("image_unreadable", f"the path of an image cannot be read: {error}") from error
        if not resolved.is_relative_to(self._folder):
            raise ImageError("image_outside_root", f"{name} is not below the folder of images")
        return path

    def listing(self, folder: str) -> list[str]:
        """As the base; without a folder nothing is listed."""
        return [] if self._folder is None else super().listing(folder)


class RequestReader:
    """Converts requests to groups.

    Args:
        settings: limits and permissions.

    >>> reader = RequestReader(ServerSettings())
    >>> reader.group("2 + 2?", ["4", "5"]).responses
    ('4', '5')
    >>> reader.group("What is it?", ["A cat."], ["/etc/passwd"])
    Traceback (most recent call last):
        ...
    basereward.data.schema.rejections.RowRejected: request: image paths are not read here; ...
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._images = _ServedImages(settings.images)

    def group(
        self,
        prompt: str | Sequence[Any],
        responses: Sequence[Any],
        images: Sequence[Any] = (),
        response_images: Sequence[Sequence[Any]] = (),
        *,
        videos: Sequence[Any] = (),
    ) -> Group:
        """Reads one request. It may download images, so it belongs into a thread of its own.

        Args:
            prompt: a text, or messages as for chat templates or in the form of OpenAI.
            responses: texts, or messages of the assistant.
            images: data URIs, base64, paths or addresses, in the order of their places in the prompt.
            response_images: for each response a list of its images, in the forms of `images`.
            videos: lists of frames, which are given as images are, or data URIs or paths of files or of folders of
                frames. Each frame counts as an image.

        Raises:
            DataError: something is malformed, too large, or not allowed.
        """
        self._check_size(prompt, responses)
        row = {
            "prompt": self._with_downloads(prompt),
            "responses": [self._with_downloads(response) for response in responses],
            "images": self._all_downloaded(images) or None,
            "response_images": [self._all_downloaded(own) for own in response_images] or None,
            "videos": list(videos) or None,
        }
        # The server states where images are, so `<image>` in a prompt without images is a word.
        # The id of `ScoresGroups.score`: a judge that shows pairs in random order draws the order from it.
        group = RowFormat(images=self._images, for_training=False).group(
            row, source="serve", row_id="0", where="request"
        )
        self._check_count(group)
        return Group(
            *(group.id, group.source, group.prompt, group.responses),
            images=tuple(self._visual(visual) for visual in group.images),
            response_images=tuple(self._contents(placed) for placed in group.response_images),
        )

    def _check_count(self, group: Group) -> None:
        number = sum(1 for _ in flat_images(group.all_images))
        if number > self._settings.max_images:
            raise DataError(f"{number} images and frames of videos; at most {self._settings.max_images} are allowed")

    def _visual(self, visual: Visual) -> Visual:
        return self._video(visual) if isinstance(visual, Video) else self._content(visual)

    def _contents(self, placed: Sequence[PlacedImage]) -> tuple[PlacedImage, ...]:
        return tuple(replace(item, image=self._content(item.image)) for item in placed)

    def _all_downloaded(self, images: Sequence[Any]) -> list[Any]:
        return [self._downloaded(image) for image in images]

    def conversation(self, messages: Sequence[Any]) -> Group:
        """Reads the messages of a chat request, as a group with one empty response.

        Args:
            messages: in the form of OpenAI, with `image_url` parts.

        Raises:
            DataError: as `group`, or the last message is not of the user.

        >>> reader = RequestReader(ServerSettings())
        >>> reader.conversation([{"role": "user", "content": "2 < <image>?"}]).prompt[0].parts
        (Part(text='2 < <image>?'),)
        """
        group = self.group([_in_parts(message) for message in messages], [""])
        if group.prompt[-1].role != "user":
            raise DataError(f"the last message is of the {group.prompt[-1].role}; the model answers one of the user")
        return group

    def _check_size(self, prompt: str | Sequence[Any], responses: Sequence[Any]) -> None:
        if not 1 <= len(responses) <= self._settings.max_responses:
            raise DataError(f"{len(responses)} responses; 1 to {self._settings.max_responses} are allowed")
        characters = _characters(prompt) + sum(map(_characters, responses))
        if characters > self._settings.max_characters:
            raise DataError(f"{characters:,} characters; at most {self._settings.max_characters:,} are allowed")

    def _video(self, video: Video) -> Video:
        """A video whose frames, or whose file, are bytes within the limits; they are decoded by the worker."""
        if video.file is None:
            return replace(video, frames=tuple(self._content(frame) for frame in video.frames))
        # In memory, so that the worker reads what was checked.
        video = replace(video, file=read_video_file(video))
        facts, settings = video_facts(video), self._settings
        if facts.width * facts.height > settings.max_image_pixels:
            size = f"{facts.width} x {facts.height} pixels"
            raise DataError(f"a video has frames of {size}; at most {settings.max_image_pixels:,} pixels are allowed")
        pixels, limit = facts.frames * facts.width * facts.height, settings.max_image_pixels * settings.max_images
        if pixels > limit:
            raise DataError(f"a video has {pixels:,} pixels in all its frames; at most {limit:,} are allowed")
        return video

    def _content(self, image: Image) -> bytes:
        """The bytes of an image, whose header is looked at; it is decoded by the worker."""
        content = read_image(image)
        assert isinstance(content, bytes)
        try:
            with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                pixels = opened.width * opened.height
        except PIL.Image.DecompressionBombError as error:
            raise DataError(f"an image is too large: {error}") from error
        except Exception as error:
            # For a damaged header, Pillow's parsers raise many types.
            raise DataError("an image is damaged or of no known format") from error
        if pixels > self._settings.max_image_pixels:
            raise DataError(f"an image has {pixels:,} pixels; at most {self._settings.max_image_pixels:,} are allowed")
        return content

    def _with_downloads(self, prompt: Any) -> Any:
        """A prompt or response, with the content of every image that is an address in a part of a message."""
        if isinstance(prompt, Mapping):
            (message,) = self._with_downloads([prompt])
            return message
        if not isinstance(prompt, list | tuple):
            return prompt
        messages: list[Any] = []
        for message in prompt:
            if isinstance(message, Mapping) and isinstance(message.get("content"), list):
                content = [self._part_with_download(part) for part in message["content"]]
                messages.append({**message, "content": content})
            else:
                messages.append(message)
        return messages

    def _part_with_download(self, part: Any) -> Any:
        if not isinstance(part, Mapping):
            return part
        read = dict(part)
        for key in ("image_url", "image", "url"):
            value = read.get(key)
            if isinstance(value, Mapping) and isinstance(value.get("url"), str):
                value = value["url"]
            if isinstance(value, str) and _is_address(value):
                read[key] = {"bytes": self._downloaded(value)}
        return read

    def _downloaded(self, image: Any) -> Any:
        """The content of an image that is an address; anything else as it is.

        Raises:
            DataError: the address is not allowed, or the download fails.
        """
        if not isinstance(image, str) or not _is_address(image):
            return image
        host = _host(image)
        if host not in self._settings.hosts:
            allowed = ", ".join(self._settings.hosts) or "none"
            raise DataError(f"images are not downloaded from {host[:200]!r}; allowed hosts: {allowed}. Send a data URI")
        return download(image)


def _in_parts(message: Any) -> Any:
    """A message whose content is a list of parts: in a text of its own, `<image>` would stand for an image."""
    if isinstance(message, Mapping) and isinstance(message.get("content"), str):
        return {**message, "content": [{"type": "text", "text": message["content"]}]}
    return message


def _host(address: str) -> str:
    """The host of an address.

    Raises:
        DataError: the address is malformed, or has a part that programs read differently.

    >>> _host("https://images.example.org/a.png")
    'images.example.org'
    """
    # Which host stands before or after a backslash or an @ depends on who reads it.
    if "\\" in address or "@" in address or not address.isprintable():
        raise DataError("the address of an image has a password, a backslash or a control character")
    try:
        return urlsplit(address).hostname or ""
    except ValueError as error:
        raise DataError(f"the address of an image is malformed: {error}") from error


def _is_address(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def _characters(value: Any) -> int:
    """The characters of all texts in a JSON value."""
    if isinstance(value, str):
        return len(value) if value[:5].lower() != "data:" else 0
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 0


def prompt_key(group: Group) -> bytes:
    """A hash of the prompt and its images.

    >>> reader = RequestReader(ServerSettings())
    >>> prompt_key(reader.group("a", ["b"])) == prompt_key(reader.group("a", ["c"]))
    True
    """
    digest = hashlib.sha256(repr(group.prompt).encode("utf-8", "surrogatepass"))
    for image in group.images:
        digest.update(visual_content(image, _image_digest))
    return digest.digest()


def _image_digest(image: Image) -> bytes:
    assert isinstance(image, bytes)
    return hashlib.sha256(image).digest()


def download(address: str) -> bytes:
    """The content of an image at an address. Redirects are not followed, since they may lead to another host.

    Raises:
        DataError: the host is not public, or the image does not arrive complete, in time and within the limit.
    """
    public_addresses(_host(address))
    try:
        reply = HTTPClient(max_bytes=MAX_DOWNLOAD, timeout_s=DOWNLOAD_S, public_only=True).get(address)
    except (TooLarge, TooSlow, PrivateAddress, OSError) as error:
        raise DataError(f"the image {address[:200]} cannot be downloaded: {error}") from error
    if reply.status != HTTPStatus.OK:
        raise DataError(f"the image {address[:200]} cannot be downloaded: status {reply.status}")
    return reply.content
