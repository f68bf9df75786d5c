"""MM-RLHF-RewardBench as published: JSON Lines, a folder of pictures, and a film as a folder of frames in it."""

from __future__ import annotations

from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import picture, write_files, write_jsonl

REASONS = {"chosen_reason": "It answers the question.", "rejected_reason": "It looks elsewhere."}


def write(folder: Path) -> Expected:
    """Two pairs of one prompt about a picture, one pair about a film of four frames, one about a film that is gone."""
    about = {"id": "1_1", "image": "mcq/1.png", "prompt": "Which way does it point?", **REASONS}
    film = {"prompt": "What happens?", "chosen": "A turn.", "rejected": "A fall.", **REASONS}
    rows = [
        {**about, "chosen": "To the left.", "rejected": "To the right."},
        {**about, "chosen": "To the left.", "rejected": "Nowhere."},
        {"id": "2_1", "video": "video/-7_x", **film},
        {"id": "3_1", "video": "video/gone", **film},
    ]
    write_jsonl(folder / "mm_reward_bench.jsonl", rows)
    frames = {f"images/video/-7_x/{i}.jpg": picture(10 * i, kind="JPEG") for i in range(4)}
    write_files(folder, {"images/mcq/1.png": picture(1), **frames})
    return Expected(
        groups=3,
        prompt=(("user", "<image>Which way does it point?"),),
        responses=("To the left.", "To the right."),
        preferences=(Preference(0, 1),),
        images=1,
        lost={"video_missing": 1},
    )
