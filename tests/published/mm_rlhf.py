"""MM-RLHF as published: `dpo_pairs.jsonl` and an archive of pictures a category; a film is a folder of frames."""

from __future__ import annotations

from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import picture, write_jsonl, write_zip

REASONS = {"chosen_reason": "It answers the question.", "rejected_reason": "It looks elsewhere."}


def write(folder: Path) -> Expected:
    """One prompt with two pairs about a picture, one pair of another category, one about a film of 20 frames, one about
    a film that is not there."""
    about = {"image": "mcq/000001.png", "prompt": "Which way does it point?", **REASONS}
    rows = [
        {"id": "1_1", **about, "chosen": "To the left.", "rejected": "To the right."},
        {"id": "1_2", **about, "chosen": "To the left.", "rejected": "Nowhere."},
        {
            "id": "2_1",
            "image": "long/a.png",
            "prompt": "Describe it.",
            "chosen": "Red.",
            "rejected": "Blue.",
            **REASONS,
        },
        {
            "id": "3_1",
            "video": "video/-7_x",
            "prompt": "What happens?",
            "chosen": "A turn.",
            "rejected": "A fall.",
            **REASONS,
        },
        {
            "id": "4_1",
            "video": "video/gone",
            "prompt": "And here?",
            "chosen": "A leap.",
            "rejected": "Nothing.",
            **REASONS,
        },
    ]
    write_jsonl(folder / "dpo_pairs.jsonl", rows)
    write_zip(folder / "mcq.zip", {"mcq/000001.png": picture(1)})
    write_zip(folder / "long.zip", {"long/a.png": picture(2)})
    write_zip(folder / "short.zip", {"short/b.png": picture(3)})
    write_zip(folder / "safety.zip", {"safety/c.png": picture(4)})
    write_zip(folder / "video.zip", {f"video/-7_x/{i}.jpg": picture(10 * i, kind="JPEG") for i in range(20)})
    return Expected(
        groups=4,
        prompt=(("user", "<image>Which way does it point?"),),
        responses=("To the left.", "To the right."),
        preferences=(Preference(0, 1),),
        images=1,
        lost={"video_missing": 1},
    )
