"""Prompts and verdicts of judge models: what is extracted, and what is rejected instead of guessed."""

from __future__ import annotations

import pytest

from basereward.data.adapters.judge_prompts import judged_cells, read_pair, read_verdict
from basereward.data.schema.rejections import RowRejected

BRACKETS = "Judge.\nQuestion: [Q?]\n{}: [one\ntwo]\n{}: [three]"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (BRACKETS.format("The first response", "The second response"), ("Q?", "one\ntwo", "three")),
        (BRACKETS.format("Response 1", "Response 2") + "\nASSISTANT:\n", ("Q?", "one\ntwo", "three")),
        (BRACKETS.format("Response A", "Response B"), ("Q?", "one\ntwo", "three")),
        (
            "###### [Question]:\nQ?  \n\n###### [Response 1]:\n[one]  \n\n###### [Response 2]:\ntwo\n\nthree  \n\n"
            "###### **Output Format (strictly follow):**  \n<answer>1/2</answer>",
            ("Q?", "[one]", "two\n\nthree"),
        ),
        (
            "<|User Prompt|>\nQ?\n\n<|The Start of Assistant A's Answer|>\none\n<|The End of Assistant A's Answer|>\n\n"
            "<|The Start of Assistant B's Answer|>\ntwo\n<|The End of Assistant B's Answer|>",
            ("Q?", "one", "two"),
        ),
        (
            "[Context]\nIt.\n[Question]\nQ?\n\n[Assistant 1]\none\n\n[End of Assistant 1]\n\n[Assistant 2]\ntwo\n\n"
            "[End of Assistant 2]\n\nRate them.",
            ("Q?", "one", "two"),
        ),
    ],
)
def test_read_pair_supports_every_template(prompt: str, expected: tuple[str, str, str]) -> None:
    """Brackets and line breaks inside the texts are kept."""
    assert read_pair(prompt) == expected


@pytest.mark.parametrize(
    ("verdict", "ranks"),
    [
        ("The better response: [1]", (0, 1)),
        ("Well. The better response: [second]", (1, 0)),
        ("The better answer: Response B.", (1, 0)),
        ("<think>Response 1 is better at first.</think><answer>2</answer>", (1, 0)),
        ("My final verdict is: [[A>>B]]", (0, 1)),
        ("First [[A>B]], and yet: [[B>A]]", (1, 0)),
        ("[[A=B]]", (0, 0)),
        ("[[B]]", (1, 0)),
        ("Answer 2 is slightly better", (1, 0)),
        ("Response 1 is better in style. All in all Response 2 is better.", (1, 0)),
        ("Both are equally good.", (0, 0)),
        ("7 9\nThe second has more.", (1, 0)),
        ("8.5 8.5", (0, 0)),
    ],
)
def test_read_verdict_supports_every_wording(verdict: str, ranks: tuple[int, int]) -> None:
    """The last match in a text decides."""
    assert read_verdict(verdict) == ranks


@pytest.mark.parametrize(
    "verdict", ["", "The better response is a short one.", "I like both.", "Score: 80", "<answer>3</answer>", None, 1]
)
def test_unclear_verdict_is_rejected(verdict: object) -> None:
    """The article "a" is not answer A, and a single score is not a comparison."""
    with pytest.raises(RowRejected) as caught:
        read_verdict(verdict)
    assert caught.value.reason == "unknown_verdict"


def test_text_after_the_second_answer_rejects_the_row() -> None:
    """A prompt that continues after the expected end has another template."""
    with pytest.raises(RowRejected) as caught:
        read_pair(BRACKETS.format("Response 1", "Response 2") + "\nAnswer with [1] or [2].")
    assert caught.value.reason == "unknown_template"


def test_ties_are_kept_or_rejected() -> None:
    """The argument `ties` decides."""
    prompt = BRACKETS.format("Response 1", "Response 2")
    assert judged_cells(prompt, "They are equally good.", ties="keep")["ranking"] == [0, 0]
    with pytest.raises(RowRejected) as caught:
        judged_cells(prompt, "They are equally good.", ties="lost")
    assert caught.value.reason == "undecided"
