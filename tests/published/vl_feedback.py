"""VLFeedback as published: JSON Lines without paths, and an archive of pictures that are named by the rows' ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import picture, write_jsonl, write_zip

ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")


def completion(response: str, ratings: str) -> dict[str, Any]:
    """An answer with three ratings, such as "4 5 3"."""
    rated = zip(ASPECTS, ratings.split(), strict=True)
    annotations = {aspect: {"Rating": rating, "Rationale": "As it is."} for aspect, rating in rated}
    return {"annotations": annotations, "model": "ours", "response": response}


def row(name: str, prompt: str, **answers: str) -> dict[str, Any]:
    """One prompt, and its answers with their ratings."""
    completions = [completion(answer, ratings) for answer, ratings in answers.items()]
    return {"id": name, "prompt": prompt, "models": ["ours"] * len(completions), "completions": completions}


def write(folder: Path) -> Expected:
    """Means of 4, 3, 3 and 5; a completion that is not rated among three; two such of three; all means equal."""
    rows = [
        row("svit_1", "What is it?", cup="4 5 3", jar="3 5 1", pot="1 5 3", mug="5 5 5"),
        row("svit_2", "Where is it?", here="5 5 5", there="N/A 5 3", above="1 1 1"),
        row("svit_3", "Why?", so="5 5 5", thus="N/A 5 3", hence="3 5 N/A"),
        row("svit_4", "When?", now="5 3 4", then="4 4 4"),
    ]
    write_jsonl(folder / "vlfeedback_80k.jsonl", rows)
    write_zip(
        folder / "merged_images.zip", {f"merged_images/svit_{i}.jpg": picture(i, kind="JPEG") for i in range(1, 5)}
    )
    return Expected(
        groups=2,
        prompt=(("user", "<image>What is it?"),),
        responses=("cup", "jar", "pot", "mug"),
        preferences=(
            Preference(0, 1, margin=1.0),
            Preference(0, 2, margin=1.0),
            Preference(3, 0, margin=1.0),
            Preference(3, 1, margin=2.0),
            Preference(3, 2, margin=2.0),
        ),
        images=1,
        lost={"not_rated": 1, "equal_ratings": 1},
    )
