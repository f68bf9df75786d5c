"""The numbers of a report as rows: what was measured, what papers print, and what guessing gives, never mixed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from basereward.evaluation.evaluation_folder import Evaluation, StoredMeasure
from basereward.evaluation.item_identity import changed
from basereward.evaluation.published.published import PublishedValue

COLUMNS = (
    *("benchmark", "version", "variant", "metric", "source", "model", "value", "numerator", "denominator"),
    *("low", "high", "interval", "ties", "undecided", "unscored", "scored", "items", "partial"),
    *("order", "votes", "kind", "paper", "table", "note"),
)
BASELINES = {
    "random": "random answer",
    "longer": "longer answer",
    "shorter": "shorter answer",
    "first": "first answer",
}

Row: TypeAlias = dict[str, Any]
Labels: TypeAlias = Mapping[str, str]
"""What each evaluation is called in the page, by its folder."""


def labels(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """The models' names; where two are alike, each with its folder."""
    names = [(each.benchmark, each.version, each.name) for each in evaluations]
    return {
        each.folder: each.name if names.count(name) == 1 else f"{each.name} ({each.folder})"
        for each, name in zip(evaluations, names, strict=True)
    }


def numbers(evaluations: Sequence[Evaluation], names: Labels, published: Iterable[PublishedValue]) -> list[Row]:
    """All rows of one version of one benchmark, by variant and metric: the models, then papers, then guessing.

    Values are shares. A row holds None where there is nothing to say; its keys are COLUMNS. Papers have no rows among
    evaluations of a part of the benchmark, or of one whose size is not known: their values are of the whole.
    """
    head = {"benchmark": evaluations[0].benchmark, "version": evaluations[0].version}
    whole = all(is_whole(each) for each in evaluations)
    printed = [value for value in published if whole and value.benchmark == head["benchmark"]]
    rows: list[Row] = []
    for variant in dict.fromkeys(name for each in evaluations for name in each.variants):
        of_variant = [value for value in printed if value.variant == variant]
        measured = [metric for each in evaluations for metric in each.variants.get(variant, {})]
        for metric in dict.fromkeys([*measured, *(value.metric for value in of_variant)]):
            cell = {**head, "variant": variant, "metric": metric}
            rows += [_row(cell, **found) for found in _measured(evaluations, names, variant, metric)]
            rows += [_row(cell, **_printed(value)) for value in of_variant if value.metric == metric]
            rows += [_row(cell, **found) for found in _guessed(evaluations, names, variant, metric)]
    return rows


def as_csv(rows: Iterable[Row]) -> str:
    """A table with a head; empty where a row holds None."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def percent(share: float | None) -> str | None:
    """A share as the page shows it, in percent.

    >>> percent(1027 / 1250), percent(None)
    ('82.16', None)
    """
    return None if share is None else f"{100 * share:.2f}"


def _row(cell: Row, **found: Any) -> Row:
    return dict.fromkeys(COLUMNS) | cell | found


def _measured(evaluations: Sequence[Evaluation], names: Labels, variant: str, metric: str) -> Iterable[Row]:
    for each in evaluations:
        measure = each.variants.get(variant, {}).get(metric)
        if measure is not None:
            yield {"source": "measured", "model": names[each.folder], **_counts(measure), **_footing(each)}


def _counts(measure: StoredMeasure) -> Row:
    kept = ("value", "numerator", "denominator", "low", "high", "interval", "ties", "undecided")
    return {name: getattr(measure, name) for name in kept}


def _footing(each: Evaluation) -> Row:
    kept = {name: getattr(each, name) for name in ("scored", "items", "partial", "order", "votes", "kind")}
    return {"unscored": each.items - each.scored, **kept}


def _printed(value: PublishedValue) -> Row:
    note = "; ".join(filter(None, ("corrected" if value.corrected else "", value.note)))
    kept = {name: getattr(value, name) for name in ("model", "value", "paper", "table")}
    return {"source": "published", **kept, "note": note or None}


def _guessed(evaluations: Sequence[Evaluation], names: Labels, variant: str, metric: str) -> Iterable[Row]:
    """Each baseline once, or once for each value where evaluations counted different items."""
    found: dict[tuple[str, float], list[str]] = {}
    for each in evaluations:
        measure = each.variants.get(variant, {}).get(metric)
        for name, share in (measure.baselines if measure else {}).items():
            if share is not None:
                found.setdefault((name, share), []).append(names[each.folder])
    for (name, share), models in found.items():
        several = sum(other == name for other, _ in found) > 1
        note = f"on the items of {', '.join(models)}" if several else None
        yield {"source": "baseline", "model": BASELINES.get(name, name), "value": share, "note": note}


def is_whole(each: Evaluation) -> bool:
    """Whether all items of the published benchmark were scored, and no others."""
    return each.partial is None and each.expected is not None


def same_items(evaluations: Iterable[Evaluation]) -> list[list[Evaluation]]:
    """Evaluations that may stand in one table: of one benchmark and version, of items that are the same as far as is
    recorded, and all of them whole, or all of a part."""
    found: list[list[Evaluation]] = []
    for each in evaluations:
        for group in found:
            first = group[0]
            alike = (first.benchmark, first.version, is_whole(first)) == (each.benchmark, each.version, is_whole(each))
            if alike and not any(changed(one.fingerprint, each.fingerprint) for one in group):
                group.append(each)
                break
        else:
            found.append([each])
    return found
