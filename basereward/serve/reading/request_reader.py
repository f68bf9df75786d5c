"""Reads the prompt, the responses and the images of a request, within the limits and permissions of the server."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image

from basereward.data.images.image_store import ImageError, ImageStore
from basereward.data.images.open_images import FORMATS
from basereward.data.schema.group import Group, Image, PlacedImage, Video, Visual, flat_images, visual_content
from basereward.data.schema.rows import RowFormat
from basereward.data.videos.open_videos import video_facts
from basereward.errors import DataError
from basereward.serve.reading.request_media import RequestMedia
from basereward.serve.settings import ServerSettings


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
            videos: lists of frames, which are given as images are, or data URIs, paths or addresses of files, or paths
                of folders of frames. Each frame counts as an image.

        Raises:
            DataError: something is malformed, too large, or not allowed.
        """
        self._check_size(prompt, responses)
        media = RequestMedia(self._settings)
        row = {
            "prompt": media.with_downloads(prompt),
            "responses": [media.with_downloads(response) for response in responses],
            "images": [media.downloaded(image) for image in images] or None,
            "response_images": [list(map(media.downloaded, own)) for own in response_images] or None,
            "videos": [media.downloaded_video(video) for video in videos] or None,
        }
        # The server states where images are, so `<image>` in a prompt without images is a word.
        # The id of `ScoresGroups.score`: a judge that shows pairs in random order draws the order from it.
        group = RowFormat(images=self._images, for_training=False).group(
            row, source="serve", row_id="0", where="request"
        )
        self._check_count(group)
        return Group(
            *(group.id, group.source, group.prompt, group.responses),
            images=self._visuals(group.images, media),
            response_images=tuple(self._contents(placed, media) for placed in group.response_images),
        )

    def _check_count(self, group: Group) -> None:
        number = sum(1 for _ in flat_images(group.all_images))
        if number > self._settings.max_images:
            raise DataError(f"{number} images and frames of videos; at most {self._settings.max_images} are allowed")

    def _visuals(self, visuals: Sequence[Visual], media: RequestMedia) -> tuple[Visual, ...]:
        """The images and videos of a prompt; together, the video files may have as many pixels as the images."""
        limit = self._settings.max_image_pixels * self._settings.max_images
        found: list[Visual] = []
        total = 0
        for visual in visuals:
            if not isinstance(visual, Video):
                found.append(self._content(visual, media))
                continue
            video, pixels = self._video(visual, media)
            found.append(video)
            total += pixels
            if total > limit:
                raise DataError(f"videos have {total:,} pixels in all their frames; at most {limit:,} are allowed")
        return tuple(found)

    def _contents(self, placed: Sequence[PlacedImage], media: RequestMedia) -> tuple[PlacedImage, ...]:
        return tuple(replace(item, image=self._content(item.image, media)) for item in placed)

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

    def _video(self, video: Video, media: RequestMedia) -> tuple[Video, int]:
        """A video whose frames, or whose file, are bytes within the limits; they are decoded by the worker.

        Returns:
            The video, and the pixels in all frames of its file; 0 of frames, which count as images.
        """
        if video.file is None:
            return replace(video, frames=tuple(self._content(frame, media) for frame in video.frames)), 0
        # In memory, so that the worker reads what was checked.
        video = replace(video, file=media.video_file(video))
        facts, settings = video_facts(video), self._settings
        if facts.width * facts.height > settings.max_image_pixels:
            size = f"{facts.width} x {facts.height} pixels"
            raise DataError(f"a video has frames of {size}; at most {settings.max_image_pixels:,} pixels are allowed")
        return video, facts.frames * facts.width * facts.height

    def _content(self, image: Image, media: RequestMedia) -> bytes:
        """The bytes of an image, whose header is looked at; it is decoded by the worker."""
        content = media.image(image)
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


def _in_parts(message: Any) -> Any:
    """A message whose content is a list of parts: in a text of its own, `<image>` would stand for an image."""
    if isinstance(message, Mapping) and isinstance(message.get("content"), str):
        return {**message, "content": [{"type": "text", "text": message["content"]}]}
    return message


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
