"""What the runs reached on benchmarks, by protocol variant and category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from basereward.evaluation.reports.benchmark_figures import bars, forest
from basereward.evaluation.evaluation_folder import Evaluation
from basereward.evaluation.reports.experiment.gather import Contender, Trained
from basereward.evaluation.reports.experiment.parts import NONE, Drawing, Section, cell, chip, note, percent, row
from basereward.evaluation.reports.markup import MarkupChild, Markup, join, table, tag
from basereward.evaluation.reports.numbers import Row, numbers, same_items
from basereward.evaluation.published.published import PublishedValue
from basereward.recipe.table import count


def benchmark_rows(contenders: Sequence[Contender], published: Sequence[PublishedValue]) -> list[list[Row]]:
    """Rows as `numbers` makes them, a list a version of a benchmark; parts of it have a list of their own."""
    found: list[Evaluation] = []
    names: dict[str, str] = {}
    for each in contenders:
        for run in each.trained:
            for evaluation in run.evaluations:
                found.append(evaluation)
                names[evaluation.folder] = _name(each, run)
    return [numbers(same, names, published) for same in same_items(found)]


def benchmarks(contenders: Sequence[Contender], rows: Sequence[Sequence[Row]]) -> Section | None:
    """None where nothing was evaluated."""
    faults = [fault for each in contenders for run in each.trained for fault in run.faults]
    if not rows and not faults:
        return None
    places = {_name(each, run): place for place, each in enumerate(contenders) for run in each.trained}
    body: list[MarkupChild] = [tag("p", fault, class_="warning") for fault in faults]
    drawings: list[Drawing] = []
    taken: set[str] = set()
    for same in rows:
        name = f"{same[0]['benchmark']} {same[0]['version']}"
        parts = dict.fromkeys(each["partial"] for each in same if each["partial"])
        if parts:
            name += ", in part" if f"{name}, in part" not in taken else f", in part {len(taken)}"
        taken.add(name)
        body.append(tag("h3", name))
        body += [tag("p", f"Not the whole benchmark: {part}.", class_="warning") for part in parts]
        open_, *folded = (
            _variant(same, variant, places) for variant in dict.fromkeys(each["variant"] for each in same)
        )
        body.append(open_)
        if folded:
            body.append(tag("details", tag("summary", f"{count(len(folded), 'other variant')}"), *folded))
        first = same[0]["variant"]  # the others are in the tables, and their figures would be longer than a page
        drawn = [each for each in same if each["variant"] == first]
        title = f"{name}, {first}"
        drawings.append(Drawing(name, f"{title}: 95 % intervals", forest(drawn, places=places)))
        categories = bars(drawn, places=places)
        if categories is not None:
            drawings.append(Drawing(f"{name}-categories", f"{title}: categories", categories))
    about = note(
        "Per cent, what was counted, and a 95 % interval. Variants are ways of counting; numbers of different variants "
        "do not compare."
    )
    return Section("benchmarks", "Benchmarks", [about, *body], drawings)


def _variant(rows: Sequence[Row], variant: str, places: Mapping[str, int]) -> Markup:
    mine = [each for each in rows if each["variant"] == variant and each["source"] != "published"]
    metrics = list(dict.fromkeys(each["metric"] for each in mine))
    models = list(dict.fromkeys((each["source"], each["model"]) for each in mine))
    found = {(each["source"], each["model"], each["metric"]): each for each in mine}
    made = [
        row(
            join([chip(places[model]), model]) if source == "measured" else model,
            [_value(found.get((source, model, metric))) for metric in metrics],
            class_=source,
        )
        for source, model in models
    ]
    return table(["", *metrics], made, caption=f"variant {variant}")


def _name(each: Contender, run: Trained) -> str:
    """Of a run among others of its recipe, with its seeds."""
    return run.name if len(each.trained) > 1 else each.name


def _value(found: Row | None) -> Markup:
    if found is None or found["value"] is None:
        return cell(NONE)
    counted = f"{found['numerator']:g} / {found['denominator']:g}" if found["denominator"] else None
    interval = f"{percent(found['low'])}\N{EN DASH}{percent(found['high'])}" if found["low"] is not None else None
    left = found["unscored"]
    partial = tag("small", f"{left:,} not scored", class_="bad") if left else None
    return cell(percent(found["value"], 2), *(tag("small", said) for said in (counted, interval) if said), partial)
