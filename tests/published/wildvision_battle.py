"""WildVision battles as published: a configuration of Parquet files with one split, `test`."""

from __future__ import annotations

from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import embedded, write_parquet

README = """---
configs:
- config_name: battle
  data_files:
  - split: test
    path: battle/test-*
---
"""


def talk(*said: str) -> list[dict[str, str]]:
    """A talk that the user begins."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def write(folder: Path) -> Expected:
    """B wins; a tie; both bad; two turns of one history, and of two; a vote that we do not know."""
    fights = [
        (talk("What is it?", "A jar."), talk("What is it?", "A cup."), "model_b"),
        (talk("What is it?", "A cup."), talk("What is it?", "It is a cup."), "tie"),
        (talk("Where?", "There."), talk("Where?", "Here."), "tie (bothbad)"),
        (talk("Is it?", "Yes.", "Why?", "So."), talk("Is it?", "Yes.", "Why?", "Thus."), "model_a"),
        (talk("Is it?", "Yes.", "Why?", "So."), talk("Is it?", "No.", "Why?", "Thus."), "model_a"),
        (talk("Who?", "You."), talk("Who?", "I."), "abstained"),
    ]
    rows = [
        {
            "question_id": f"q{i}",
            "model_a": "ours-a",
            "model_b": "ours-b",
            "conversation_a": a,
            "conversation_b": b,
            "language": "English",
            "image": embedded(i),
            "turn": len(a) // 2,
            "anony": True,
            "winner": winner,
            "tstamp": 1700000000 + i,
            "judge": "ours",
            "domain": "Urban",
        }
        for i, (a, b, winner) in enumerate(fights)
    ]
    (folder / "README.md").write_text(README)
    write_parquet(folder / "battle" / "test-00000-of-00001.parquet", rows, images=["image"])
    return Expected(
        groups=4,
        prompt=(("user", "<image>What is it?"),),
        responses=("A jar.", "A cup."),
        preferences=(Preference(1, 0),),
        images=1,
        lost={"prompts_differ": 1, "not_rated": 1},
    )
