"""Evaluate a generative judge, which compares responses pair by pair, on the items of a benchmark."""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from basereward.data.encoding.branch_images import response_content
from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Group
from basereward.errors import DataError, SilentError
from basereward.evaluation.items import Item, Outcome
from basereward.evaluation.judging.answers import Answers
from basereward.evaluation.scoring import Bundle
from basereward.inference.judges.engine import Engine, Request
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.prompts import Prompt
from basereward.model.generation.round_robin import Order, ordered_pairs, scores
from basereward.model.generation.verdicts import parse_verdict

logger = logging.getLogger(__name__)

PairVerdicts: TypeAlias = Sequence[tuple[tuple[int, int], int | None]]
"""((first response, second response) as shown, the verdict: 1 or 2 for the better one; None: not readable), in the
order in which they were asked."""


@dataclass(frozen=True)
class Judge:
    """A judge, and how it is asked.

    Args:
        engine: generates the texts.
        prompt: the template, which shows both responses.
        writing: sampling parameters. Several votes need a temperature above 0.
        order: in which orders a pair is shown; each order is asked `votes` times.
        votes: 1 to 15.
        pattern: finds the verdict in a text; None: `<answer>1</answer>`.
        send: what the engine adds to every request, for the record.
        prompt_file: the user's own file of the prompt.
        trained: whether it is a trained judge that is itself evaluated.
        content: `judge_content` of a judge on this machine; None for one behind an address.
    """

    engine: Engine
    prompt: Prompt
    writing: SamplingParams
    order: Order = "random"
    votes: int = 1
    pattern: re.Pattern[str] | None = None
    send: str | None = None
    prompt_file: Path | None = None
    trained: bool = False
    content: str | None = None

    @property
    def label(self) -> str:
        """How it is asked, for the name of a folder: `both_1`, `random_5`."""
        return f"{self.order}_{self.votes}"

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that an answer depends on."""
        return {
            "judge": self.engine.name,
            "content": self.content,
            "prompt_sha256": self.prompt.sha256,
            "order": self.order,
            "votes": self.votes,
            "pattern": None if self.pattern is None else self.pattern.pattern,
            "send": self.send,
            "temperature": self.writing.temperature,
            "top_p": self.writing.top_p,
            "seed": self.writing.seed,
            "max_tokens": self.writing.max_tokens,
        }


class _Question(NamedTuple):
    """One request: two responses of an item, in the order shown."""

    row: int
    first: int
    second: int
    vote: int

    @property
    def id(self) -> str:
        # Part of saved files: a stopped evaluation finds its answers by it.
        return f"{self.row}/{self.first}/{self.second}/{self.vote}"


def judge_items(
    judge: Judge,
    items: Sequence[Item],
    *,
    images: ImageStore,
    journal: Path,
    header: Mapping[str, str],
    allow_partial: bool = False,
) -> tuple[dict[int, Outcome], dict[str, float]]:
    """Ask a judge about every item, resuming where an earlier call was stopped.

    The outcome of an item with two responses is its votes, None for a verdict that cannot be read. The outcome of an
    item with more responses is the scores of a round-robin, or one vote of None if a response has no readable verdict.

    Args:
        judge: the judge.
        items: what it is asked about.
        images: where the images are.
        journal: the file that keeps the answers.
        header: identifies the benchmark.
        allow_partial: leave out items with requests that were not answered.

    Returns:
        The outcomes by row, and the cost: `requests`, `answers`, `unread` (verdicts), `prompt_tokens` and `tokens`, and
        of this call `fresh` answers, `failed` requests and `seconds`.

    Raises:
        DataError: a request was not answered, or an item cannot be read, and `allow_partial` is not given. Answers that
            were received are kept.
    """
    questions = _all_questions(judge, items)
    with Answers(journal, header={**header, **judge.facts}) as answers:
        _ask_all(judge, items, answers, images=images, allow_partial=allow_partial)
    if answers.failed and not allow_partial:
        raise _unanswered(answers, len(questions))
    verdicts_by_row, missing, unread = _read_verdicts(questions, answers, judge.pattern)
    outcomes = {item.row: _outcome(item, verdicts_by_row[item.row]) for item in items if item.row not in missing}
    cost = answers.cost([question.id for question in questions])
    return outcomes, {"requests": len(questions), "unread": unread, **cost}


def compared(prompt: Prompt, group: Group, first: int, second: int, name: str) -> Request:
    """Make the request to compare two responses of a group. Images of a response are shown where its text is.

    Args:
        prompt: the template.
        group: the prompt and the responses, with their images.
        first: the index of the response shown first.
        second: the index of the response shown second.
        name: the id of the request.
    """
    shown = group.select([first, second])
    turns = prompt.turns(shown, answer_1=response_content(shown, 0), answer_2=response_content(shown, 1))
    return Request(name, turns, shown.all_images, shown)


def _unanswered(answers: Answers, requests: int) -> DataError:
    return DataError(
        f"{len(answers.failed)} of {requests} requests were not answered: {answers.failure_reasons()}. The others are "
        f"kept in '{answers.file}': call again to ask only these, or count without them by --allow-partial"
    )


def _questions(judge: Judge, item: Item, vote: int) -> Iterator[_Question]:
    for first, second in ordered_pairs(len(item.responses), judge.order, seed=f"{item.row}/{vote}"):
        yield _Question(item.row, first, second, vote)


def _all_questions(judge: Judge, items: Sequence[Item]) -> list[_Question]:
    questions: list[_Question] = []
    for vote in range(judge.votes):
        for item in items:
            questions += _questions(judge, item, vote)
    return questions


def _requests(judge: Judge, items: Sequence[Item], vote: int, *, images: ImageStore) -> Iterator[Request]:
    for item in items:
        bundle = Bundle(item)
        bundle.add(item)
        group = bundle.group(images)
        for question in _questions(judge, item, vote):
            # The group has equal responses once.
            places = bundle.places[item.row]
            yield compared(judge.prompt, group, places[question.first], places[question.second], question.id)


def _ask_all(judge: Judge, items: Sequence[Item], answers: Answers, *, images: ImageStore, allow_partial: bool) -> None:
    had_answers = bool(answers.known)
    total = len(_all_questions(judge, items)) // judge.votes
    for vote in range(judge.votes):
        # Engines that draw from the seed of a request would answer an equal prompt with an equal seed by an equal text.
        how = replace(judge.writing, seed=judge.writing.seed + vote)
        try:
            # `ask` keeps the answers; nothing is done with each.
            for _ in answers.ask(judge.engine, _requests(judge, items, vote, images=images), how, total=total):
                pass
        except SilentError:
            if not (allow_partial and had_answers):
                raise
            logger.warning("nothing more is answered; counting what there is")
            return


def _read_verdicts(
    questions: Sequence[_Question], answers: Answers, pattern: re.Pattern[str] | None
) -> tuple[Mapping[int, PairVerdicts], set[int], int]:
    """The verdicts by row, the rows with an unanswered question, and the number of texts without a readable verdict."""
    verdicts: dict[int, list[tuple[tuple[int, int], int | None]]] = defaultdict(list)
    missing: set[int] = set()
    unread = 0
    for question in questions:
        line = answers.known.get(question.id)
        if line is None:
            missing.add(question.row)
            continue
        verdict = parse_verdict(line["text"], pattern)
        unread += verdict is None
        verdicts[question.row].append(((question.first, question.second), verdict))
    return verdicts, missing, unread


def _outcome(item: Item, verdicts: PairVerdicts) -> Outcome:
    if len(item.responses) == 2:
        return Outcome(votes=tuple(None if verdict is None else pair[verdict - 1] for pair, verdict in verdicts))
    # A verdict of 1 is a win of the first response (+1), a verdict of 2 a loss (-1).
    leads: dict[tuple[int, int], list[float | None]] = defaultdict(list)
    for pair, verdict in verdicts:
        leads[pair].append(_lead(verdict))
    values = scores(len(item.responses), leads)
    return Outcome(votes=(None,)) if any(map(math.isnan, values)) else Outcome(scores=tuple(values))


def _lead(verdict: int | None) -> float | None:
    return None if verdict is None else 3.0 - 2.0 * verdict
