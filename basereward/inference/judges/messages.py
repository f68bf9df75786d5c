"""Converts turns to the messages of OpenAI's chat completions protocol."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import PIL.Image

from basereward.data.images.open_images import open_image, read_image
from basereward.data.schema.group import Turn, Visual

# Formats that servers read, so that the file is sent unchanged, with their media types.
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


def chat_messages(turns: Sequence[Turn], images: Sequence[Visual]) -> list[dict[str, Any]]:
    """Converts turns to messages, with images as data URIs at their places.

    Args:
        turns: the conversation.
        images: of its image parts, in order.

    Raises:
        ImageError: an image cannot be opened, or it is a video, which the protocol does not have.

    >>> from basereward.data.schema.group import Part
    >>> chat_messages([Turn("user", (Part("2 + "), Part("2?")))], [])
    [{'role': 'user', 'content': '2 + 2?'}]
    """
    remaining = iter(images)
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if any(part.is_visual for part in turn.parts):
            content: Any = []
            for part in turn.parts:
                if part.is_visual:
                    content.append({"type": "image_url", "image_url": {"url": data_uri(next(remaining))}})
                else:
                    content.append({"type": "text", "text": part.text})
        else:
            # Some servers take only strings for models without images.
            content = "".join(part.text or "" for part in turn.parts)
        messages.append({"role": turn.role, "content": content})
    return messages


def data_uri(image: Visual) -> str:
    """A data URI of the unchanged file if servers read its format, otherwise of a PNG.

    Raises:
        ImageError: the image cannot be opened.

    >>> data_uri(PIL.Image.new("RGB", (1, 1)))[:26]
    'data:image/png;base64,iVBO'
    """
    # The check that the file is an image comes first: a row could name any file of this machine, and the content goes
    # to another one.
    opened = open_image(image)
    content = read_image(image)
    if isinstance(content, bytes):
        with PIL.Image.open(io.BytesIO(content)) as file:
            media = MEDIA_TYPES.get(file.format or "")
        if media is not None:
            return f"data:{media};base64,{base64.b64encode(content).decode()}"
    out = io.BytesIO()
    opened.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
