"""What the recipes reached on the test data, and which differences stand."""

from __future__ import annotations

from collections.abc import Sequence

from basereward.evaluation.reports.benchmark_figures import forest
from basereward.evaluation.reports.experiment.accuracy import ALL, Column, AccuracyShare, accuracy_rows
from basereward.evaluation.reports.experiment.figures import calibration, curves, length
from basereward.evaluation.reports.experiment.gather import Contender
from basereward.evaluation.reports.experiment.parts import (
    NONE,
    Drawing,
    Section,
    cell,
    chip,
    listed,
    note,
    number,
    percent,
    row,
)
from basereward.evaluation.reports.markup import MarkupChild, Markup, join, table, tag
from basereward.sweeps.comparison import Compared

BIAS = ("longer_wins", "follows_length", "equal_lengths")


def results(contenders: Sequence[Contender], reached: Sequence[Column], compared: Compared) -> Section:
    """The main table, the differences in words, and the forest."""
    single = next(iter(dict.fromkeys(source for each in contenders for source in each.sources)), None)
    whole = f"{single}, {ALL} pairs" if len(reached) == 1 and single else f"{ALL} pairs"
    names = [whole, *(column.name for column in reached[1:])]
    rows = [_row(each, place, reached) for place, each in enumerate(contenders)]
    body: list[MarkupChild] = [
        table(["recipe", *names], [*rows, *_guesses(reached)]),
        note(
            "Pair accuracy: right pairs of all pairs, in per cent, without ties, with a 95 % interval, bootstrap over "
            "groups, since the pairs of one depend on each other (where all or no pairs are right, Wilson's, for the "
            "number of groups). A column is of the same pairs in every row, those of the groups that most recipes were "
            f"tested on; a recipe that was tested on others has {NONE} there. Of several seeds: the mean, ± the "
            "standard deviation over seeds, the interval of the mean of these seeds, which does not hold the spread "
            "over seeds, and each seed. \u201cLonger answer\u201d is the rule that takes the answer with more tokens, "
            "a coin where they have as many."
        ),
    ]
    if compared.words:
        about = note(
            f"The best recipe, by {ALL} pairs, with every other. On the same pairs: 95 % interval by bootstrap over "
            "groups, exact p of exchanging the two in every group at random. Over seeds: Student's paired t test. As "
            "the best is chosen after looking, p is adjusted (Holm) for the comparisons of every two recipes; "
            "intervals are not."
        )
        told = [note(f"{compared.measure}."), listed(compared.words), about]
        body += [tag("h3", "Which differences stand"), *(told if compared.comparisons else [listed(compared.words)])]
    drawn = accuracy_rows(reached)
    measured = any(each["source"] == "measured" for each in drawn)
    places = {each.name: place for place, each in enumerate(contenders)}
    title = "Pair accuracy of the test data with 95 % intervals"
    drawings = [Drawing("accuracy", title, forest(drawn, places=places))] if measured else []
    return Section("results", "Results", body, drawings)


def _row(each: Contender, place: int, reached: Sequence[Column]) -> Markup:
    seeds = len(each.trained)
    about = f"{seeds} seeds" if seeds > 1 else None if each.trained else "not finished"
    if each.missing and each.trained:
        about = f"{seeds} of {len(each.results)} seeds finished"
    small = tag("small", about, class_="bad" if each.missing else None) if about else None
    cells = [_accuracy(column.shares.get(each.name)) for column in reached]
    return row(join([chip(place), each.name, small]), cells)


def _accuracy(found: AccuracyShare | None) -> Markup:
    if found is None:
        return cell(NONE)
    low, high = found.interval
    interval = tag("small", f"{percent(low)}\N{EN DASH}{percent(high)}")
    if found.spread is None:
        return cell(tag("b", percent(found.value)), tag("small", _count(found.right[0], found.pairs)), interval)
    runs = zip(found.values, found.right, strict=True)
    each = " · ".join(f"{percent(value)}\N{NO-BREAK SPACE}({_count(right, found.pairs)})" for value, right in runs)
    told = f"{percent(found.value)} ± {percent(found.spread)}"
    return cell(tag("b", told), interval, tag("small", each, class_="seeds"))


def _count(right: float, pairs: int) -> str:
    return f"{right:g} / {pairs:,}".replace(" ", "\N{NO-BREAK SPACE}")


def _guesses(reached: Sequence[Column]) -> list[Markup]:
    rule = [column.longer for column in reached]
    if not any(rule):
        return []
    counted = [
        cell(percent(found.value), tag("small", _count(found.right[0], found.pairs))) if found else cell(NONE)
        for found in rule
    ]
    return [
        row("longer answer", counted, class_="baseline"),
        row("random answer", [cell("50.0")] * len(rule), class_="baseline"),
    ]


def learning(contenders: Sequence[Contender]) -> Section | None:
    """Curves of training, as they were recorded."""
    asked = {"loss": ("train/loss", "training loss"), "validation": ("val/pair_accuracy", "validation accuracy")}
    made = {name: curves(contenders, key, axis=title) for name, (key, title) in asked.items()}
    titles = {"loss": "Training loss", "validation": "Validation accuracy, mean over the sources"}
    drawings = [Drawing(name, titles[name], figure) for name, figure in made.items() if figure is not None]
    if not drawings:
        return None
    about = "Lines are means over the seeds of a recipe, thin ones its seeds. Every recorded number is in MLflow."
    return Section("learning", "Learning curves", [note(about)], drawings)


def trust(contenders: Sequence[Contender]) -> Section | None:
    """Calibration and length bias: by source in numbers, over all pairs in figures."""
    rows = [
        row(
            join([chip(place), each.name, tag("small", source)]),
            [
                cell(number(_mean(each, f"test/{source}/calibration_error"), 3)),
                *(cell(percent(_mean(each, f"test/{source}/{name}"))) for name in BIAS[:2]),
                cell(number(_mean(each, f"test/{source}/{BIAS[2]}"), 0)),
            ],
        )
        for place, each in enumerate(contenders)
        for source in each.sources
    ]
    if not rows:
        return None
    head = ["recipe", "calibration error", "longer is better, %", "scores longer higher, %", "pairs of equal length"]
    about = note(
        "Calibration error: how far confidence, sigmoid(|margin|), is from accuracy in the mean of 15 bins; 0 is best. "
        "Length: of test pairs whose answers differ in tokens, how often the longer one is the better by the data, and "
        "how often it scores higher. Where the second share is larger than the first, the model takes length for "
        "quality. Means over seeds."
    )
    made = [
        ("calibration", "Reliability, and the calibration error of all test pairs", calibration(contenders)),
        ("length", "What length is worth", length(contenders)),
    ]
    drawings = [Drawing(name, title, figure) for name, title, figure in made if figure is not None]
    return Section("trust", "Calibration and length", [table(head, rows), about], drawings)


def _mean(each: Contender, metric: str) -> float | None:
    values = [run.metrics[metric] for run in each.trained if run.metrics.get(metric) is not None]
    return sum(values) / len(values) if values else None
