"""LLaVA-Critic (arXiv 2410.02712), subset `pointwise`: a judge's prompt with one answer, and its score."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from basereward.data.adapters import check_columns
from basereward.data.adapters.ratings import RatedPairs, compare
from basereward.data.adapters.turns import read_turns
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
class _ScoredAnswer:
    """One row: a question, an answer, its score, and the template of the judge's prompt."""

    question: str
    answer: str
    score: float
    # The judge's prompt without the answer. It sets the scale, so only scores with the same template are comparable.
    template: str


class LLaVACriticPointwise:
    """Joins rows with the same judge's prompt and image, but different answers, into one group.

    Args:
        pairs: `all` uses every pair with unequal scores, `largest_gap` only the pair with the largest difference.
        margins: whether to use the difference of the scores as the margin; the scale differs between prompts.
        caption_prompt: the prompt for rows that rate a caption, which contain no question. null: these rows are
            rejected, with the reason `unknown_template`.
        scale: the lowest and the highest score. If given, scores also become ratings from 0 to 1, and rows with a score
            outside are rejected, with the reason `off_scale`.

    Raises:
        ValueError: the scale's first number is not below its second.

    >>> def row(answer, score):
    ...     prompt = f"Question: [Why?]\\nResponse: [{answer}]"
    ...     turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": f"Score: {score}"}]
    ...     return {"conversations": turns, "image": "1.png"}
    >>> rows = [row("So.", 20), row("Because of it.", 90)]
    >>> LLaVACriticPointwise(scale=[0, 100])(rows[0] | {"rows": rows})["preferences"]
    [[1, 0]]
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
            raise ValueError(f"scale is {scale}; expected the lowest and the highest score, such as [0, 100]")
        self.scale = scale

    def key(self, row: Mapping[str, Any]) -> str | None:
        """Compute the key of a row's group; None for a row that cannot be read, which then stays alone."""
        try:
            answer = self._read(row)
        except RowRejected:
            return None
        return json.dumps([answer.template, _identity(row["image"])])

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert joined rows to our general form.

        Raises:
            RowRejected: `unknown_template`, `unknown_verdict`, `several_rounds`, `single_response` (no other row has
                the same question), `equal_ratings`, `off_scale`.
        """
        answers = [self._read(member) for member in row["rows"]]
        if len(answers) == 1:
            raise RowRejected("single_response", "no other row rates an answer to the same question and image")
        rated = [(answer.answer, answer.score) for answer in answers]
        cells = compare(rated, pairs=self.pairs, margins=self.margins)
        if self.scale is not None:
            scores = dict(rated)
            cells["ratings"] = [self._rating(scores[response]) for response in cells["responses"]]
        return {"id": row.get("id"), "prompt": answers[0].question, "image": row["image"]} | cells

    def _rating(self, score: float) -> float:
        """Map a score to a rating from 0 to 1."""
        assert self.scale is not None
        lowest, highest = self.scale
        if not lowest <= score <= highest:
            raise RowRejected("off_scale", f"the score {score:g} is outside of the scale {lowest:g} to {highest:g}")
        return (score - lowest) / (highest - lowest)

    def _read(self, row: Mapping[str, Any]) -> _ScoredAnswer:
        check_columns(self, row)
        turns = read_turns(row["conversations"], column="conversations")
        if [turn["role"] for turn in turns] != ["user", "assistant"]:
            raise RowRejected(
                "several_rounds", f"`conversations` has {len(turns)} turns; one prompt and one verdict are needed"
            )
        prompt, verdict = (turn["content"] for turn in turns)
        match = QUESTION.search(prompt)
        if match is None and self.caption_prompt is not None:
            match = CAPTION.search(prompt)
        if match is None:
            raise RowRejected("unknown_template", f"no known template with a question and an answer in {shown(prompt)}")
        scores = SCORE.findall(verdict)
        if not scores:
            raise RowRejected("unknown_verdict", f"no score in {shown(verdict)}")
        question = match.groupdict().get("question") or self.caption_prompt or ""
        template = prompt[: match.start("answer")] + prompt[match.end("answer") :]
        # The last score counts, because a judge gives its conclusion at the end.
        return _ScoredAnswer(question, match["answer"], float(scores[-1]), template)


def _identity(image: object) -> str:
    """Hash the content or the path of an image."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    return hashlib.blake2b(image if isinstance(image, bytes) else str(image).encode()).hexdigest()
