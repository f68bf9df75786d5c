"""LLaVA-Critic, `pointwise`: a prompt to a judge with one answer inside, and the judge's score for it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from basereward.data.adapters import check_columns
from basereward.data.adapters.turns import read_turns
from basereward.data.adapters.ratings import RatedPairs, compare
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

QUESTION = re.compile(
    r"Question: \[\s*(?P<question>.*?)\s*\]\s*\n\s*(?:The LMM response|The response|Response|Answer): "
    r"\[\s*(?P<answer>.*?)\s*\]\s*(?:ASSISTANT:\s*)?\Z",
    re.DOTALL,
)
CAPTION = re.compile(r"Text Caption:\s*(?P<answer>.*?)\s*\n\s*From 0 to 100", re.DOTALL)
SCORE = re.compile(r"\b(?:score|rating)\s*:\s*\[?(\d+(?:\.\d+)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Rated:
    question: str
    answer: str
    score: float
    around: str  # the prompt to the judge without the answer: scores of other scales must not be compared


class LLaVACriticPointwise:
    """Rows that ask the judge the same about one picture, for other answers, make one group.

    Args:
        pairs: `all` of unequal scores, or only the one of the `largest_gap`, of equals the first.
        margins: whether the difference of the scores is given as the margin; scales differ from prompt to prompt.
        caption_prompt: the prompt of the answers for rows that rate a caption, which hold no question; null: these rows
            are lost, under `unknown_template`.
        scale: the lowest and the highest score; with it, scores are given as ratings too, from 0 to 1, and rows with
            another score are lost, as `off_scale`.

    Raises:
        ValueError: the scale's first number is not below its second.
    """

    columns: tuple[str, ...] = ("conversations", "image")

    def __init__(
        self,
        *,
        pairs: RatedPairs = "all",
        margins: bool = False,
        caption_prompt: str | None = None,
        scale: list[float] | None = None,
    ) -> None:
        self.pairs = pairs
        self.margins = margins
        self.caption_prompt = caption_prompt
        if scale is not None and (len(scale) != 2 or scale[0] >= scale[1]):
            raise ValueError(f"scale is the lowest and the highest score, such as [0, 100]; {scale} given")
        self.scale = scale

    def key(self, row: Mapping[str, Any]) -> str | None:
        try:
            rated = self._read(row)
        except RowRejected:
            return None
        return json.dumps([rated.around, _identity(row["image"])])

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `unknown_template`, `unknown_verdict`, `several_rounds`, `single_response` (no other row has
                the same question), `equal_ratings`, `off_scale`.
        """
        rated = [self._read(one) for one in row["rows"]]
        if len(rated) == 1:
            raise RowRejected("single_response", "no other row rates an answer to the same question and picture")
        scores = [(one.answer, one.score) for one in rated]
        compared = compare(scores, pairs=self.pairs, margins=self.margins)
        if self.scale is not None:
            given = dict(scores)
            compared["ratings"] = [self._rating(given[answer]) for answer in compared["responses"]]
        return {"id": row.get("id"), "prompt": rated[0].question, "image": row["image"]} | compared

    def _rating(self, score: float) -> float:
        assert self.scale is not None
        lowest, highest = self.scale
        if not lowest <= score <= highest:
            raise RowRejected("off_scale", f"the score {score:g} is not on the scale of {lowest:g} to {highest:g}")
        return (score - lowest) / (highest - lowest)

    def _read(self, row: Mapping[str, Any]) -> _Rated:
        check_columns(self, row)
        turns = read_turns(row["conversations"], column="conversations")
        if [turn["role"] for turn in turns] != ["user", "assistant"]:
            raise RowRejected(
                "several_rounds", f"`conversations` has {len(turns)} turns; a question and a score are needed"
            )
        asked, said = (turn["content"] for turn in turns)
        match = QUESTION.search(asked) or (CAPTION.search(asked) if self.caption_prompt is not None else None)
        if match is None:
            raise RowRejected("unknown_template", f"question and answer are not found in {shown(asked)}")
        scores = SCORE.findall(said)
        if not scores:
            raise RowRejected("unknown_verdict", f"no score is found in {shown(said)}")
        question = match.groupdict().get("question") or self.caption_prompt or ""
        around = asked[: match.start("answer")] + asked[match.end("answer") :]
        return _Rated(question, match["answer"], float(scores[-1]), around)


def _identity(image: object) -> str:
    """What makes two pictures the same: their content, or their path."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    return hashlib.blake2b(image if isinstance(image, bytes) else str(image).encode()).hexdigest()
