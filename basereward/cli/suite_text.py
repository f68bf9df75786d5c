"""The table of a model over the benchmarks of a suite, as `basereward eval --suite` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basereward.cli.tables import format_percent, format_table


def format_suite(suite: Mapping[str, Any]) -> Iterator[str]:
    """One line a benchmark with its headline measure, the macro averages with their definitions, and what is missing.

    Args:
        suite: as `evaluate_suite` returns it.

    >>> measure = {"value": 0.5, "low": None, "high": None, "interval": None, "baselines": {"random": 0.25}}
    >>> row = {"benchmark": "a", "variant": "v", "metric": "m", "numerator": 1, "denominator": 2, **measure}
    >>> mean = {"name": "text", "definition": "unweighted mean of a v/m", **measure}
    >>> print(*format_suite({"rows": [row], "averages": [mean], "absent": {"b": "no files"}}), sep="\\n")
    benchmark  measure  %      of   95 %  random
    a          v/m      50.00  1/2  -     25.00
    <BLANKLINE>
    average  %      95 %  random  definition
    text     50.00  -     25.00   unweighted mean of a v/m
    <BLANKLINE>
    not measured: b: no files
    """
    rows: Sequence[Mapping[str, Any]] = suite["rows"]
    baselines = _baselines([*rows, *suite["averages"]])
    lines: list[tuple[str, ...]] = []
    for row in rows:
        counts = f"{row['numerator']:.6g}/{row['denominator']:.6g}"
        head = (row["benchmark"], f"{row['variant']}/{row['metric']}", format_percent(row["value"]), counts)
        lines.append((*head, format_interval(row), *_shares(row, baselines)))
    yield from format_table(("benchmark", "measure", "%", "of", "95 %", *baselines), lines)
    yield ""
    lines = []
    for mean in suite["averages"]:
        values = (format_percent(mean["value"]), format_interval(mean), *_shares(mean, baselines))
        lines.append((mean["name"], *values, mean["definition"]))
    yield from format_table(("average", "%", "95 %", *baselines, "definition"), lines)
    if suite["absent"]:
        yield ""
    for benchmark, reason in suite["absent"].items():
        yield f"not measured: {benchmark}: {reason}"


def format_interval(measure: Mapping[str, Any]) -> str:
    """The 95 % interval of a measure in percent; `-` if it has none.

    >>> format_interval({"interval": "wilson", "low": 0.25, "high": 0.75})
    '25.00-75.00'
    """
    return f"{format_percent(measure['low'])}-{format_percent(measure['high'])}" if measure["interval"] else "-"


def _baselines(measures: Sequence[Mapping[str, Any]]) -> list[str]:
    """The baselines that any measure has, in the order of first appearance."""
    names: dict[str, None] = {}
    for measure in measures:
        names |= dict.fromkeys(measure["baselines"])
    return list(names)


def _shares(measure: Mapping[str, Any], baselines: Sequence[str]) -> list[str]:
    return [format_percent(measure["baselines"].get(name)) for name in baselines]
