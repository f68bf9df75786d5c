"""UnifiedReward's LLaVA-Critic as its repository describes it: a JSON list, and folders of pictures beside it."""

from __future__ import annotations

import json
from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import picture, write_files


def row(question: str, first: str, second: str, verdict: str, *, images: list[str]) -> dict[str, object]:
    """A talk with the judge."""
    asked = (
        "<image>\nReview the responses by five factors.\nYour task is provided as follows:\n"
        f"Question: [{question}]\nThe first response: [{first}]\nThe second response: [{second}]\n"
    )
    return {
        "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": verdict}],
        "images": images,
    }


def write(folder: Path) -> Expected:
    """Verdicts in three wordings, and a judge that says nothing of the answers."""
    both = "The first response is better in style, but the second response is better."
    rows = [
        row("What is it?", "A cup.", "A jar.", both, images=["images/1.png"]),
        row("What is it?", "A cup.", "A mug.", "Answer 1 is better", images=["images/1.png"]),
        row("Where is it?", "Here.", "There.", "The second response is better: it is there.", images=["images/2.png"]),
        row("Where is it?", "Here.", "There.", "Sorry.", images=["images/2.png"]),
    ]
    (folder / "pairwise").mkdir()
    (folder / "pairwise" / "train_data.json").write_text(json.dumps(rows))
    write_files(folder, {f"images/{i}.png": picture(i) for i in (1, 2)})
    return Expected(
        groups=3,
        prompt=(("user", "<image>What is it?"),),
        responses=("A cup.", "A jar."),
        preferences=(Preference(1, 0),),
        images=1,
        lost={"unknown_verdict": 1},
    )
