"""The limits and permissions of a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from basereward.io.limits import MIB


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server reads, holds and waits for.

    Attributes:
        window_s: how long a request waits for others, which are then scored in the same forward passes.
        tokens: limit of a forward pass, as in `ScoresGroups.score_groups`.
        max_waiting: requests of a worker that wait or are scored; more are answered with 429.
        timeout_s: after which a request is answered with 504.
        arrival_s: in which the header of a request must arrive, and then its body; otherwise it is answered with 408.
        max_body_bytes: of a request; larger ones are answered with 413.
        max_responses: of a request.
        max_characters: of the prompt and the responses of a request together.
        max_images: of a request.
        max_image_pixels: width x height of an image.
        max_media_bytes: of all files and addresses that a request names, together; more are answered with 422. Images
            and videos inside of a request count for its body.
        max_new_tokens: limit of a text that a judge writes.
        prefix_bytes: memory of the kept keys and values of prompts, in each worker; 0 keeps none.
        images: the folder that paths of images and videos are read from; None: paths are refused.
        hosts: host names that images and videos are downloaded from; empty: addresses are refused.
        key: what clients send as `Authorization: Bearer`; None: nothing is asked.

    >>> ServerSettings(key="secret")
    ServerSettings(window_s=0.005, ...)
    >>> "secret" in repr(ServerSettings(key="secret"))
    False
    """

    window_s: float = 0.005
    tokens: int | None = None
    max_waiting: int = 1024
    timeout_s: float = 120.0
    arrival_s: float = 30.0
    max_body_bytes: int = 64 * MIB
    max_responses: int = 256
    max_characters: int = 2_000_000
    max_images: int = 64
    max_image_pixels: int = 50_000_000
    max_media_bytes: int = 256 * MIB
    max_new_tokens: int = 8192
    prefix_bytes: int = 1024 * MIB
    images: Path | None = None
    hosts: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)
