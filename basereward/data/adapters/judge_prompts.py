"""What a judge was asked, and what it said -> a question, two answers, and which is better.

Sets for training judges hold a prompt to a judge, with question and answers inside of a template, and its verdict. The
templates and verdicts below were seen in public code that writes or reads such sets; a text that fits none of them is
lost, never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

Ties: TypeAlias = Literal["keep", "lost"]


def _template(before_question: str, before_first: str, before_second: str, end: str) -> re.Pattern[str]:
    """A pattern of what stands between the three texts, blanks around them aside."""
    texts = (
        rf"{before_question}\s*(?P<question>.*?)\s*{before_first}\s*(?P<first>.*?)\s*{before_second}\s*(?P<second>.*?)"
    )
    return re.compile(rf"{texts}\s*{end}", re.DOTALL)


TEMPLATES = (
    # LLaVA-Critic and UnifiedReward: each text in brackets, after its name
    _template(
        r"Question: \[",
        r"\]\s*\n\s*(?:The first response|Response [1A]): \[",
        r"\]\s*\n\s*(?:The second response|Response [2B]): \[",
        r"\]\s*(?:ASSISTANT:\s*)?\Z",
    ),
    # R1-Reward: a heading before each text, and one after the last
    _template(r"#+ \[Question\]:", r"#+ \[Response 1\]:", r"#+ \[Response 2\]:", r"#+ \*\*Output Format"),
    # arenas
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
# The clearest first: of the first that occurs its last place counts, since a judge sums up at the end.
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
SCORES = re.compile(r"\A\s*(?P<first>\d+(?:\.\d+)?)[ ,]+(?P<second>\d+(?:\.\d+)?)\s*(?:\n|\Z)")
FIRST = frozenset({"first", "1", "a"})


def read_pair(asked: object) -> tuple[str, str, str]:
    """Question, first and second answer.

    >>> read_pair("Judge!\\nQuestion: [Why?]\\nThe first response: [So.]\\nThe second response: [Because [of] it.]")
    ('Why?', 'So.', 'Because [of] it.')

    Raises:
        RowRejected: `unknown_template`.
    """
    if isinstance(asked, str):
        for template in TEMPLATES:
            if match := template.search(asked):
                return match["question"], match["first"], match["second"]
    raise RowRejected("unknown_template", f"question and answers are not found in {shown(asked)}")


def read_verdict(said: object) -> tuple[int, int]:
    """The ranks of both answers: (0, 1), (1, 0) or, of a tie, (0, 0).

    >>> read_verdict("It is short. The better response: [2]"), read_verdict("8 8\\nBoth are right.")
    ((1, 0), (0, 0))

    Raises:
        RowRejected: `unknown_verdict`.
    """
    if isinstance(said, str):
        if match := SCORES.match(said):
            first, second = float(match["first"]), float(match["second"])
            return int(first < second), int(second < first)
        for verdict in VERDICTS:
            if matches := list(verdict.finditer(said)):
                return _ranks(matches[-1].groupdict())
    raise RowRejected("unknown_verdict", f"which answer is better is not found in {shown(said)}")


def judged_cells(asked: object, said: object, *, ties: Ties) -> dict[str, Any]:
    """The cells `prompt`, `responses` and `ranking`.

    Raises:
        RowRejected: `unknown_template`, `unknown_verdict`, or `undecided` (a tie that is not to be kept).
    """
    question, *answers = read_pair(asked)
    ranks = read_verdict(said)
    if ranks == (0, 0) and ties == "lost":
        raise RowRejected("undecided", "the judge says that both are equally good")
    return {"prompt": question, "responses": answers, "ranking": list(ranks)}


def _ranks(found: Mapping[str, str | None]) -> tuple[int, int]:
    if found.get("tie"):
        return 0, 0
    return (0, 1) if str(found["which"]).lower() in FIRST else (1, 0)
