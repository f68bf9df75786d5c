"""The section about judges: accuracy, consistency between orders, and the share of runs that have collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from basereward.errors import NotFiniteError, NothingToLearnError
from basereward.evaluation.reports.experiment.gather import (
    ENTROPY,
    KL,
    NO_VERDICT,
    ORDER_CONSISTENCY,
    PRE_CLIP,
    ROLLOUT_LENGTH,
    VERDICTS_RIGHT,
    Contender,
)
from basereward.evaluation.reports.experiment.parts import (
    Section,
    cell,
    note,
    number,
    percent,
    row,
    shown_name,
)
from basereward.evaluation.reports.experiment.reinforcement.recorded import drawings, ending, length_ratio, mean
from basereward.evaluation.reports.markup import Markup, table, tag
from basereward.metrics.interval import wilson

CHANCE = 0.5
"""Accuracy of verdicts by chance. A verdict that cannot be read is wrong, so a collapsed judge is below it."""
COLLAPSED = {NotFiniteError.__name__, NothingToLearnError.__name__}
"""Errors that end a run because its policy has collapsed."""
FIGURES = {
    "verdicts": (VERDICTS_RIGHT, "share of right verdicts", "Accuracy of verdicts about held-out pairs"),
    "order_consistency": (ORDER_CONSISTENCY, "share of pairs", "Consistency between the orders of the responses"),
    "no_verdict": (NO_VERDICT, "share of texts", "Texts without a readable verdict"),
    "judge_length": (ROLLOUT_LENGTH, "tokens", "Length of the rollouts"),
    "entropy": (ENTROPY, "nats per token", "Entropy of the policy"),
    "pre_clip": (PRE_CLIP, "share of tokens", "Tokens whose ratio the pre-clip limits"),
}
NOTE = (
    "Of held-out pairs, each in both orders of its responses, answered greedily; means over the seeds of a recipe. A "
    "run has collapsed if it stopped because its loss was not finite or nothing could be learned from its rollouts, or "
    "if its last validation is below chance (50 %). The interval of the share is Wilson's, 95 %."
)


@dataclass(frozen=True)
class Collapses:
    """How many runs of a recipe have collapsed.

    Attributes:
        collapsed: runs that stopped for it, or ended below chance.
        runs: runs that ended, and those that stopped for it.

    >>> str(Collapses(2, runs=5)), str(Collapses(0, runs=0))
    ('2 of 5 (12 to 77 %)', '0 of 0')
    """

    collapsed: int
    runs: int

    def __str__(self) -> str:
        if not self.runs:
            return "0 of 0"
        low, high = wilson(self.collapsed, self.runs)
        return f"{self.collapsed} of {self.runs} ({100 * low:.0f} to {100 * high:.0f} %)"


def judges(contenders: Sequence[Contender]) -> Section | None:
    """Make the section; None if no run has learned to compare responses by reinforcement."""
    if not any(_seeds(contender, VERDICTS_RIGHT) for contender in contenders):
        return None
    header = ["recipe", "right verdicts before, %", "best, %", "last, %", "consistency before, %", "last, %"]
    header += ["no verdict, last, %", "length, ratio to the first", "KL", "collapsed runs"]
    rows = [_row(contender, place) for place, contender in enumerate(contenders)]
    body = [table(header, [tag("tbody", *rows)], class_="sortable", sorted_by=3), note(NOTE)]
    return Section("judges", "Reinforcement learning of judges", body, list(drawings(contenders, FIGURES)))


def collapses(contender: Contender) -> Collapses:
    """Count the runs of a recipe that have collapsed.

    >>> collapses(Contender("grpo", results=[], failed=["NotFiniteError", "OSError"]))
    Collapses(collapsed=1, runs=1)
    """
    stopped = sum(error in COLLAPSED for error in contender.failed)
    last = [values[-1] for values in _seeds(contender, VERDICTS_RIGHT)]
    return Collapses(stopped + sum(value < CHANCE for value in last), runs=stopped + len(last))


def _seeds(contender: Contender, name: str) -> list[list[float]]:
    """The recorded values of a metric in the order of steps, for each run that has some."""
    of_runs = [[value for _, value in run.curves.get(name, ())] for run in contender.trained]
    return [values for values in of_runs if values]


def _row(contender: Contender, place: int) -> Markup:
    right, consistent = _seeds(contender, VERDICTS_RIGHT), _seeds(contender, ORDER_CONSISTENCY)
    shares = [
        mean([values[0] for values in right]),
        mean([max(values) for values in right]),
        mean([values[-1] for values in right]),
        mean([values[0] for values in consistent]),
        mean([values[-1] for values in consistent]),
        mean([values[-1] for values in _seeds(contender, NO_VERDICT)]),
    ]
    values = [percent(share) for share in shares]
    values += [number(length_ratio(contender), 2), number(ending(contender, KL), 4), str(collapses(contender))]
    return row(shown_name(place, contender.name), [cell(value) for value in values])
