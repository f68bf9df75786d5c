"""Parses a judge's prompt and verdict into a question, two answers and their ranking.

A row of a data set for training judges contains the prompt to the judge, which is a template with the question and the
answers in it, and the verdict of the judge. The templates and verdicts below are those of public code that writes or
reads such data sets. A row that matches none of them is rejected, because a guess could swap winner and loser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

# `lost` is the word of recipes for rejected rows.
Ties: TypeAlias = Literal["keep", "lost"]


def _template(before_question: str, before_first: str, before_second: str, end: str) -> re.Pattern[str]:
    """Compile the regular expression of a template.

    Args:
        before_question, before_first, before_second: the patterns before the question and the two answers.
        end: the pattern after the second answer.

    Returns:
        A pattern with the groups `question`, `first` and `second`, without whitespace around them.
    """
    # `.*?` is lazy, so that each text ends at the first occurrence of the next marker.
    texts = (
        rf"{before_question}\s*(?P<question>.*?)\s*{before_first}\s*(?P<first>.*?)\s*{before_second}\s*(?P<second>.*?)"
    )
    return re.compile(rf"{texts}\s*{end}", re.DOTALL)


TEMPLATES = (
    # LLaVA-Critic and UnifiedReward: a label and the text in brackets
    _template(
        r"Question: \[",
        r"\]\s*\n\s*(?:The first response|Response [1A]): \[",
        r"\]\s*\n\s*(?:The second response|Response [2B]): \[",
        r"\]\s*(?:ASSISTANT:\s*)?\Z",
    ),
    # R1-Reward: a heading before each text and after the last one
    _template(r"#+ \[Question\]:", r"#+ \[Response 1\]:", r"#+ \[Response 2\]:", r"#+ \*\*Output Format"),
    # Chatbot arenas
    _template(
        r"<\|User Prompt\|>",
        r"<\|The Start of Assistant A's Answer\|>",
        r"<\|The End of Assistant A's Answer\|>\s*<\|The Start of Assistant B's Answer\|>",
        r"<\|The End of Assistant B's Answer\|>",
    ),
    # LLaVA-Bench
    _template(
        r"\[Question\]",
        r"\[Assistant 1\]",
        r"\[End of Assistant 1\]\s*\[Assistant 2\]",
        r"\[End of Assistant 2\]",
    ),
)
# Ordered from the least to the most ambiguous pattern. The first pattern that matches decides, by its last match,
# because a judge gives its conclusion at the end.
VERDICTS = (
    re.compile(r"<answer>\s*(?P<which>[12])\s*</answer>"),
    re.compile(r"\[\[(?:(?P<tie>A=B|C)|(?P<which>[AB])(?:>+[AB])?)\]\]"),
    re.compile(
        r"better (?:response|answer)(?: is)?: *\[?(?:Response |Answer )?(?P<which>first|second|1|2|A|B)\b", re.I
    ),
    re.compile(r"\b(?:Answer|Response|Image|Video) (?P<which>1|2|A|B) is (?:slightly )?better"),
    re.compile(r"\bthe (?P<which>first|second) (?:response|answer) is (?:slightly )?better", re.I),
    re.compile(r"(?P<tie>equally (?:good|bad))"),
)
# Two numbers in the first line, the format of LLaVA-Bench. Elsewhere in a text, numbers may be anything.
SCORES = re.compile(r"\A\s*(?P<first>\d+(?:\.\d+)?)[ ,]+(?P<second>\d+(?:\.\d+)?)\s*(?:\n|\Z)")
# The words of a verdict, in lower case, for the first answer.
FIRST = frozenset({"first", "1", "a"})


def read_pair(prompt: object) -> tuple[str, str, str]:
    """Extract the question, the first and the second answer from a judge's prompt.

    Raises:
        RowRejected: `unknown_template`.

    >>> read_pair("Judge!\\nQuestion: [Why?]\\nThe first response: [So.]\\nThe second response: [Because [of] it.]")
    ('Why?', 'So.', 'Because [of] it.')
    """
    if isinstance(prompt, str):
        for template in TEMPLATES:
            if match := template.search(prompt):
                return match["question"], match["first"], match["second"]
    raise RowRejected("unknown_template", f"no known template with a question and two answers in {shown(prompt)}")


def read_verdict(verdict: object) -> tuple[int, int]:
    """Parse a judge's verdict.

    Returns:
        The ranks of the two answers: (0, 1), (1, 0), or (0, 0) for a tie.

    Raises:
        RowRejected: `unknown_verdict`.

    >>> read_verdict("It is short. The better response: [2]"), read_verdict("8 8\\nBoth are right.")
    ((1, 0), (0, 0))
    """
    if isinstance(verdict, str):
        # Scores come first, because the reasoning after them may say which answer is better in some respect.
        if match := SCORES.match(verdict):
            first, second = float(match["first"]), float(match["second"])
            return int(first < second), int(second < first)
        for pattern in VERDICTS:
            if matches := list(pattern.finditer(verdict)):
                return _ranks(matches[-1].groupdict())
    raise RowRejected("unknown_verdict", f"no verdict on which answer is better in {shown(verdict)}")


def judged_cells(prompt: object, verdict: object, *, ties: Ties) -> dict[str, Any]:
    """Build the cells `prompt`, `responses` and `ranking` from a judge's prompt and verdict.

    Args:
        prompt: the prompt to the judge.
        verdict: the judge's answer.
        ties: `keep` returns equal ranks for a tie, `lost` rejects the row.

    Raises:
        RowRejected: `unknown_template`, `unknown_verdict`, or `undecided` (a tie with `ties="lost"`).

    >>> judged_cells("Question: [1 + 1?]\\nResponse 1: [2]\\nResponse 2: [3]", "[[A]]", ties="keep")
    {'prompt': '1 + 1?', 'responses': ['2', '3'], 'ranking': [0, 1]}
    """
    question, *answers = read_pair(prompt)
    ranks = read_verdict(verdict)
    if ranks == (0, 0) and ties == "lost":
        raise RowRejected("undecided", "the judge rates both answers as equally good")
    return {"prompt": question, "responses": answers, "ranking": list(ranks)}


def _ranks(verdict: Mapping[str, str | None]) -> tuple[int, int]:
    """Convert the named groups of a verdict's match to ranks."""
    if verdict.get("tie"):
        return 0, 0
    return (0, 1) if str(verdict["which"]).lower() in FIRST else (1, 0)
