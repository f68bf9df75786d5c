"""The section about policies: reward against true accuracy, length, rewards of right and wrong answers, KL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from basereward.evaluation.reports.alt_texts import line_text
from basereward.evaluation.reports.drawing import blank, plain, short
from basereward.evaluation.reports.experiment.figures import line_style, with_legend
from basereward.evaluation.reports.experiment.gather import (
    EXACT_MATCH,
    HELD_OUT,
    HELD_OUT_REWARD,
    KL,
    REWARD,
    RIGHT,
    ROLLOUT_LENGTH,
    WRONG,
    WRONG_PROBABILITY,
    Contender,
)
from basereward.evaluation.reports.experiment.parts import (
    Drawing,
    Section,
    cell,
    note,
    number,
    percent,
    row,
    shown_name,
)
from basereward.evaluation.reports.experiment.reinforcement.recorded import (
    by_step,
    drawings,
    ending,
    length_ratio,
    mean,
)
from basereward.evaluation.reports.markup import Markup, MarkupChild, table, tag

OVERRATED = 0.9
"""Mean reward of wrong answers, as a probability, from which the page warns."""
LOST = 0.02
"""Points of accuracy, as a share, below its best value from which a policy counts as over-optimised."""
FIGURES = {
    "reward": (REWARD, "reward", "Mean reward of the rollouts"),
    "true": (EXACT_MATCH, "exact match", "True accuracy of the rollouts"),
    "held_out": (HELD_OUT, "exact match", "True accuracy of greedy answers to held-out prompts"),
    "rollout_length": (ROLLOUT_LENGTH, "tokens", "Length of the rollouts"),
    "kl": (KL, "KL (k1) per token", "KL divergence from the start"),
}
NOTE = (
    "Over-optimisation: the reward still rises while fewer answers are right. A column compares the best validation of "
    "a run with its last one; a run is marked where exact match has lost more than 2 points from its best value while "
    "the reward was at least as high. Lines are means over the seeds of a recipe."
)
REMEDY = (
    "Wrong answers earn nearly as much as right ones, so little is learned from the reward. Calibrate it "
    "(objective.reward.scale=calibrated), center the reward model's scores in its training (loss.centring), or take an "
    "ensemble (objective.reward._target_=ensemble)."
)


@dataclass(frozen=True)
class Drift:
    """What happened to one run between its best and its last validation.

    Attributes:
        first, best, last: exact match of held-out answers at the first, the best and the last validation.
        reward_at_best, reward_at_last: mean reward of held-out answers there; None if it was not recorded.

    >>> Drift(0.2, best=0.8, last=0.6, reward_at_best=0.7, reward_at_last=0.9).is_over_optimised
    True
    """

    first: float
    best: float
    last: float
    reward_at_best: float | None = None
    reward_at_last: float | None = None

    @property
    def is_over_optimised(self) -> bool:
        """Whether accuracy was lost while the reward did not fall."""
        rewards = (self.reward_at_best, self.reward_at_last)
        rising = None not in rewards and float(rewards[1] or 0.0) >= float(rewards[0] or 0.0)
        return rising and self.best - self.last > LOST


def policies(contenders: Sequence[Contender]) -> Section | None:
    """Make the section; None if no run has learned from rewards of a policy's answers."""
    if not any(run.curves.get(EXACT_MATCH) for contender in contenders for run in contender.trained):
        return None
    rows = [_row(contender, place) for place, contender in enumerate(contenders)]
    header = ["recipe", "exact match before, %", "best, %", "last, %", "reward at the best", "at the last"]
    header += ["reward of right", "of wrong", "length, ratio to the first", "KL"]
    body: list[MarkupChild] = [
        *_warnings(contenders),
        table(header, [tag("tbody", *rows)], class_="sortable", sorted_by=2),
        note(NOTE),
    ]
    return Section("policies", "Reinforcement learning of policies", body, list(_drawings(contenders)))


def drifts(contender: Contender) -> list[Drift]:
    """The drift of every seed of a recipe that was validated."""
    found: list[Drift] = []
    for run in contender.trained:
        accuracy = list(run.curves.get(HELD_OUT, ()))
        if not accuracy:
            continue
        rewards = dict(run.curves.get(HELD_OUT_REWARD, ()))
        best_step, best = max(accuracy, key=lambda point: point[1])
        last_step, last = accuracy[-1]
        found.append(Drift(accuracy[0][1], best, last, rewards.get(best_step), rewards.get(last_step)))
    return found


