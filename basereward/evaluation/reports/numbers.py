"""Arrange the numbers of a report as rows. Measured, published and baseline values are rows of their own."""

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
"""One value with the keys of `COLUMNS`; None where a column does not apply."""
Labels: TypeAlias = Mapping[str, str]
"""Folder of an evaluation -> the name of its model on the page."""


def labels(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Choose a distinct label for each evaluation: the model's name, followed by the folder if the name is not unique.

    Returns:
        The labels by folder.
    """
    keys = [(evaluation.benchmark, evaluation.version, evaluation.name) for evaluation in evaluations]
    chosen: dict[str, str] = {}
    for evaluation, key in zip(evaluations, keys, strict=True):
        unique = keys.count(key) == 1
        chosen[evaluation.folder] = evaluation.name if unique else f"{evaluation.name} ({evaluation.folder})"
    return chosen


def numbers(evaluations: Sequence[Evaluation], names: Labels, published: Iterable[PublishedValue]) -> list[Row]:
    """Make the rows of one version of one benchmark.

    Published values are of the whole benchmark. They have no rows if an evaluation is partial, or if the size of the
    benchmark is not known.

    Args:
        evaluations: of one benchmark and version.
        names: the label of each evaluation.
        published: values of papers, of any benchmark.

    Returns:
        Rows by variant and metric: first models, then papers, then baselines. Values are shares from 0 to 1.
    """
    head = {"benchmark": evaluations[0].benchmark, "version": evaluations[0].version}
    comparable = _comparable_values(evaluations, published)
    rows: list[Row] = []
    for variant in _variants(evaluations):
        of_variant = [value for value in comparable if value.variant == variant]
        for metric in _metrics(evaluations, of_variant, variant):
            key = {**head, "variant": variant, "metric": metric}
            of_metric = [value for value in of_variant if value.metric == metric]
            rows += [_row(key, values) for values in _values(evaluations, names, of_metric, variant, metric)]
    return rows


def _comparable_values(evaluations: Sequence[Evaluation], published: Iterable[PublishedValue]) -> list[PublishedValue]:
    """The published values of the evaluated benchmark; none if an evaluation is not of the whole benchmark."""
    if not all(is_whole(evaluation) for evaluation in evaluations):
        return []
    return [value for value in published if value.benchmark == evaluations[0].benchmark]


def as_csv(rows: Iterable[Row]) -> str:
    """Write rows as CSV with a header line; None becomes an empty cell.

    >>> as_csv([dict.fromkeys(COLUMNS) | {"benchmark": "rm_bench"}]).splitlines()[1][:11]
    'rm_bench,,,'
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def percent(share: float | None) -> str | None:
    """Format a share in percent, as the page shows it.

    >>> percent(1027 / 1250), percent(None)
    ('82.16', None)
    """
    return None if share is None else f"{100 * share:.2f}"


def is_whole(evaluation: Evaluation) -> bool:
    """Whether exactly the items of the published benchmark were scored."""
    return evaluation.partial is None and evaluation.expected is not None


def same_items(evaluations: Iterable[Evaluation]) -> list[list[Evaluation]]:
    """Group evaluations that may share a table.

    Those of a group have the same benchmark and version, no recorded difference between their items, and are either all
    whole or all partial.

    >>> same_items([])
    []
    """
    groups: list[list[Evaluation]] = []
    for evaluation in evaluations:
        group = next((members for members in groups if _comparable(members, evaluation)), None)
        if group is None:
            groups.append([evaluation])
        else:
            group.append(evaluation)
    return groups


def _comparable(members: Sequence[Evaluation], evaluation: Evaluation) -> bool:
    first = members[0]
    key = (evaluation.benchmark, evaluation.version, is_whole(evaluation))
    if (first.benchmark, first.version, is_whole(first)) != key:
        return False
    # With each member, since "no recorded difference" is not transitive: one of them may lack a fingerprint.
    return not any(changed(member.fingerprint, evaluation.fingerprint) for member in members)


def _variants(evaluations: Iterable[Evaluation]) -> list[str]:
    # A dictionary keeps the order of first appearance, which a set would not.
    variants: dict[str, None] = {}
    for evaluation in evaluations:
        variants |= dict.fromkeys(evaluation.variants)
    return list(variants)


def _metrics(evaluations: Iterable[Evaluation], published: Iterable[PublishedValue], variant: str) -> list[str]:
    metrics: dict[str, None] = {}
    for evaluation in evaluations:
        metrics |= dict.fromkeys(evaluation.variants.get(variant, {}))
    return list(metrics | dict.fromkeys(value.metric for value in published))


def _row(key: Row, values: Row) -> Row:
    # Every row has all columns, so that the page and the CSV need not ask which exist.
    return dict.fromkeys(COLUMNS) | key | values


def _values(
    evaluations: Sequence[Evaluation],
    names: Labels,
    published: Iterable[PublishedValue],
    variant: str,
    metric: str,
) -> Iterable[Row]:
    """The values of one metric: those of models, then of papers, then of baselines."""
    yield from _measured(evaluations, names, variant, metric)
    for value in published:
        yield _published_row(value)
    yield from _baseline_rows(evaluations, names, variant, metric)


def _measured(evaluations: Sequence[Evaluation], names: Labels, variant: str, metric: str) -> Iterable[Row]:
    for evaluation in evaluations:
        measure = evaluation.variants.get(variant, {}).get(metric)
        if measure is not None:
            model = {"source": "measured", "model": names[evaluation.folder]}
            yield {**model, **_measure_columns(measure), **_evaluation_columns(evaluation)}


def _measure_columns(measure: StoredMeasure) -> Row:
    copied = ("value", "numerator", "denominator", "low", "high", "interval", "ties", "undecided")
    return {name: getattr(measure, name) for name in copied}


def _evaluation_columns(evaluation: Evaluation) -> Row:
    copied = ("scored", "items", "partial", "order", "votes", "kind")
    unscored = {"unscored": evaluation.items - evaluation.scored}
    return unscored | {name: getattr(evaluation, name) for name in copied}


def _published_row(value: PublishedValue) -> Row:
    note = "; ".join(filter(None, ("corrected" if value.corrected else "", value.note)))
    copied = {name: getattr(value, name) for name in ("model", "value", "paper", "table")}
    return {"source": "published", **copied, "note": note or None}


def _baseline_rows(evaluations: Sequence[Evaluation], names: Labels, variant: str, metric: str) -> Iterable[Row]:
    """One row per baseline, or one per value if evaluations of different items disagree about it."""
    models_by_value: dict[tuple[str, float], list[str]] = {}
    for evaluation in evaluations:
        measure = evaluation.variants.get(variant, {}).get(metric)
        for name, share in (measure.baselines if measure else {}).items():
            if share is not None:
                models_by_value.setdefault((name, share), []).append(names[evaluation.folder])
    for (name, share), models in models_by_value.items():
        several = sum(other == name for other, _ in models_by_value) > 1
        note = f"on the items of {', '.join(models)}" if several else None
        yield {"source": "baseline", "model": BASELINES.get(name, name), "value": share, "note": note}
