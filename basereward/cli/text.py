"""Results as a person reads them, line by line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any


def check(result: dict[str, Any]) -> Iterator[str]:
    """The cells, and below them the faults."""
    from basereward.recipe import Fault
    from basereward.recipe.table import check_table

    cells = [(cell["name"], cell["overrides"]) for cell in result["cells"]]
    return check_table(cells, [Fault(**fault) for fault in result["faults"]])


def train(result: dict[str, Any]) -> Iterator[str]:
    """The measures on the held-out rows, what was left out, and where the model is."""
    from basereward.recipe.table import table

    yield from table(("metric", "value"), [(name, number(value)) for name, value in result["metrics"].items()])
    for source, reasons in result["skipped"].items():
        for reason, count in reasons.items():
            yield f"skipped in {source}: {count} ({reason})"
    yield f"run {result['run_id']} took {result['seconds']:.0f} s; its model: {result['model']}"


def sweep(result: dict[str, Any]) -> Iterator[str]:
    """A row a cell, a column a measure of accuracy."""
    from basereward.recipe.table import table

    cells = result["cells"]
    measures = dict.fromkeys(name for cell in cells for name in cell["metrics"] if name.endswith("/pair_accuracy"))
    rows = [
        (cell["name"], cell["status"], *(number(cell["metrics"].get(name)) for name in measures), cell["run_id"] or "-")
        for cell in cells
    ]
    yield from (*table(("cell", "status", *measures, "run"), rows), "")
    yield from (f"{cell['name']} failed: {cell.get('error')}" for cell in cells if cell["status"] == "failed")
    yield ", ".join(f"{count} {status}" for status, count in Counter(row[1] for row in rows).items())


def score(result: dict[str, Any]) -> Iterator[str]:
    """How many, how long, and where they are."""
    yield "{responses} responses of {rows} rows scored in {seconds:.1f} s: {out}".format(**result)


def ls(result: dict[str, Any]) -> Iterator[str]:
    """Names and summaries."""
    from basereward.recipe.table import table

    ((kind, entries),) = result.items()
    rows = [tuple(entry.values()) for entry in entries]
    return table((), rows) if rows else iter([f"there are no {kind}"])


def number(value: float | None) -> str:
    """A measure to four places; counts whole.

    >>> number(0.98765), number(300.0), number(float("nan"))
    ('0.9877', '300', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"
