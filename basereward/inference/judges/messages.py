"""Turns as the messages of OpenAI's chat completions, which served models take."""

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
    """Text parts, and pictures as data URIs in their places; turns of text alone as a string.

    Raises:
        ImageError: a picture cannot be opened.
    """
    pictures = iter(images)
    told: list[dict[str, Any]] = []
    for turn in turns:
        parts = [
            {"type": "image_url", "image_url": {"url": data_uri(next(pictures))}}
            if part.is_image
            else {"type": "text", "text": part.text}
            for part in turn.parts
        ]
        alone = all(part["type"] == "text" for part in parts)
        told.append({"role": turn.role, "content": "".join(part.text or "" for part in turn.parts) if alone else parts})
    return told


def data_uri(image: Image) -> str:
    """The file as it is where its format is common on the web, else as PNG.

    Raises:
        ImageError: it cannot be opened.
    """
    picture = open_image(image)  # whatever it is called, it is a picture
    content = read_image(image)
    if isinstance(content, bytes):
        with PIL.Image.open(io.BytesIO(content)) as file:
            media = SENT_AS_THEY_ARE.get(file.format or "")
        if media is not None:
            return f"data:{media};base64,{base64.b64encode(content).decode()}"
    out = io.BytesIO()
    picture.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
