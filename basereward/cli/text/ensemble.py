"""The members of an ensemble as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basereward.cli.text.numbers import number
from basereward.recipe.table import table


def members(told: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What each member's score counts, with and without pictures where that is not the same, and how sure that is."""
    routed = any(each["weight"] != each["text_weight"] for each in told)
    weights = {"weight with pictures": "", "weight without": "text_"} if routed else {"weight": ""}
    learned = any(each[f"{prefix}interval"] for each in told for prefix in weights.values())
    head = [cell for name in weights for cell in ((name, "95 %") if learned else (name,))]
    rows = []
    for each in told:
        cells = [cell for prefix in weights.values() for cell in _weight(each, prefix, learned=learned)]
        rows.append((each["name"], *cells, number(each["accuracy"])))
    yield from table(("member", *head, "accuracy"), rows)


def _weight(each: Mapping[str, Any], prefix: str, *, learned: bool) -> Iterator[str]:
    yield number(each[f"{prefix}weight"])
    if learned:
        interval = each[f"{prefix}interval"]
        yield "-" if interval is None else "{:.4f} to {:.4f}".format(*interval)


def ensemble(result: dict[str, Any]) -> Iterator[str]:
    """Members, weights, accuracies."""
    yield from (*members(result["members"]), "")
    if result["accuracy"] is not None:
        yield "together {accuracy:.4f} on the same validation pairs".format(**result)
    yield "{how} of {count} members: run {run_id}".format(count=len(result["members"]), **result)
