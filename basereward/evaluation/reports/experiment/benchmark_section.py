"""The section about benchmarks: results of the runs by protocol variant and category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from basereward.errors import format_count
from basereward.evaluation.evaluation_folder import Evaluation
from basereward.evaluation.published.published import PublishedValue
from basereward.evaluation.reports.alt_texts import category_text, interval_text
from basereward.evaluation.reports.benchmark_figures import bars, forest
from basereward.evaluation.reports.experiment.gather import Contender, TrainedRun
from basereward.evaluation.reports.experiment.parts import (
    NONE,
    Drawing,
    Section,
    cell,
    note,
    percent,
    row,
    shown_name,
)
from basereward.evaluation.reports.markup import Markup, MarkupChild, table, tag
from basereward.evaluation.reports.numbers import Row, numbers, same_items


def benchmark_rows(contenders: Sequence[Contender], published: Sequence[PublishedValue]) -> list[list[Row]]:
    """Make rows as `numbers` does: a list per version of a benchmark, and separate lists for partial evaluations.

    >>> benchmark_rows([], [])
    []
    """
    evaluations: list[Evaluation] = []
    names: dict[str, str] = {}
    for contender in contenders:
        for run in contender.trained:
            for evaluation in run.evaluations:
                evaluations.append(evaluation)
                names[evaluation.folder] = _label(contender, run)
    return [numbers(group, names, published) for group in same_items(evaluations)]


def benchmarks(contenders: Sequence[Contender], rows: Sequence[Sequence[Row]]) -> Section | None:
    """Make the section; None if no run was evaluated.

    Args:
        contenders: recipes, in the order of their colours.
        rows: as `benchmark_rows` makes them.

    >>> benchmarks([], []) is None
    True
    """
    faults: list[str] = []
    places: dict[str, int] = {}
    for place, contender in enumerate(contenders):
        for run in contender.trained:
            faults += run.faults
            places[_label(contender, run)] = place
    if not rows and not faults:
        return None
    body: list[MarkupChild] = [
        note(
            "Each cell has the value in percent, the counts, and the 95 % interval. A variant is one way of counting; "
            "values of different variants cannot be compared."
        )
    ]
    body += [tag("p", fault, class_="warning") for fault in faults]
    drawings: list[Drawing] = []
    used: set[str] = set()
    for group in rows:
        name = _title(group, used)
        used.add(name)
        body += [tag("h3", name), *_tables(group, places)]
        drawings += _drawings(group, name, places)
    return Section("benchmarks", "Benchmarks", body, drawings)


def _title(group: Sequence[Row], used: set[str]) -> str:
    """A title that no earlier group has: it also names the files of the figures."""
    name = f"{group[0]['benchmark']} {group[0]['version']}"
    if not any(item["partial"] for item in group):
        return name
    partial = f"{name}, in part"
    return partial if partial not in used else f"{partial} {len(used)}"


def _tables(group: Sequence[Row], places: Mapping[str, int]) -> list[MarkupChild]:
    """The first variant as a table, the others folded."""
    partial = dict.fromkeys(item["partial"] for item in group if item["partial"])
    elements: list[MarkupChild] = [tag("p", f"Not the whole benchmark: {part}.", class_="warning") for part in partial]
    variants = list(dict.fromkeys(item["variant"] for item in group))
    first, *others = (_variant_table(group, variant, places) for variant in variants)
    elements.append(first)
    if others:
        elements.append(tag("details", tag("summary", format_count(len(others), "other variant")), *others))
    return elements


def _drawings(group: Sequence[Row], name: str, places: Mapping[str, int]) -> list[Drawing]:
    # Of the first variant only: with all of them the figures would be longer than the page.
    first = group[0]["variant"]
    members = [item for item in group if item["variant"] == first]
    title = f"{name}, {first}"
    drawings = [Drawing(name, f"{title}: 95 % intervals", forest(members, places=places), interval_text(members))]
    categories = bars(members, places=places)
    if categories is not None:
        drawings.append(Drawing(f"{name}-categories", f"{title}: categories", categories, category_text(members)))
    return drawings


def _variant_table(rows: Sequence[Row], variant: str, places: Mapping[str, int]) -> Markup:
    members = [item for item in rows if item["variant"] == variant and item["source"] != "published"]
    metrics = list(dict.fromkeys(item["metric"] for item in members))
    by_key = {(item["source"], item["model"], item["metric"]): item for item in members}
    models = _best_first(members, metrics[0])
    lines: list[Markup] = []
    for source, model in models:
        name = shown_name(places[model], model) if source == "measured" else model
        cells = [_value_cell(by_key.get((source, model, metric))) for metric in metrics]
        lines.append(row(name, cells, class_=source))
    header = ["model", *metrics]
    return table(header, [tag("tbody", *lines)], caption=f"variant {variant}", class_="sortable", sorted_by=1)


def _best_first(members: Sequence[Row], metric: str) -> list[tuple[str, str]]:
    """Source and name: of the models by their value of a metric, and then of the baselines in their order."""
    ranks = dict.fromkeys(((item["source"], item["model"]) for item in members), 1.0)
    for item in members:
        if item["metric"] == metric and item["source"] == "measured" and item["value"] is not None:
            ranks[item["source"], item["model"]] = -item["value"]
    # Models without a value come before baselines.
    return sorted(ranks, key=lambda key: (key[0] != "measured", ranks[key]))


def _label(contender: Contender, run: TrainedRun) -> str:
    """The name of the recipe, or of the run, which includes its seeds, if the recipe has several."""
    return run.name if len(contender.trained) > 1 else contender.name


def _value_cell(item: Row | None) -> Markup:
    if item is None or item["value"] is None:
        return cell(NONE)
    details: list[MarkupChild] = []
    if item["denominator"]:
        details.append(tag("small", f"{item['numerator']:g} / {item['denominator']:g}"))
    if item["low"] is not None:
        details.append(tag("small", f"{percent(item['low'])}\N{EN DASH}{percent(item['high'])}"))
    if item["unscored"]:
        details.append(tag("small", f"{item['unscored']:,} not scored", class_="bad"))
    return cell(percent(item["value"], 2), *details, data_sort=item["value"])
