"""A judge's prompt with two answers, and its verdict: the format of data sets that train judges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.adapters.frames import ReadsVideo, VideoMode
from basereward.data.adapters.judge_prompts import Ties, judged_cells
from basereward.data.adapters.turns import read_turns
from basereward.data.schema.rejections import RowRejected


class JudgedPair(ReadsVideo):
    """Reads the judge's prompt and verdict from `conversations`, and the images from `image` or `images`.

    Args:
        ties: `keep` keeps ties, for losses that use them; `lost` rejects them, with the reason `undecided`.
        video: how to treat rows with a video: `lost` rejects them, with the reason `video`; `frames_as_images` uses its
            frames as images; `video` is for backbones that read videos.
        frames: the largest number of frames that become images; they are evenly spaced.

    >>> prompt = "Question: [1 + 1?]\\nResponse 1: [2]\\nResponse 2: [3]"
    >>> turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": "[[A]]"}]
    >>> JudgedPair()({"conversations": turns, "image": "sum.png"})
    {'prompt': '1 + 1?', 'responses': ['2', '3'], 'ranking': [0, 1], 'image': 'sum.png'}
    """

    columns = ("conversations",)

    def __init__(self, *, ties: Ties = "keep", video: VideoMode = "lost", frames: int = 8) -> None:
        self.ties = ties
        super().__init__(video, frames=frames)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our general form.

        Raises:
            RowRejected: `unknown_template`, `unknown_verdict`, `undecided`, `several_rounds`, `video`, `video_missing`.
        """
        turns = read_turns(row["conversations"], column="conversations")
        # With several rounds it would be unclear which verdict is the one on the answers.
        if [turn["role"] for turn in turns] != ["user", "assistant"]:
            raise RowRejected(
                "several_rounds", f"`conversations` has {len(turns)} turns; one prompt and one verdict are needed"
            )
        prompt, verdict = (turn["content"] for turn in turns)
        cells = judged_cells(prompt, verdict, ties=self.ties)
        cells |= {name: row[name] for name in ("id", "images", "image") if row.get(name) is not None}
        if row.get("video"):
            cells |= self._video.cells(row["video"])
        return cells
