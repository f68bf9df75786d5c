"""The sections about test data: accuracy and differences, learning curves, calibration and length bias."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from basereward.evaluation.reports.alt_texts import interval_text, line_text
from basereward.evaluation.reports.benchmark_figures import forest
from basereward.evaluation.reports.experiment.accuracy import ALL, AccuracyShare, Column, accuracy_rows
from basereward.evaluation.reports.experiment.figures import calibration, curves, length
from basereward.evaluation.reports.experiment.gather import Contender, all_sources
from basereward.evaluation.reports.experiment.parts import (
    NONE,
    Drawing,
    Section,
    cell,
    listed,
    note,
    number,
    percent,
    row,
    shown_name,
    signed,
)
from basereward.evaluation.reports.markup import Markup, MarkupChild, table, tag
from basereward.metrics.significance import Comparison, Difference
from basereward.sweeps.comparison import Compared

ACCURACY_NOTE = (
    "Pair accuracy: right pairs of all pairs, in per cent, without ties, with a 95 % interval by bootstrap over "
    "groups, because the pairs of a group depend on each other. Where all pairs are right, or none, it is "
    "Wilson's interval for the number of groups. All values of a column are on the same pairs: those of the "
    f"groups that most recipes were tested on. A recipe that was tested on other groups has {NONE} there. With "
    "several seeds, a cell shows the mean ± the standard deviation over seeds, the interval of the mean of these "
    "seeds, which does not include the spread over seeds, and each seed. \u201cLonger answer\u201d is the rule "
    "that prefers the answer with more tokens, and tosses a coin between answers of equal length."
)
COMPARISON_NOTE = (
    f"Each recipe compared with the best one, on the {ALL} pairs: the exact p of exchanging the two recipes in each "
    "group at random, and the interval of the differences that this test does not reject. Over seeds: Student's "
    "paired t test. Because the best recipe is chosen after looking, p and the intervals are adjusted (Holm) for the "
    "comparisons of every two recipes: an interval excludes 0 if and only if p is below 0.05. The intervals of the "
    "recipes themselves are of each alone; whether they overlap says little about a difference."
)
TRUST_NOTE = (
    "Calibration error: the mean distance over 15 bins between confidence, sigmoid(|margin|), and accuracy; 0 is "
    "best. Length: among test pairs whose answers differ in tokens, how often the longer answer is preferred by "
    "the data, and how often it scores higher. If the second share is larger than the first, the model is biased "
    "towards length. Means over seeds."
)
BEST = "best"
# Name of the figure -> metric, label of the y axis, title.
CURVES = {
    "loss": ("train/loss", "training loss", "Training loss"),
    "validation": ("val/pair_accuracy", "validation accuracy", "Validation accuracy, mean over the sources"),
}


def results(contenders: Sequence[Contender], accuracy: Sequence[Column], compared: Compared) -> Section:
    """Make the section with the accuracy table, the comparison of recipes, and the forest plot.

    Args:
        contenders: recipes and ensembles.
        accuracy: their columns, the first of all shared groups.
        compared: the best recipe compared with the others.
    """
    names = [_first_column_name(contenders, accuracy), *(column.name for column in accuracy[1:])]
    by_name = {comparison.other: comparison for comparison in compared.comparisons}
    rows = [_accuracy_row(contender, place, accuracy, by_name) for place, contender in enumerate(contenders)]
    rows += _baseline_rows(accuracy, differences=bool(by_name))
    header = ["recipe", names[0], *(["against the best, points", "p"] if by_name else []), *names[1:]]
    body: list[MarkupChild] = [
        _answer(contenders, accuracy, compared),
        table(header, [tag("tbody", *rows)], class_="sortable", sorted_by=1),
    ]
    notes = [note(ACCURACY_NOTE)]
    if compared.comparisons:
        notes.append(note(f"{compared.measure}. {COMPARISON_NOTE}"))
    body.append(tag("details", tag("summary", "How these numbers are made"), *notes))
    if compared.words:
        body.append(tag("details", tag("summary", "The differences in words"), listed(compared.words)))
    return Section("results", "Results", body, _forest(contenders, accuracy))


def learning(contenders: Sequence[Contender]) -> Section | None:
    """Make the section with the recorded learning curves; None if no run recorded any."""
    drawings: list[Drawing] = []
    for name, (metric, axis, title) in CURVES.items():
        figure = curves(contenders, metric, axis=axis)
        if figure is not None:
            drawings.append(Drawing(name, title, figure, line_text(figure)))
    if not drawings:
        return None
    explanation = "Lines are means over the seeds of a recipe, thin lines are seeds. MLflow has every recorded number."
    return Section("learning", "Learning curves", [note(explanation)], drawings)


def trust(contenders: Sequence[Contender]) -> Section | None:
    """Make the section about calibration and length bias; None without test data."""
    rows: list[Markup] = []
    for place, contender in enumerate(contenders):
        for source in contender.sources:
            rows.append(_trust_row(contender, place, source))
    if not rows:
        return None
    header = ["recipe", "calibration error", "longer is better, %", "scores longer higher, %", "pairs of equal length"]
    figures: Mapping[str, tuple[str, Figure | None]] = {
        "calibration": ("Reliability, and the calibration error of all test pairs", calibration(contenders)),
        "length": ("Effect of length", length(contenders)),
    }
    drawings = [
        Drawing(name, title, figure, line_text(figure))
        for name, (title, figure) in figures.items()
        if figure is not None
    ]
    body = [table(header, [tag("tbody", *rows)], class_="sortable"), note(TRUST_NOTE)]
    return Section("trust", "Calibration and length", body, drawings)


def _first_column_name(contenders: Sequence[Contender], accuracy: Sequence[Column]) -> str:
    # With a single source, the column of all groups is also the column of the source.
    sources = all_sources(contenders)
    return f"{sources[0]}, {ALL} pairs" if len(accuracy) == 1 and sources else f"{ALL} pairs"


def _forest(contenders: Sequence[Contender], accuracy: Sequence[Column]) -> list[Drawing]:
    rows = accuracy_rows(accuracy)
    if not any(item["source"] == "measured" for item in rows):
        return []
    places = {contender.name: place for place, contender in enumerate(contenders)}
    title = "Pair accuracy of the test data with 95 % intervals"
    return [Drawing("accuracy", title, forest(rows, places=places), interval_text(rows))]


def _answer(contenders: Sequence[Contender], accuracy: Sequence[Column], compared: Compared) -> Markup | None:
    """The best recipe, and which others it is significantly better than; None if nothing is tested."""
    shares = accuracy[0].shares
    if not shares:
        return None
    best = contenders[0].name
    low, high = shares[best].interval
    sentences: list[MarkupChild] = [
        "Best: ",
        tag("b", best),
        f" with {percent(shares[best].value)} % of the pairs right (95 % interval {percent(low)} to {percent(high)}).",
    ]
    verdicts: dict[str, list[str]] = {}
    for comparison in compared.comparisons:
        verdicts.setdefault(_verdict(comparison), []).append(comparison.other)
    sentences += [f" {verdict} {', '.join(names)}." for verdict, names in verdicts.items()]
    return tag("p", *sentences, class_="answer")


def _verdict(comparison: Comparison) -> str:
    if not comparison.items.is_significant:
        return "Not significantly different from"
    if comparison.seeds is None:
        return "Significantly better, for these runs, than"
    if comparison.seeds.is_significant:
        return "Significantly better, over seeds too, than"
    return "Significantly better on these pairs, but not over seeds, than"


def _difference_cells(comparison: Comparison | None, *, is_best: bool) -> list[Markup]:
    """The difference to the best recipe with its interval, and p. Below them the same over seeds."""
    if comparison is None:
        return [cell(BEST if is_best else NONE), cell(NONE)]
    items, seeds = comparison.items, comparison.seeds
    points, p = [tag("small", _points_interval(items))], []
    if seeds is not None:
        points.append(tag("small", f"over seeds {_points_interval(seeds)}"))
        p.append(tag("small", f"over seeds {_p_text(seeds.p)}"))
    value = tag("b" if items.is_significant else "span", signed(-100 * items.mean, 1))
    # The script sorts by `data-sort`, since the text has further numbers.
    return [
        cell(value, *points, data_sort=-items.mean),
        cell(tag("b" if items.is_significant else "span", _p_text(items.p)), *p, data_sort=items.p),
    ]


def _points_interval(difference: Difference) -> str:
    return f"{signed(-100 * difference.high, 1)} to {signed(-100 * difference.low, 1)}"


def _p_text(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def _accuracy_row(
    contender: Contender, place: int, accuracy: Sequence[Column], comparisons: Mapping[str, Comparison]
) -> Markup:
    state = _state(contender)
    detail = tag("small", state, class_="bad" if contender.missing else None) if state else None
    first, *others = (_accuracy_cell(column.shares.get(contender.name)) for column in accuracy)
    differences = _difference_cells(comparisons.get(contender.name), is_best=place == 0) if comparisons else []
    return row(shown_name(place, contender.name, detail), [first, *differences, *others])


def _state(contender: Contender) -> str | None:
    """How many seeds are finished; None if there is one and it is finished."""
    seeds = len(contender.trained)
    if not seeds:
        return "not finished"
    if contender.missing:
        return f"{seeds} of {len(contender.results)} seeds finished"
    return f"{seeds} seeds" if seeds > 1 else None


def _accuracy_cell(share: AccuracyShare | None) -> Markup:
    if share is None:
        return cell(NONE)
    low, high = share.interval
    interval = tag("small", f"{percent(low)}\N{EN DASH}{percent(high)}")
    if share.spread is None:
        count = tag("small", _count(share.right[0], share.pairs))
        return cell(tag("b", percent(share.value)), interval, count, data_sort=share.value)
    # No-break spaces: a line break belongs between seeds, not inside of one.
    seeds = " · ".join(
        f"{percent(value)}\N{NO-BREAK SPACE}({_count(right, share.pairs)})"
        for value, right in zip(share.values, share.right, strict=True)
    )
    mean = f"{percent(share.value)} ± {percent(share.spread)}"
    return cell(tag("b", mean), interval, tag("small", seeds, class_="seeds"), data_sort=share.value)


def _count(right: float, pairs: int) -> str:
    return f"{right:g} / {pairs:,}".replace(" ", "\N{NO-BREAK SPACE}")


def _baseline_rows(accuracy: Sequence[Column], *, differences: bool) -> list[Markup]:
    shares = [column.longer for column in accuracy]
    if not any(shares):
        return []
    longer = [
        cell(NONE) if share is None else cell(percent(share.value), tag("small", _count(share.right[0], share.pairs)))
        for share in shares
    ]
    empty = [cell(), cell()] if differences else []
    random_answer = [cell("50.0")] * len(shares)
    return [
        row("longer answer", [longer[0], *empty, *longer[1:]], class_="baseline"),
        row("random answer", [random_answer[0], *empty, *random_answer[1:]], class_="baseline"),
    ]


def _trust_row(contender: Contender, place: int, source: str) -> Markup:
    metrics = f"test/{source}"
    cells = [
        cell(number(_mean(contender, f"{metrics}/calibration_error"), 3)),
        cell(percent(_mean(contender, f"{metrics}/longer_wins"))),
        cell(percent(_mean(contender, f"{metrics}/follows_length"))),
        cell(number(_mean(contender, f"{metrics}/equal_lengths"), 0)),
    ]
    return row(shown_name(place, contender.name, tag("small", source)), cells)


def _mean(contender: Contender, metric: str) -> float | None:
    """Over the runs that have a value: a share of no pairs, such as of those with unequal lengths, is not a number."""
    found = [run.metrics.get(metric) for run in contender.trained]
    values = [value for value in found if value is not None and math.isfinite(value)]
    return sum(values) / len(values) if values else None
