"""Converts turns to the messages of OpenAI's chat completions protocol."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import PIL.Image

from basereward.data.images.open_images import open_image, read_image
from basereward.data.schema.group import Image, Turn

SENT_AS_THEY_ARE = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


def chat_messages(turns: Sequence[Turn], images: Sequence[Image]) -> list[dict[str, Any]]:
    """Messages with images as data URIs in their places; the content of a turn without images is a string.

    Raises:
        ImageError: an image cannot be opened.
    """
    remaining = iter(images)
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if any(part.is_image for part in turn.parts):
            content: Any = []
            for part in turn.parts:
                if part.is_image:
                    content.append({"type": "image_url", "image_url": {"url": data_uri(next(remaining))}})
                else:
                    content.append({"type": "text", "text": part.text})
        else:
            # Some servers take only strings for models without images.
            content = "".join(part.text or "" for part in turn.parts)
        messages.append({"role": turn.role, "content": content})
    return messages


def data_uri(image: Image) -> str:
    """A data URI of the unchanged file if its format is common on the web, otherwise of a PNG.

    Raises:
        ImageError: the image cannot be opened.
    """
    picture = open_image(image)  # checks that the file is an image, whatever its name: it goes to another machine
    content = read_image(image)
    if isinstance(content, bytes):
        with PIL.Image.open(io.BytesIO(content)) as file:
            media = SENT_AS_THEY_ARE.get(file.format or "")
        if media is not None:
            return f"data:{media};base64,{base64.b64encode(content).decode()}"
    out = io.BytesIO()
    picture.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
