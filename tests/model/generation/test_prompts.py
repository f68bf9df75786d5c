"""Prompts of judges: fields, pictures in their places, and what is wrong with a user's own."""

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
def test_shipped_prompts_have_their_fields(name: str) -> None:
    """And a hash that tells them apart."""
    prompts = {each: load_prompt(each, fields=fields) for each, fields in SHIPPED.items()}
    assert prompts[name].text
    assert [each.sha256 for each in prompts.values()].count(prompts[name].sha256) == 1


def test_pictures_stay_in_their_places() -> None:
    """The question is the prompt's own parts, in order."""
    prompt = Prompt("p", "Q: {question} A: {answer_1} B: {answer_2}!")
    asked = group("Which?", images=2)
    (turn,) = prompt.turns(asked, answer_1="{question}", answer_2="two")
    assert turn == Turn("user", (Part("Q: "), IMAGE, IMAGE, Part("Which? A: {question} B: two!")))
    (opening,) = prompt.turns(asked)
    assert opening.parts[-1] == Part("Which? A: ")


def test_several_turns_are_told_with_their_roles() -> None:
    """One user turn alone is told as it is."""
    before = (Turn("user", (Part("Hello."),)), Turn("assistant", (Part("Yes?"),)))
    (turn,) = Prompt("p", "{question}\n{answer}").turns(group("Say.", turns=before), answer="I")
    assert turn.parts == (Part("User: Hello.\nAssistant: Yes?\nUser: Say.\nI"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{question} {answer_1}", r"needed: \{question\} then \{answer_1\} then \{answer_2\}"),
        ("{question} {answer_2} {answer_1}", "once each"),
        ("{question} {answer_1} {answer_2} {answer_2}", "once each"),
        ("{image} {question} {answer_1} {answer_2}", r"has the fields \{image\}"),
    ],
)
def test_a_prompt_with_other_fields_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """The message lists those found and those needed."""
    file = tmp_path / "mine.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        load_prompt("pairwise_verdict", file, fields=PAIRWISE)


def test_an_unknown_prompt_names_those_that_fit() -> None:
    """Not those with other fields."""
    with pytest.raises(ValueError, match="pairwise_verdict") as told:
        load_prompt("pairwise_verdct", fields=PAIRWISE)
    assert "critique" not in str(told.value)
