"""Anthropic's hh-rlhf as published: packed JSON Lines of transcripts, by folder and part; one folder has no pairs."""

from __future__ import annotations

from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.helpsteer3 import pack

START = "\n\nHuman: Hello.\n\nAssistant: Hello! What is it?\n\nHuman: Name a colour.\n\nAssistant:"


def write(folder: Path) -> Expected:
    """Two talks that part at the last answer; one that parts before, one that ends with the human, one unanswered."""
    pack(
        folder / "helpful-base" / "train.jsonl.gz",
        [
            {"chosen": f"{START} Blue.", "rejected": f"{START} Seven."},
            {"chosen": f"{START} Red.\n\nHuman: Why?\n\nAssistant: So.", "rejected": f"{START} Five."},
            {"chosen": f"{START} Red.\n\nHuman: Thanks", "rejected": f"{START} Red.\n\nHuman: Thank you"},
        ],
    )
    pack(
        folder / "harmless-base" / "train.jsonl.gz",
        [
            {"chosen": "\n\nHuman: Why?\n\nAssistant: Who asks?", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
            {"chosen": "\n\nHuman: When?\n\nAssistant: Now.", "rejected": "\n\nHuman: When?\n\nAssistant:"},
        ],
    )
    pack(
        folder / "helpful-base" / "test.jsonl.gz",
        [{"chosen": "\n\nHuman: Where?\n\nAssistant: Here.", "rejected": "\n\nHuman: Where?\n\nAssistant: There."}],
    )
    pack(folder / "red-team-attempts" / "red_team_attempts.jsonl.gz", [{"transcript": "\n\nHuman: Hi", "rating": 4.0}])
    return Expected(
        groups=3,
        prompt=(("user", "Why?"),),
        responses=("Who asks?", "No."),
        preferences=(Preference(0, 1),),
        lost={"prompts_differ": 1, "bad_turns": 1, "empty_response": 1},
    )
