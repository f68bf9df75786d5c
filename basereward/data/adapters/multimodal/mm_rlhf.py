"""MM-RLHF (arXiv 2502.10391), `dpo_pairs.jsonl`: a prompt about an image or a video, and two answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.adapters.frames import ReadsVideo, VideoMode

PAIR_COLUMNS = ("id", "prompt", "chosen", "rejected")


class MMRLHF(ReadsVideo):
    """Reads pairs with the path of an `image`, or of a `video`, which is a folder of frames.

    The annotators' reasons become critiques if both answers have one.

    Args:
        video: how to treat rows with a video: `lost` rejects them, with the reason `video`; `frames_as_images` uses its
            frames as images; `video` is for backbones that read videos.
        frames: the largest number of frames that become images; they are evenly spaced.

    >>> MMRLHF()({"id": 1, "prompt": "What is it?", "chosen": "a cat", "rejected": "a dog", "image": "1.png"})
    {'id': 1, 'prompt': 'What is it?', 'chosen': 'a cat', 'rejected': 'a dog', 'images': '1.png'}
    """

    columns = ("prompt", "chosen", "rejected")

    def __init__(self, *, video: VideoMode = "lost", frames: int = 8) -> None:
        super().__init__(video, frames=frames)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our pair form.

        Raises:
            RowRejected: `video`, `video_missing`.
        """
        pair = {name: row.get(name) for name in PAIR_COLUMNS}
        pair |= self._video.cells(row["video"]) if row.get("video") else {"images": row.get("image")}
        # A critic head needs a critique of every response of a group.
        chosen_reason, rejected_reason = row.get("chosen_reason"), row.get("rejected_reason")
        if chosen_reason and rejected_reason:
            pair |= {"chosen_critique": chosen_reason, "rejected_critique": rejected_reason}
        return pair
