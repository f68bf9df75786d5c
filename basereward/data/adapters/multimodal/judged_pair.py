"""Two answers inside of a prompt to a judge, and its verdict, as sets for training judges have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.adapters.turns import read_turns
from basereward.data.adapters.judge_prompts import Ties, judged_cells
from basereward.data.adapters.frames import Mode, Video
from basereward.data.images.image_store import ImageStore
from basereward.data.schema.rejections import RowRejected


class JudgedPair:
    """`conversations` is what the judge was asked, and what it said; `image` or `images` are the pictures.

    Args:
        ties: `keep` them as ties, for a loss that uses them, or lose such rows, under `undecided`.
        video: what becomes of rows with one: `lost` under the reason `video`, or `frames_as_images`.
        frames: how many frames of a video are taken, evenly spaced.
    """

    columns = ("conversations",)

    def __init__(self, *, ties: Ties = "keep", video: Mode = "lost", frames: int = 8) -> None:
        self.ties = ties
        self._video = Video(video, frames=frames)

    def look_in(self, images: ImageStore) -> None:
        self._video.images = images

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `unknown_template`, `unknown_verdict`, `undecided`, `several_rounds`, `video`, `video_missing`.
        """
        turns = read_turns(row["conversations"], column="conversations")
        if [turn["role"] for turn in turns] != ["user", "assistant"]:
            raise RowRejected(
                "several_rounds", f"`conversations` has {len(turns)} turns; a question and a verdict are needed"
            )
        asked, said = (turn["content"] for turn in turns)
        cells = judged_cells(asked, said, ties=self.ties)
        pictures = {name: row[name] for name in ("id", "images", "image") if row.get(name) is not None}
        if row.get("video"):
            pictures["images"] = self._video.names(row["video"])
        return cells | pictures
