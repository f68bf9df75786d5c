"""What a reward in reinforcement learning must provide, and the base of those that score a policy's answers.

Shapes: N rollouts of a step on this rank; K distinct texts among the rollouts of one prompt.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from basereward.data.encoding.chat import messages
from basereward.data.images.open_images import open_image
from basereward.data.lazy_table import LazyTable, lazy_table
from basereward.data.schema.group import Group
from basereward.data.schema.preferences import reference_answers
from basereward.errors import DataError
from basereward.rl.exact_match import exact_match

logger = logging.getLogger(__name__)

Rewards: TypeAlias = "Sequence[float | None]"
"""One reward for each rollout; None for a rollout that has none, which then has no advantage."""
LogExtra: TypeAlias = Callable[[str, list[Any]], None]
LogMetric: TypeAlias = Callable[[str, float], None]
# Shares of the rewards of right and of wrong answers that are logged beside their means.
QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


class RolloutReward(ABC):
    """A reward: it makes the prompts, rewards the rollouts, and measures the answers to held-out prompts.

    A file `NAME.py` in this folder defines the class `NameReward`; a recipe names it by `objective.reward`.

    Attributes:
        trains: `judge`, whose texts are verdicts on two responses, or `policy`, whose texts are responses.
    """

    trains: Literal["judge", "policy"] = "policy"

    # TRL names the metrics of a reward function by this attribute.
    __name__ = "reward"

    @abstractmethod
    def rows(self, groups: Sequence[Group], *, seed: int = 0) -> LazyTable:
        """The training rows: the columns `prompt` (messages), `images`, `id`, and those that the reward reads.

        Args:
            groups: of the training data.
            seed: of what is drawn.

        Raises:
            DataError: there are no rows to learn from.
        """

    @abstractmethod
    def held_out_rows(self, groups: Sequence[Group]) -> LazyTable:
        """The rows of held-out groups, which are answered greedily during training.

        Raises:
            DataError: there are none.
        """

    @abstractmethod
    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> Rewards | Awaitable[Rewards]:
        """N rewards, as TRL calls a reward function, which may be asynchronous.

        Args:
            prompts: messages, as they were in the rows.
            completions: texts, or messages of one turn.
            log_extra: gets a column of the table of completions; `right` is read by the trainer.
            log_metric: gets named means.
            columns: the other columns of the rows, N values each.

        Raises:
            DataError: a column is missing or wrong.
        """

    @abstractmethod
    def measures(self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> dict[str, float]:
        """What the greedy answers to held-out rows show.

        Args:
            rows: of `held_out_rows`.
            texts: the answer to each.

        Returns:
            Named means. The first one chooses the best checkpoint: the largest is the best.
        """


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """The rollouts of one prompt, without repetitions.

    Attributes:
        group: the prompt with K distinct texts as its responses.
        right: whether each text is a reference answer.
        counts: how many rollouts have each text.

    >>> ScoredPrompt(Group("a", "sums", (), ("4", "5")), right=(True, False), counts=(7, 1)).counts
    (7, 1)
    """

    group: Group
    right: tuple[bool, ...]
    counts: tuple[int, ...]


class PolicyReward(RolloutReward):
    """Base of rewards of a policy: rows are prompts with reference answers, the preferred responses of a group.

    Rollouts of a prompt are scored together and each distinct text once, so that a reward model reads the prompt and
    its images once, in one tree row.

    Attributes:
        is_probability: whether rewards are meant as the probability that an answer is right, from 0 to 1.
    """

    # Greedy answers have these measures; a recipe may monitor them. Read from the text of the class.
    monitored: ClassVar[tuple[str, ...]] = ("exact_match", "reward")

    is_probability = False

    def __init__(self) -> None:
        self._tables: list[Sequence[Group]] = []

    @abstractmethod
    def group_rewards(self, prompts: Sequence[ScoredPrompt]) -> list[list[float | None]]:
        """K rewards of the distinct texts of every prompt."""

    def prepare(self, groups: Sequence[Group], *, seed: int) -> None:
        """Looks at the training groups before the first rollout; by default nothing is done.

        Raises:
            DataError: the reward cannot score such prompts.
        """

    def rows(self, groups: Sequence[Group], *, seed: int = 0) -> LazyTable:
        """The prompts: the columns `prompt`, `images`, `id`, `answer` (the reference answers) and `row` (its place).

        Raises:
            DataError: no group has a reference answer, or the reward cannot score such prompts.
        """
        known = with_answers(groups)
        self.prepare(known, seed=seed)
        return self._table(known)

    def held_out_rows(self, groups: Sequence[Group]) -> LazyTable:
        """As `rows`."""
        return self._table(with_answers(groups))

    def _table(self, groups: Sequence[Group]) -> LazyTable:
        table = len(self._tables)
        self._tables.append(groups)

        def row(index: int) -> dict[str, Any]:
            group = groups[index]
            return {
                "prompt": messages(group.prompt, in_parts=True),
                # TRL takes an empty list for a row without images; it fails on None, or without the column.
                "images": [open_image(image) for image in group.images],
                "answer": list(reference_answers(group)),
                "id": group.id,
                # Ids of different sources may be equal.
                "row": [table, index],
            }

        return lazy_table(row, len(groups))

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        answer: Sequence[Sequence[str]] | None = None,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """N rewards, with the columns `row` and `answer` of `rows`."""
        texts = [completion_text(completion) for completion in completions]
        rewards, right = self._scored(columns.get("row"), answer, texts)
        if log_extra is not None:
            log_extra("right", list(right))
        if log_metric is not None:
            for name, value in self._metrics(texts, rewards, right).items():
                log_metric(name, value)
        return rewards

    def _scored(
        self, rows: Sequence[Sequence[int]] | None, answers: Sequence[Sequence[str]] | None, texts: Sequence[str]
    ) -> tuple[list[float | None], list[bool]]:
        """The reward of each text, and whether it is right.

        Raises:
            DataError: the rows are not those of this reward.
        """
        if rows is None or answers is None:
            raise DataError("the rows have no columns `row` and `answer`; make them by the method rows of the reward")
        right = [exact_match(text, references) for text, references in zip(texts, answers, strict=True)]
        places: dict[tuple[int, ...], dict[str, list[int]]] = {}
        for place, (row, text) in enumerate(zip(rows, texts, strict=True)):
            places.setdefault(tuple(row), {}).setdefault(text, []).append(place)
        scored = [self._prompt(row, of_text, right) for row, of_text in places.items()]
        rewards: list[float | None] = [None] * len(texts)
        for of_text, values in zip(places.values(), self.group_rewards(scored), strict=True):
            for own, value in zip(of_text.values(), values, strict=True):
                for place in own:
                    rewards[place] = value
        return rewards, right

    def _prompt(self, row: tuple[int, ...], places: Mapping[str, Sequence[int]], right: Sequence[bool]) -> ScoredPrompt:
        table, index = row
        known = self._tables[table][index]
        # Preferences and ratings of the data are dropped, because they belong to other responses.
        group = Group(known.id, known.source, known.prompt, tuple(places), images=known.images)
        own = list(places.values())
        return ScoredPrompt(group, tuple(right[place[0]] for place in own), tuple(map(len, own)))

    def _metrics(
        self, texts: Sequence[str], rewards: Sequence[float | None], right: Sequence[bool]
    ) -> dict[str, float]:
        """Means over the rollouts of this rank, and the rewards of right and wrong answers apart."""
        metrics: dict[str, float | None] = {
            "policy/exact_match": mean([float(value) for value in right]),
            "policy/characters": mean([float(len(text)) for text in texts]),
            "policy/empty": mean([float(not text.strip()) for text in texts]),
            "policy/unscorable": mean([float(reward is None) for reward in rewards]),
        }
        for name, wanted in (("right", True), ("wrong", False)):
            own = _rewards_of(rewards, right, wanted=wanted)
            metrics[f"policy/reward_{name}"] = mean(own)
            for quantile, share in QUANTILES.items():
                metrics[f"policy/reward_{name}_{quantile}"] = quantile_of(own, share)
        if self.is_probability:
            # The warning about overrated wrong answers reads this metric; other rewards have no fixed maximum.
            metrics["policy/wrong_probability"] = metrics["policy/reward_wrong"]
        return known(metrics)

    def measures(self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> dict[str, float]:
        """`exact_match`, `reward` (the mean of those that have one) and `characters` of held-out answers."""
        rewards, right = self._scored([row["row"] for row in rows], [row["answer"] for row in rows], texts)
        named = {
            "exact_match": mean([float(value) for value in right]),
            "reward": mean([reward for reward in rewards if reward is not None]),
            "characters": mean([float(len(text)) for text in texts]),
        }
        return known(named)


def with_answers(groups: Sequence[Group]) -> Sequence[Group]:
    """The groups that have a reference answer; the number of the others is logged.

    Raises:
        DataError: there is none.

    >>> len(with_answers([Group("a", "sums", (), ("4",)), Group("b", "sums", (), ("4", "5"))]))
    1
    """
    places = [place for place, group in enumerate(groups) if reference_answers(group)]
    if not places:
        raise DataError(
            f"none of the {len(groups)} groups has a reference answer: a response that is preferred to another and to "
            "which none is preferred, or the only response. Give rows with chosen and rejected responses, or with one "
            "response, the right one"
        )
    if len(places) == len(groups):
        return groups
    logger.warning("%d of %d groups have no reference answer and are left out", len(groups) - len(places), len(groups))
    return [groups[place] for place in places]


def _rewards_of(rewards: Sequence[float | None], right: Sequence[bool], *, wanted: bool) -> list[float]:
    """The rewards of right or of wrong answers.

    >>> _rewards_of([0.5, None, 0.25], [True, True, False], wanted=True)
    [0.5]
    """
    pairs = zip(rewards, right, strict=True)
    return [reward for reward, is_right in pairs if reward is not None and is_right is wanted]


def completion_text(completion: Any) -> str:
    """The text of a completion, which is a text or messages of one turn.

    >>> completion_text([{"role": "assistant", "content": "4"}]), completion_text("4")
    ('4', '4')
    """
    return completion if isinstance(completion, str) else str(completion[0].get("content") or "")


def mean(values: Sequence[float]) -> float | None:
    """The mean; None if there are no values.

    >>> mean([1, 0]), mean([])
    (0.5, None)
    """
    return sum(values) / len(values) if values else None


def known(values: Mapping[str, float | None]) -> dict[str, float]:
    """The named values that are not None.

    >>> known({"a": 1.0, "b": None})
    {'a': 1.0}
    """
    return {name: value for name, value in values.items() if value is not None}


def quantile_of(values: Sequence[float], share: float) -> float | None:
    """A quantile that is one of the values; None if there are no values.

    >>> quantile_of([0.3, 0.1, 0.2], 0.5), quantile_of([], 0.5)
    (0.2, None)
    """
    if not values:
        return None
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