def _row(contender: Contender, place: int) -> Markup:
    of_seeds = drifts(contender)
    mark = ", over-optimised" if any(drift.is_over_optimised for drift in of_seeds) else None
    values: list[str] = []
    for name in ("first", "best", "last"):
        values.append(percent(mean([getattr(drift, name) for drift in of_seeds])))
    for name in ("reward_at_best", "reward_at_last"):
        values.append(number(mean([getattr(drift, name) for drift in of_seeds]), 3))
    values += [number(ending(contender, name), 3) for name in (RIGHT, WRONG)]
    values += [number(length_ratio(contender), 2), number(ending(contender, KL), 4)]
    return row(shown_name(place, contender.name, mark), [cell(value) for value in values])


def _warnings(contenders: Sequence[Contender]) -> Iterator[Markup]:
    overrated = []
    for contender in contenders:
        value = ending(contender, WRONG_PROBABILITY)
        if value is not None and value >= OVERRATED:
            overrated.append(f"{contender.name} ({value:.2f})")
    if overrated:
        yield tag("p", f"Mean reward of wrong answers near 1: {', '.join(overrated)}. {REMEDY}", class_="warning")


def _drawings(contenders: Sequence[Contender]) -> Iterator[Drawing]:
    yield from drawings(contenders, FIGURES)
    figure = over_optimisation(contenders)
    if figure is not None:
        yield Drawing("over_optimisation", "Reward against true accuracy, from start to end", figure, line_text(figure))
    for place, contender in enumerate(contenders):
        figure = reward_distribution(contender)
        if figure is not None:
            title = f"{contender.name}: rewards of right and wrong answers; bands from the 10th to the 90th percentile"
            yield Drawing(f"rewards_{place}", title, figure, line_text(figure))


def over_optimisation(contenders: Sequence[Contender]) -> Figure | None:
    """Draw reward against true accuracy of the rollouts during training, a line for each recipe with a dot at its end.

    Returns:
        The figure; None if no run recorded both.

    >>> over_optimisation([]) is None
    True
    """
    ways = [_way(contender) for contender in contenders]
    if not any(ways):
        return None
    with plain():
        figure, axes = blank(height=2.7 + 0.1 * len(contenders))
        axes.grid(color="0.9", linewidth=0.8)
        for place, (contender, way) in enumerate(zip(contenders, ways, strict=True)):
            if way:
                rewards, accuracies = [point[0] for point in way], [point[1] for point in way]
                style = line_style(place)
                axes.plot(rewards, accuracies, label=short(contender.name), **style)
                axes.plot(rewards[-1:], accuracies[-1:], marker="o", markersize=5, color=style["color"])
        axes.set(xlabel="mean reward", ylabel="exact match")
        return with_legend(figure, axes)


def reward_distribution(contender: Contender) -> Figure | None:
    """Draw the mean rewards of right and of wrong rollouts by step, each in a band from its 10th to 90th percentile.

    Returns:
        The figure; None if the runs recorded none.

    >>> reward_distribution(Contender("rule", results=[])) is None
    True
    """
    if not any(by_step(contender, name) for name in (RIGHT, WRONG)):
        return None
    with plain():
        figure, axes = blank(height=2.7)
        axes.grid(color="0.9", linewidth=0.8)
        for place, (label, metric) in enumerate((("right", RIGHT), ("wrong", WRONG))):
            line, low, high = (by_step(contender, f"{metric}{quantile}") for quantile in ("", "_p10", "_p90"))
            if line:
                axes.plot(list(line), list(line.values()), label=label, **line_style(place))
            steps = sorted(set(low) & set(high))
            bounds = [low[step] for step in steps], [high[step] for step in steps]
            axes.fill_between(steps, *bounds, color=line_style(place)["color"], alpha=0.2, linewidth=0)
        axes.set(xlabel="optimizer steps", ylabel="reward")
        return with_legend(figure, axes)


def _way(contender: Contender) -> list[tuple[float, float]]:
    rewards, accuracies = by_step(contender, REWARD), by_step(contender, EXACT_MATCH)
    return [(rewards[step], accuracies[step]) for step in sorted(set(rewards) & set(accuracies))]
