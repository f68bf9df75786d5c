"""The reward of a judge: format, verdict and consistency of each rollout."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from basereward.data.lazy_table import LazyTable
from basereward.data.schema.group import Group
from basereward.inference.judges.open_engine import open_engine
from basereward.model.generation.prompts import PAIRWISE, Prompt, load_prompt
from basereward.model.generation.verdicts import parse_verdict
from basereward.rl.consistency import ConsistencyJudge, Verdict
from basereward.rl.judge_reward import Label, RewardParts, checked_label, is_formatted, judged
from basereward.rl.rewards.contracts import LogExtra, LogMetric, RolloutReward, completion_text, known, mean
from basereward.rl.rows import JudgeRows, both_orders


class JudgeReward(RolloutReward):
    """R = 0.5 F + A (1 + 0.5 C) of each text of a judge (R1-Reward, arXiv 2505.02835).

    F: the text has the form of reasoning and a verdict. A: the verdict is the label. C: see `ConsistencyJudge`, which
    is asked about right verdicts alone, because it changes no other reward. It runs in a thread, so that other reward
    functions of the trainer run at the same time.

    Args:
        consistency: asks a model whether verdicts follow from their reasoning; None: C is 0.
        prompt: of the judge; None: `pairwise_thinking`.

    >>> import asyncio
    >>> text = "<think>2 is false.</think><answer>1</answer>"
    >>> asyncio.run(JudgeReward()([[]] * 2, [text, [{"role": "assistant", "content": "1"}]], label=[1, 1]))
    [1.5, 0.0]
    """

    __name__ = "judge"
    trains = "judge"

    def __init__(self, consistency: ConsistencyJudge | None = None, *, prompt: Prompt | None = None) -> None:
        self.consistency = consistency
        self.prompt = prompt or load_prompt("pairwise_thinking", fields=PAIRWISE)

    def rows(self, groups: Sequence[Group], *, seed: int = 0) -> LazyTable:
        """Every preference once, with the better response first in half of the rows; see `JudgeRows`.

        Raises:
            DataError: there is no preference that is not a tie.
        """
        return JudgeRows(groups, prompt=self.prompt, seed=seed).table()

    def held_out_rows(self, groups: Sequence[Group]) -> LazyTable:
        """Every preference in both orders.

        Raises:
            DataError: there is no preference that is not a tie.
        """
        return JudgeRows(groups, prompt=self.prompt, pairs=both_orders(groups)).table()

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        label: Sequence[Any] | None = None,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward for each rollout.

        Args:
            prompts: not read.
            completions: texts, or messages of one turn.
            label: the number of the better answer of each comparison.
            log_extra: gets the column `right` of TRL's table of completions.
            log_metric: gets the means of the parts.
            columns: others of the rows; `id` is used in messages.

        Raises:
            DataError: a label is not 1 or 2, or there are none.
            ModelError: the consistency judge cannot answer.
        """
        labels = _labels(label, columns.get("id"), len(completions))
        texts = [completion_text(completion) for completion in completions]
        parts = [judged(text, number) for text, number in zip(texts, labels, strict=True)]
        if self.consistency is not None:
            parts = await asyncio.to_thread(_with_consistency, self.consistency, texts, labels, parts)
        if log_extra is not None:
            log_extra("right", [part.right for part in parts])
        if log_metric is not None:
            for name, value in _metrics(texts, labels, parts).items():
                log_metric(name, value)
        return [part.reward for part in parts]

    def measures(self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> dict[str, float]:
        """`pair_accuracy`, `accuracy`, `order_consistency`, `format` and `no_verdict`.

        A pair is right if more of its verdicts prefer the better response than the other one, as in the scores of a
        judge; `accuracy` is the mean over both orders. A verdict that cannot be read is wrong and not consistent.
        """
        verdicts = [parse_verdict(text) for text in texts]
        right = list(map(operator.eq, verdicts, [row["label"] for row in rows]))
        preferred = _preferred([row["pair"] for row in rows], verdicts, right)
        named = {
            "pair_accuracy": mean([_prefers_better(orders) for orders in preferred]),
            "accuracy": mean(right),
            "order_consistency": mean([_agree(orders) for orders in preferred]),
            "format": mean([is_formatted(text) for text in texts]),
            "no_verdict": verdicts.count(None) / len(verdicts) if verdicts else None,
        }
        return known(named)


def _preferred(pairs: Sequence[str], verdicts: Sequence[int | None], right: Sequence[bool]) -> list[list[bool | None]]:
    """What the verdicts on each pair prefer: the better response (True), the other one, or none.

    >>> _preferred(["a", "a", "b"], [1, 2, None], [True, True, False])
    [[True, True], [None]]
    """
    preferred: dict[str, list[bool | None]] = {}
    for pair, verdict, is_right in zip(pairs, verdicts, right, strict=True):
        preferred.setdefault(pair, []).append(None if verdict is None else is_right)
    return list(preferred.values())


def _agree(orders: Sequence[bool | None]) -> bool:
    """Whether the verdicts on a pair prefer the same response in all orders.

    >>> _agree([True, True]), _agree([None, None])
    (True, False)
    """
    return None not in orders and len(set(orders)) == 1


class VerdictReward(JudgeReward):
    """The reward of a judge with the options of a recipe: format, verdict, and whether it follows from the reasoning.

    Args:
        consistency_model: is asked whether right verdicts follow from their reasoning: its name at an endpoint, or a
            hub id or folder; None: no model is asked, and C is 0.
        consistency_endpoint: an address, or `local` or `vllm`, both in this process.
        inconsistent: the value of C for a verdict that does not follow.
        attempts: how often this model is asked, at most, until its answer can be read.
        prompt: of the judge, the name of a file in `basereward/model/prompts`.
        prompt_file: a text file with the prompt of the judge, instead of `prompt`.

    Raises:
        ModelError: the model cannot be opened.
        ValueError: there is no such prompt, or its fields are not those of a pairwise prompt.

    >>> VerdictReward().prompt.name
    'pairwise_thinking'
    """

    # Greedy answers have these measures; a recipe may monitor them. Read from the text of the class.
    monitored: ClassVar[tuple[str, ...]] = ("pair_accuracy", "accuracy", "order_consistency")

    def __init__(
        self,
        *,
        consistency_model: str | None = None,
        consistency_endpoint: str = "local",
        inconsistent: Literal[-1, 0] = -1,
        attempts: Annotated[int, Interval(ge=1, le=100)] = 3,
        prompt: str = "pairwise_thinking",
        prompt_file: str | None = None,
    ) -> None:
        judge: ConsistencyJudge | None = None
        loaded = load_prompt(prompt, prompt_file, fields=PAIRWISE)
        if consistency_model is not None:
            engine = open_engine(consistency_model, endpoint=consistency_endpoint)
            judge = ConsistencyJudge(engine, attempts=attempts, inconsistent=inconsistent)
        super().__init__(judge, prompt=loaded)


def _prefers_better(orders: Sequence[bool | None]) -> bool:
    """Whether more verdicts on a pair are right than wrong; None is one that cannot be read.

    >>> _prefers_better([True, None]), _prefers_better([True, False])
    (True, False)
    """
    return list(orders).count(True) > list(orders).count(False)


def _labels(labels: Sequence[Any] | None, names: Sequence[Any] | None, count: int) -> list[Label]:
    """The labels of all rollouts.

    Raises:
        DataError: a label is not 1 or 2, or there are none.
    """
    given: Sequence[Any] = [None] * count if labels is None else labels
    checked: list[Label] = []
    for place, label in enumerate(given):
        checked.append(checked_label(label, where=f"row {names[place] if names else place}"))
    return checked


def _with_consistency(
    judge: ConsistencyJudge, texts: Sequence[str], labels: Sequence[Label], parts: Sequence[RewardParts]
) -> list[RewardParts]:
    right = [place for place, part in enumerate(parts) if part.right]
    values = judge.judge([Verdict(texts[place], labels[place]) for place in right])
    consistent = list(parts)
    for place, value in zip(right, values, strict=True):
        consistent[place] = RewardParts(parts[place].formatted, right=True, consistency=value)
    return consistent


def _metrics(texts: Sequence[str], labels: Sequence[Label], parts: Sequence[RewardParts]) -> dict[str, float]:
    """The means of the parts, and the metrics that show position bias."""
    consistencies = [part.consistency for part in parts if part.right]
    metrics = {
        "judge/format": mean([part.formatted for part in parts]),
        "judge/accuracy": mean([part.right for part in parts]),
        **_verdict_metrics(texts),
        "judge/consistency": mean(consistencies),
        "judge/accuracy_label_1": _label_accuracy(labels, parts, 1),
        "judge/accuracy_label_2": _label_accuracy(labels, parts, 2),
    }
    return known(metrics)


def _verdict_metrics(texts: Sequence[str]) -> dict[str, float | None]:
    verdicts = [parse_verdict(text) for text in texts]
    given = [verdict for verdict in verdicts if verdict is not None]
    return {
        "judge/no_verdict": mean([verdict is None for verdict in verdicts]),
        "judge/first_preferred": mean([verdict == 1 for verdict in given]),
    }


def _label_accuracy(labels: Sequence[Label], parts: Sequence[RewardParts], label: int) -> float | None:
    return mean([part.right for part, number in zip(parts, labels, strict=True) if number == label])
