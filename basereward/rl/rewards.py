"""The reward function of a judge for TRL's trainers: format, verdict and consistency of each rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from basereward.model.generation.verdicts import parse_verdict
from basereward.rl.consistency import ConsistencyJudge, Verdict
from basereward.rl.judge_reward import Label, RewardParts, checked_label, judged


class JudgeReward:
    """R = 0.5 F + A (1 + 0.5 C) of each rollout, as an asynchronous reward function.

    The consistency judge is asked about right verdicts alone, because it changes no other reward. It runs in a thread,
    so that other reward functions of the trainer run at the same time.

    Args:
        consistency: asks a model whether verdicts follow from their reasoning; None: C is 0.

    >>> import asyncio
    >>> text = "<think>2 is false.</think><answer>1</answer>"
    >>> asyncio.run(JudgeReward()([[]] * 2, [text, [{"role": "assistant", "content": "1"}]], label=[1, 1]))
    [1.5, 0.0]
    """

    # TRL names the metrics of a reward function by this attribute.
    __name__ = "judge"

    def __init__(self, consistency: ConsistencyJudge | None = None) -> None:
        self.consistency = consistency

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        label: Sequence[Any] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
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
        texts = [_text(completion) for completion in completions]
        parts = [judged(text, number) for text, number in zip(texts, labels, strict=True)]
        if self.consistency is not None:
            parts = await asyncio.to_thread(_with_consistency, self.consistency, texts, labels, parts)
        if log_extra is not None:
            log_extra("right", [part.right for part in parts])
        if log_metric is not None:
            for name, value in _metrics(texts, labels, parts).items():
                log_metric(name, value)
        return [part.reward for part in parts]


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
    """The means of the parts, and what a judge that looks at the place of answers alone would show."""
    consistencies = [part.consistency for part in parts if part.right]
    metrics = {
        "judge/format": _mean([part.formatted for part in parts]),
        "judge/accuracy": _mean([part.right for part in parts]),
        **_verdict_metrics(texts),
        "judge/consistency": _mean(consistencies),
        "judge/accuracy_label_1": _label_accuracy(labels, parts, 1),
        "judge/accuracy_label_2": _label_accuracy(labels, parts, 2),
    }
    return {name: value for name, value in metrics.items() if value is not None}


def _verdict_metrics(texts: Sequence[str]) -> dict[str, float | None]:
    verdicts = [parse_verdict(text) for text in texts]
    given = [verdict for verdict in verdicts if verdict is not None]
    return {
        "judge/no_verdict": _mean([verdict is None for verdict in verdicts]),
        "judge/first_preferred": _mean([verdict == 1 for verdict in given]),
    }


def _label_accuracy(labels: Sequence[Label], parts: Sequence[RewardParts], label: int) -> float | None:
    return _mean([part.right for part, number in zip(parts, labels, strict=True) if number == label])


def _mean(values: Sequence[float]) -> float | None:
    """None of no values.

    >>> _mean([1, 0]), _mean([])
    (0.5, None)
    """
    return sum(values) / len(values) if values else None


def _text(completion: Any) -> str:
    """The text of a completion, which is a text or messages of one turn.

    >>> _text([{"role": "assistant", "content": "1"}])
    '1'
    """
    return completion if isinstance(completion, str) else str(completion[0].get("content") or "")
