"""UnifiedReward's ShareGPTVideo-DPO as we expect it, its rows unseen: a film is a folder of frames, or a list."""

from __future__ import annotations

import json
from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.unified_reward_llava_critic import row
from tests.published.writing import picture, write_files


def write(folder: Path) -> Expected:
    """A folder of 12 frames, a list of two, and a film file, which nobody has taken frames of."""
    asked = ("What happens?", "A fall.", "A leap.", "Answer 2 is better")
    names = ["frames/a/1.jpg", "frames/a/2.jpg"]
    rows = [
        row(*asked, images=[]) | {"video": "frames/a"},
        row(*asked, images=names),
        row(*asked, images=[]) | {"video": "films/b.mp4"},
    ]
    (folder / "train_data.json").write_text(json.dumps(rows))
    write_files(folder, {f"frames/a/{i}.jpg": picture(20 * i, kind="JPEG") for i in range(12)})
    write_files(folder, {"films/b.mp4": b"no film"})
    return Expected(
        groups=2,
        prompt=(("user", "<image>" * 8 + "What happens?"),),
        responses=("A fall.", "A leap."),
        preferences=(Preference(1, 0),),
        images=8,
        lost={"video_missing": 1},
    )
