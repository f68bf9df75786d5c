"""The reward of a pairwise judge: how many of the other rollouts of its prompt a rollout beats."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Interval

from basereward.data.encoding.content_hash import group_content
from basereward.data.schema.group import Group
from basereward.errors import SilentError
from basereward.inference.judges.engine import Engine, Failed, Request, content_name
from basereward.inference.judges.open_engine import open_engine
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.prompts import PAIRWISE, load_prompt
from basereward.model.generation.verdicts import parse_verdict
from basereward.rl.rewards.contracts import LogMetric, PolicyReward, ScoredPrompt

logger = logging.getLogger(__name__)

Wins = Mapping[tuple[int, int], bool]
"""(text shown first, text shown second) -> whether the judge prefers the first; unread verdicts are left out."""


class JudgeSumReward(PolicyReward):
    """R(y_i) = sum over j of S(y_i, y_j), with S = 1 if the judge prefers y_i, which it is shown first, else 0.

    It is how R1-Reward is used as a reward in BaseReward (arXiv 2509.16127, Table 11): 56 ordered pairs of eight
    rollouts. Every rollout is shown first as often as the others. Equal texts are not compared; each counts 1/2 against
    the other. A verdict that cannot be read, or a request that fails, is counted and replaced by the mean of the other
    comparisons of the rollout. A rollout without any verdict has no reward.

    Args:
        model: a generative judge: its name at an endpoint, or a hub id or folder.
        endpoint: an address, or `local` or `vllm`, both in this process.
        prompt: name of a file in `basereward/model/prompts`.
        prompt_file: a text file with the prompt, instead of `prompt`.
        max_tokens: limit of a judge's text.
        temperature: of its sampling; 0 is greedy.
        concurrency: requests in flight, for an address.
        patience: the training stops after this many calls in succession without any answer of the judge.

    Attributes:
        counts: of `requests`, `unread` verdicts and `failed` requests, since the start.

    Raises:
        ModelError: the judge cannot be opened.
        ValueError: there is no such prompt, or its fields are not those of a pairwise prompt.
    """

    # Greedy answers have these measures; a recipe may monitor them. Read from the text of the class.
    monitored: ClassVar[tuple[str, ...]] = ("exact_match",)

    __name__ = "judge_sum"

    def __init__(
        self,
        *,
        model: str,
        endpoint: str = "local",
        prompt: str = "pairwise_thinking",
        prompt_file: str | None = None,
        max_tokens: Annotated[int, Interval(ge=1, le=131_072)] = 1024,
        temperature: Annotated[float, Ge(0)] = 0.0,
        concurrency: Annotated[int, Interval(ge=1, le=10_000)] = 8,
        patience: Annotated[int, Ge(1)] = 3,
    ) -> None:
        super().__init__()
        self.prompt = load_prompt(prompt, prompt_file, fields=PAIRWISE)
        self.engine: Engine = open_engine(model, endpoint=endpoint, concurrency=concurrency)
        self.sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature)
        self.patience = patience
        self.counts: Counter[str] = Counter()
        self._silent_calls = 0

    def group_rewards(self, prompts: Sequence[ScoredPrompt]) -> list[list[float | None]]:
        """The sums of the distinct texts of every prompt.

        Raises:
            ModelError: no request can be answered.
            SilentError: the judge has answered nothing in `patience` calls.
        """
        wins: list[dict[tuple[int, int], bool]] = [{} for _ in prompts]
        requests, places = self._comparisons(prompts)
        answered = 0
        try:
            for answer in self.engine.generate(requests, self.sampling):
                if isinstance(answer, Failed):
                    logger.warning("the judge does not answer: %s", answer.reason)
                    continue
                answered += 1
                verdict = parse_verdict(answer.text)
                if verdict is None:
                    self.counts["unread"] += 1
                    continue
                for place, first, second in places[answer.id]:
                    wins[place][first, second] = verdict == 1
            self._silent_calls = 0
        except SilentError as error:
            self._silent_calls += 1
            if self._silent_calls >= self.patience:
                raise
            logger.warning("rollouts without a verdict have no reward in this step: %s", error)
        self.counts["requests"] += len(requests)
        self.counts["failed"] += len(requests) - answered
        return [sums(prompt.counts, of_prompt) for prompt, of_prompt in zip(prompts, wins, strict=True)]

    def _comparisons(
        self, prompts: Sequence[ScoredPrompt]
    ) -> tuple[list[Request], dict[str, list[tuple[int, int, int]]]]:
        """The distinct requests, and by the id of each: the prompts and the texts shown first and second."""
        requests: dict[str, Request] = {}
        places: dict[str, list[tuple[int, int, int]]] = {}
        for place, prompt in enumerate(prompts):
            for (first, second), request in self._requests(prompt.group):
                # Rows of a source may be equal in everything: one text answers all of them.
                requests[request.id] = request
                places.setdefault(request.id, []).append((place, first, second))
        return list(requests.values()), places

    def _requests(self, group: Group) -> Iterator[tuple[tuple[int, int], Request]]:
        """The requests of a prompt, each with the texts that it shows first and second.

        An engine draws a text from the name of its request. The name is made of the row and both texts, so that the
        verdict depends neither on the rest of the batch nor on the order of the rollouts.
        """
        row = (group.source, group.id, group_content(group.select([])).hex())
        for first, second in permutations(range(len(group.responses)), 2):
            answers = {"answer_1": group.responses[first], "answer_2": group.responses[second]}
            name = content_name(*row, *answers.values())
            yield (first, second), Request(name, self.prompt.turns(group, **answers), group.images)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """As the base; also logs the share of requests without a verdict."""
        before = Counter(self.counts)
        rewards = super().__call__(prompts, completions, log_metric=log_metric, **columns)
        spent = self.counts - before
        if log_metric is not None and spent["requests"]:
            log_metric("policy/no_verdict", (spent["unread"] + spent["failed"]) / spent["requests"])
        return rewards


def sums(counts: Sequence[int], wins: Wins) -> list[float | None]:
    """R of each distinct text, over all other rollouts.

    Args:
        counts: how many rollouts have each text.
        wins: the verdicts.

    >>> sums([1, 1, 2], {(0, 1): True, (0, 2): True, (1, 0): False, (1, 2): True, (2, 0): False, (2, 1): False})
    [3.0, 2.0, 0.5]
    >>> sums([1, 1], {}), sums([2, 1], {}), sums([4], {})
    ([None, None], [None, None], [1.5])
    """
    rewards: list[float | None] = []
    for first, own in enumerate(counts):
        # The other rollouts with the same text: neither is better.
        known, total = float(own - 1), (own - 1) / 2
        judged = len(counts) == 1
        for second, count in enumerate(counts):
            if second != first and (first, second) in wins:
                judged = True
                known += count
                total += count * wins[first, second]
        # Scaled to all other rollouts, so that an unread verdict does not count as a lost comparison. Equal texts alone
        # say nothing about a text that no verdict compares with the others.
        rewards.append(total / known * (sum(counts) - 1) if judged and known else None)
    return rewards
