"""Prompts of judges: their fields, the positions of images, and errors in a user's prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from basereward.data.schema.group import IMAGE, Part, Turn
from basereward.model.generation.prompts import PAIRWISE, POINTWISE, REQUEST, Prompt, load_prompt
from tests.helpers.support import group

SHIPPED = {
    "pairwise_verdict": PAIRWISE,
    "pairwise_thinking": PAIRWISE,
    "pairwise_brief": PAIRWISE,
    "pointwise_rating": POINTWISE,
    "rating_brief": POINTWISE,
    "critique": REQUEST,
    "critique_brief": REQUEST,
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_prompts_are_valid(name: str) -> None:
    """Every shipped prompt loads with its fields and has a hash of its own."""
    prompts = {key: load_prompt(key, fields=fields) for key, fields in SHIPPED.items()}
    assert prompts[name].text
    assert [prompt.sha256 for prompt in prompts.values()].count(prompts[name].sha256) == 1


def test_images_keep_their_positions() -> None:
    """The question keeps its own parts, with images, in their order."""
    prompt = Prompt("p", "Q: {question} A: {answer_1} B: {answer_2}!")
    image_group = group("Which?", images=2)
    (turn,) = prompt.turns(image_group, answer_1="{question}", answer_2="two")
    assert turn == Turn("user", (Part("Q: "), IMAGE, IMAGE, Part("Which? A: {question} B: two!")))
    (prefix_turn,) = prompt.turns(image_group)
    assert prefix_turn.parts[-1] == Part("Which? A: ")


def test_several_turns_are_written_with_roles() -> None:
    """A conversation of several turns is written with roles; a single user turn is used as it is."""
    earlier_turns = (Turn("user", (Part("Hello."),)), Turn("assistant", (Part("Yes?"),)))
    (turn,) = Prompt("p", "{question}\n{answer}").turns(group("Say.", turns=earlier_turns), answer="I")
    assert turn.parts == (Part("User: Hello.\nAssistant: Yes?\nUser: Say.\nI"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{question} {answer_1}", r"needed: \{question\} then \{answer_1\} then \{answer_2\}"),
        ("{question} {answer_2} {answer_1}", "once each"),
        ("{question} {answer_1} {answer_2} {answer_2}", "once each"),
        ("{image} {question} {answer_1} {answer_2}", r"has the fields \{image\}"),
    ],
)
def test_prompt_with_other_fields_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """The message lists the fields that were found and the required ones."""
    file = tmp_path / "mine.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_prompt("pairwise_verdict", file, fields=PAIRWISE)


def test_unknown_prompt_error_lists_matching_prompts() -> None:
    """The message suggests prompts with the same fields and none with other fields."""
    with pytest.raises(ValueError, match="pairwise_verdict") as excinfo:
        load_prompt("pairwise_verdct", fields=PAIRWISE)
    assert "critique" not in str(excinfo.value)
