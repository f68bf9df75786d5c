"""The section about best-of-N: the curve of each model, and its gain against the model's accuracy on benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from basereward.evaluation.evaluation_folder import Evaluation
from basereward.evaluation.protocols.best_of_n import truths_of
from basereward.evaluation.reports.alt_texts import line_text
from basereward.evaluation.reports.drawing import blank, plain, short
from basereward.evaluation.reports.experiment.figures import colour, line_style, with_legend
from basereward.evaluation.reports.experiment.gather import Contender, TrainedRun
from basereward.evaluation.reports.experiment.parts import NONE, Drawing, Section, cell, note, percent, row, shown_name
from basereward.evaluation.reports.markup import Markup, MarkupChild, table, tag
from basereward.evaluation.statistics.best_of_n import BestOfN, ScoredResponses, best_of_n
from basereward.evaluation.statistics.correlation import Correlation, pearson, spearman

CURVE = "over_n"
"""The variant by which an evaluation of best-of-N is recognized."""
EXPLANATION = (
    "N of a prompt's sampled responses are scored, and the one with the highest score is chosen. Values are means over "
    "all choices of N of the responses; the gain is the value at N minus that at 1, with its 95 % interval by "
    "bootstrap over prompts, paired. Pearson's and Spearman's correlations of gain and accuracy are over the models of "
    "this page. Their 95 % intervals are by Fisher's z, with the variance 1 / (n - 3) for Pearson and "
    "(1 + rho² / 2) / (n - 3) for Spearman (Bonett and Wright, 2000). With fewer than four models, or a value of 1, "
    "there is none. They hold for models drawn independently, and cells of one experiment are not: the uncertainty is "
    "at least this large."
)


@dataclass(frozen=True)
class JudgeCurve:
    """One model that chooses among responses.

    >>> JudgeCurve("linear", 0, {}, []).gain(2) is None
    True
    """

    name: str
    place: int
    """of its recipe, which decides on the colour"""
    accuracies: Mapping[str, float]
    """benchmark, variant and metric -> a share"""
    points: Sequence[BestOfN]

    def gain(self, n: int) -> float | None:
        """The gain at N; None if it was not measured."""
        return next((point.gain for point in self.points if point.n == n), None)


def judge_curves(contenders: Sequence[Contender]) -> list[JudgeCurve]:
    """The models that were measured on responses of a policy, one for each run.

    >>> judge_curves([])
    []
    """
    curves: list[JudgeCurve] = []
    for place, contender in enumerate(contenders):
        for run in contender.trained:
            name = run.name if len(contender.trained) > 1 else contender.name
            curves += [JudgeCurve(name, place, _accuracies(run), points) for points in _points(run)]
    return curves


def _points(run: TrainedRun) -> list[list[BestOfN]]:
    """The curve of best-of-N of a run, if it has one; of the first evaluation with the variant."""
    for evaluation in run.evaluations:
        prompts = _responses(evaluation) if CURVE in evaluation.variants else None
        if prompts:
            return [best_of_n(prompts)]
    return []


def _responses(evaluation: Evaluation) -> list[ScoredResponses] | None:
    """The scored responses of each prompt; None if some are not scored."""
    prompts: list[ScoredResponses] = []
    for item in evaluation.rows:
        if item.scores is None:
            return None
        prompts.append(ScoredResponses(item.scores, truths_of(item.labels, item.right, len(item.responses))))
    return prompts


def _accuracies(run: TrainedRun) -> dict[str, float]:
    """The value of all items by the published way of counting, of each benchmark that is measured as a whole."""
    accuracies: dict[str, float] = {}
    for evaluation in run.evaluations:
        if evaluation.partial is None and evaluation.variants and CURVE not in evaluation.variants:
            # A protocol names its published variant first, and in it the measure of all items.
            variant, measures = next(iter(evaluation.variants.items()))
            metric, measure = next(iter(measures.items()))
            if measure.value is not None:
                accuracies[f"{evaluation.benchmark} {variant}/{metric}"] = measure.value
    return accuracies


def best_of_n_section(curves: Sequence[JudgeCurve]) -> Section | None:
    """Make the section; None if no model was measured on responses of a policy.

    Args:
        curves: as `judge_curves` makes them.

    >>> best_of_n_section([]) is None
    True
    """
    if not curves:
        return None
    benchmarks = _benchmarks(curves)
    body: list[MarkupChild] = [_curve_table(curves, benchmarks)]
    if rows := _correlation_rows(curves, benchmarks):
        header = ["accuracy on", "N", "Pearson", "Spearman", "models"]
        body.append(table(header, [tag("tbody", *rows)], caption="gain against accuracy"))
    body.append(note(EXPLANATION))
    figure = _curve_figure(curves)
    drawings = [Drawing("best-of-n", "Best of N", figure, line_text(figure))]
    for benchmark in benchmarks:
        drawings.append(_scatter(curves, benchmark))
    return Section("best-of-n", "Best of N", body, drawings)


def _benchmarks(curves: Sequence[JudgeCurve]) -> list[str]:
    """What at least two models have an accuracy on."""
    names: dict[str, None] = {}
    for curve in curves:
        names |= dict.fromkeys(curve.accuracies)
    return [name for name in names if sum(name in curve.accuracies for curve in curves) > 1]


def _sizes(curves: Sequence[JudgeCurve]) -> list[int]:
    return sorted({point.n for curve in curves for point in curve.points})


def _curve_table(curves: Sequence[JudgeCurve], benchmarks: Sequence[str]) -> Markup:
    sizes = _sizes(curves)
    lines: list[Markup] = []
    for curve in curves:
        cells = [cell(percent(curve.accuracies.get(benchmark))) for benchmark in benchmarks]
        by_size = {point.n: point for point in curve.points}
        for n in sizes:
            cells.append(_point_cell(by_size.get(n)))
        lines.append(row(shown_name(curve.place, curve.name), cells))
    reachable = {point.n: point.any_right for curve in curves for point in curve.points}
    best = [cell(NONE)] * len(benchmarks) + [cell(percent(reachable[n])) for n in sizes]
    lines.append(row("a perfect choice", best, class_="baseline"))
    header = ["model", *benchmarks, *(f"best of {n}" for n in sizes)]
    return table(header, [tag("tbody", *lines)], class_="sortable")


def _point_cell(point: BestOfN | None) -> Markup:
    if point is None:
        return cell(NONE)
    low, high = (100 * bound for bound in point.gain_interval)
    gain = tag("small", f"{100 * point.gain:+.1f} ({low:+.1f} to {high:+.1f})") if point.n > 1 else None
    return cell(percent(point.value), gain, data_sort=point.value)


def correlations(curves: Sequence[JudgeCurve], benchmark: str, n: int) -> tuple[Correlation, Correlation]:
    """Pearson's and Spearman's correlation of the gain at N with the accuracy on a benchmark, over models with both.

    >>> point = BestOfN(2, 0.6, (0.5, 0.7), 0.1, (0.0, 0.2), 0.8)
    >>> correlations([JudgeCurve("linear", 0, {"a": 0.7}, [point])], "a", 2)[0].n
    1
    """
    pairs: list[tuple[float, float]] = []
    for curve in curves:
        gain = curve.gain(n)
        if gain is not None and benchmark in curve.accuracies:
            pairs.append((curve.accuracies[benchmark], gain))
    accuracies, gains = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return pearson(accuracies, gains), spearman(accuracies, gains)


def _correlation_rows(curves: Sequence[JudgeCurve], benchmarks: Sequence[str]) -> list[Markup]:
    lines: list[Markup] = []
    for benchmark in benchmarks:
        for n in _sizes(curves):
            if n > 1:
                both = correlations(curves, benchmark, n)
                cells = [cell(str(n)), *map(_correlation_cell, both), cell(str(both[0].n))]
                lines.append(row(benchmark, cells))
    return lines


def _correlation_cell(correlation: Correlation) -> Markup:
    if correlation.value is None:
        return cell(NONE)
    bounds = None
    if correlation.low is not None and correlation.high is not None:
        bounds = tag("small", f"{correlation.low:.2f} to {correlation.high:.2f}")
    return cell(f"{correlation.value:.3f}", bounds, data_value=f"{correlation.value:.8f}")


def _curve_figure(curves: Sequence[JudgeCurve]) -> Figure:
    with plain():
        figure, axes = blank(height=2.7 + 0.1 * len(curves))
        axes.grid(color="0.9", linewidth=0.8)
        for curve in curves:
            values = [100 * point.value for point in curve.points]
            sizes = [point.n for point in curve.points]
            axes.plot(sizes, values, marker="o", markersize=4, label=short(curve.name), **line_style(curve.place))
        axes.set_xscale("log", base=2)
        axes.set_xticks(_sizes(curves), list(map(str, _sizes(curves))))
        axes.set(xlabel="N", ylabel="chosen response is right, %")
        return with_legend(figure, axes)


def _scatter(curves: Sequence[JudgeCurve], benchmark: str) -> Drawing:
    """The gain at the largest N against the accuracy on a benchmark, one point for each model."""
    n = _sizes(curves)[-1]
    words: list[str] = []
    with plain():
        figure, axes = blank(height=2.7)
        axes.grid(color="0.9", linewidth=0.8)
        for curve in curves:
            gain, accuracy = curve.gain(n), curve.accuracies.get(benchmark)
            if gain is not None and accuracy is not None:
                axes.scatter(100 * accuracy, 100 * gain, color=colour(curve.place), zorder=3)
                words.append(f"{curve.name}: {100 * accuracy:.1f} %, {100 * gain:+.1f} points")
        axes.set(xlabel=f"{benchmark}, %", ylabel=f"gain of best of {n}, points")
        drawn_figure = with_legend(figure, axes)
    title = f"Gain of best of {n} against {benchmark}"
    return Drawing(f"best-of-n {benchmark}", title, drawn_figure, f"{title}. {'; '.join(words)}.")
