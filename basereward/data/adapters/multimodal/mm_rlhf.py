"""MM-RLHF, `dpo_pairs.jsonl`: a prompt about a picture or a video, and two answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.adapters.frames import Mode, Video
from basereward.data.images.image_store import ImageStore

READ = ("id", "prompt", "chosen", "rejected")


class MMRLHF:
    """Pairs with the path of an `image`, or of a `video`, which is a folder of frames. The reasons that people
    gave become critiques where both answers have one.

    Args:
        video: what becomes of rows with one: `lost` under the reason `video`, or `frames_as_images`.
        frames: how many frames of a video are taken, evenly spaced.
    """

    columns = ("prompt", "chosen", "rejected")

    def __init__(self, *, video: Mode = "lost", frames: int = 8) -> None:
        self._video = Video(video, frames=frames)

    def look_in(self, images: ImageStore) -> None:
        self._video.images = images

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `video`, `video_missing`.
        """
        images = self._video.names(row["video"]) if row.get("video") else row.get("image")
        reasons = [row.get("chosen_reason"), row.get("rejected_reason")]
        told = dict(zip(("chosen_critique", "rejected_critique"), reasons, strict=True)) if all(reasons) else {}
        return {name: row.get(name) for name in READ} | {"images": images} | told
