"""LLaVA-Critic's scores as published: each row has one answer and its score."""

from __future__ import annotations

from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.llava_critic_pairwise import write_configuration


def ask(question: str, answer: str, *, scale: str = "out of 100") -> str:
    """The prompt to the judge."""
    return f"<image>\nScore the response {scale}.\nQuestion: [{question}]\nThe LMM response: [{answer}]"


def write(folder: Path) -> Expected:
    """Three answers to one question, not one after the other; the same on another scale and about another picture; two
    equal scores; a caption without a question."""
    talks = [
        (1, ask("What is it?", "A cup."), "It is right.\nScore: 90"),
        (2, ask("What is it?", "A jar."), "It is right.\nScore: 80"),
        (1, ask("What is it?", "A jar."), "It is wrong.\nScore: 20"),
        (1, ask("What is it?", "A mug.", scale="from 1 to 10"), "Nearly.\nScore: 8"),
        (1, ask("What is it?", "A red cup."), "Score for colour: 100. It is right.\nScore: 90"),
        (3, ask("How many?", "Two."), "Rating: 50"),
        (3, ask("How many?", "2"), "Rating: 50.0"),
        (4, "<image>\nText Caption: A cup.\nFrom 0 to 100, how good is it?", "Final Score: 70"),
    ]
    write_configuration(folder, "pointwise", talks)
    write_configuration(folder, "pairwise", talks[:1])
    return Expected(
        groups=1,
        prompt=(("user", "<image>What is it?"),),
        responses=("A cup.", "A jar.", "A red cup."),
        preferences=(Preference(0, 1), Preference(2, 1)),
        images=1,
        lost={"single_response": 2, "equal_ratings": 1, "unknown_template": 1},
    )
