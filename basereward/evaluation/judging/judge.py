"""A judge that compares answers pair by pair, on a benchmark."""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Group
from basereward.errors import DataError, SilentError
from basereward.evaluation.items import Item, Outcome
from basereward.evaluation.judging.answers import Answers
from basereward.evaluation.scoring import Bundle
from basereward.inference.judges.engine import Engine, Request
from basereward.model.generation.generate import Writing
from basereward.model.generation.prompts import Prompt
from basereward.model.generation.round_robin import Order, ordered_pairs, scores
from basereward.model.generation.verdicts import parse_verdict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judge:
    """Who judges, and how.

    Args:
        engine: what writes.
        prompt: with both answers.
        order: in which orders a pair is shown; each is asked `votes` times.
        votes: 1 to 15; above 1 the temperature of `writing` is above 0.
        pattern: that finds a verdict, where it is not `<answer>1</answer>`.
        send: what the engine sends with every request, for records.
        prompt_file: that the prompt was read from, where it is a user's own.
    """

    engine: Engine
    prompt: Prompt
    writing: Writing
    order: Order = "random"
    votes: int = 1
    pattern: re.Pattern[str] | None = None
    send: str | None = None
    prompt_file: Path | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What an answer depends on."""
        pattern = None if self.pattern is None else self.pattern.pattern
        told = {"judge": self.engine.name, "prompt_sha256": self.prompt.sha256, "order": self.order}
        written = {"temperature": self.writing.temperature, "max_tokens": self.writing.max_tokens}
        return told | {"votes": self.votes, "pattern": pattern, "send": self.send} | written


def judge_items(
    judge: Judge,
    items: Sequence[Item],
    *,
    images: ImageStore,
    journal: Path,
    of: Mapping[str, str],
    allow_partial: bool = False,
) -> tuple[dict[int, Outcome], dict[str, float]]:
    """The outcome of every item, and what it cost.

    Of two answers an outcome is the votes, None where a verdict could not be read; of more it is the scores of a
    round-robin, or no vote where an answer has none. Goes on where an earlier call was stopped.

    Returns:
        outcomes by row; `requests`, `answers`, `unread` (verdicts), `prompt_tokens`, `tokens`, and of this call
        `fresh` answers, `failed` and `seconds`.

    Raises:
        DataError: a request was not answered, or an item cannot be read, and `allow_partial` is not given. What was
            answered is kept.
    """
    asked = [
        (item.row, *pair, vote) for vote in range(judge.votes) for item in items for pair in _shown(judge, item, vote)
    ]
    with Answers(journal, of={**of, **judge.facts}) as answers:
        _ask_all(judge, items, answers, images=images, allow_partial=allow_partial)
    if answers.failed and not allow_partial:
        reasons = "; ".join(sorted({each.reason for each in answers.failed})[:3])
        raise DataError(
            f"{len(answers.failed)} of {len(asked)} requests were not answered: {reasons}. The others are kept in "
            f"'{journal}': call again to ask only these, or count without them by --allow-partial"
        )
    found: dict[int, dict[tuple[int, int], list[int | None]]] = defaultdict(lambda: defaultdict(list))
    missing, unread = set(), 0
    for row, first, second, vote in asked:
        line = answers.known.get(_id(row, first, second, vote))
        if line is None:
            missing.add(row)
            continue
        verdict = parse_verdict(line["text"], judge.pattern)
        unread += verdict is None
        found[row][first, second].append(verdict)
    outcomes = {item.row: _outcome(item, found[item.row]) for item in items if item.row not in missing}
    cost = answers.cost([_id(*key) for key in asked])
    return outcomes, {"requests": len(asked), "unread": unread, **cost}


def _ask_all(judge: Judge, items: Sequence[Item], answers: Answers, *, images: ImageStore, allow_partial: bool) -> None:
    kept = bool(answers.known)
    for vote in range(judge.votes):
        # The same prompt with the same seed would be the same text, wherever draws follow the seed of a request.
        how = replace(judge.writing, seed=judge.writing.seed + vote)
        try:
            for _ in answers.ask(judge.engine, _requests(judge, items, vote, images=images), how):
                pass
        except SilentError:
            if not (allow_partial and kept):
                raise
            logger.warning("nothing more is answered; counting what there is")
            return


def _shown(judge: Judge, item: Item, vote: int) -> list[tuple[int, int]]:
    return ordered_pairs(len(item.responses), judge.order, seed=f"{item.row}/{vote}")


def _id(row: int, first: int, second: int, vote: int) -> str:
    return f"{row}/{first}/{second}/{vote}"


def _requests(judge: Judge, items: Sequence[Item], vote: int, *, images: ImageStore) -> Iterator[Request]:
    for item in items:
        bundle = Bundle(item)
        bundle.add(item)
        group = bundle.group(images)
        for first, second in _shown(judge, item, vote):
            yield compared(
                judge.prompt, group, item.responses[first], item.responses[second], _id(item.row, first, second, vote)
            )


def compared(prompt: Prompt, group: Group, first: str, second: str, name: str) -> Request:
    """The request to compare two answers to a group's prompt."""
    return Request(name, prompt.turns(group, answer_1=first, answer_2=second), group.images)


def _outcome(item: Item, found: Mapping[tuple[int, int], Sequence[int | None]]) -> Outcome:
    if len(item.responses) == 2:
        votes = [None if each is None else pair[each - 1] for pair, verdicts in found.items() for each in verdicts]
        return Outcome(votes=tuple(votes))
    leads = {pair: [None if v is None else 3.0 - 2.0 * v for v in verdicts] for pair, verdicts in found.items()}
    values = scores(len(item.responses), leads)
    return Outcome(votes=(None,)) if any(map(math.isnan, values)) else Outcome(scores=tuple(values))
