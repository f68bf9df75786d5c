"""Makes small video files; needs PyAV, the extra `video`."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

needs_decoder = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs PyAV, the extra `video`")


def video_file(
    container_format: str = "mp4",
    codec: str = "mpeg4",
    *,
    size: tuple[int, int] = (64, 48),
    levels: Sequence[int] = range(0, 240, 12),
    rate: int = 8,
) -> bytes:
    """Return a video file of grey frames with the given levels."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
