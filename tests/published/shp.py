"""Stanford Human Preferences as published: JSON Lines named .json, by subreddit and part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import write_jsonl


def row(post: str, a: str | None, b: str, label: int) -> dict[str, Any]:
    """A pair of comments with all that stands beside them. `label` 1: A is preferred."""
    scores = (30, 12) if label else (12, 30)
    return {
        "post_id": post[:6], "domain": "askculinary_train", "upvote_ratio": 0.98, "history": post,
        "c_root_id_A": "a1", "c_root_id_B": "b1", "created_at_utc_A": 1636107557, "created_at_utc_B": 1636108244,
        "score_A": scores[0], "score_B": scores[1], "human_ref_A": a, "human_ref_B": b,
        "labels": label, "seconds_difference": 687.0, "score_ratio": 2.5,
    }  # fmt: skip


def write(folder: Path) -> Expected:
    """Two subreddits; of six pairs one has an answer equal to its rival and one has none."""
    why = "Why does bread rise?"
    write_jsonl(
        folder / "askculinary" / "train.json", [row(why, "Magic.", "Yeast.", 0), row(why, "Yeast.", "Heat.", 1)]
    )
    write_jsonl(
        folder / "askphysics" / "train.json",
        [row("What is heat?", "Motion.", "Motion.", 1), row("What is cold?", None, "Little motion.", 0)],
    )
    for part in ("validation", "test"):
        write_jsonl(folder / "askculinary" / f"{part}.json", [row(f"Is salt a spice? ({part})", "No.", "Yes.", 1)])
    return Expected(
        groups=4,
        prompt=(("user", why),),
        responses=("Yeast.", "Magic."),
        preferences=(Preference(0, 1),),
        lost={"identical_responses": 1, "null_response": 1},
    )
