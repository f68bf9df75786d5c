"""The cost of cells as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

GIB = 2**30


def cost(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A row a cell: work, memory and hours; below it how that was counted."""
    from basereward.recipe.table import table

    gpus = list(cells[0]["cost"]["gpus"])
    work = ("cell", "steps", "tokens a step", "tokens", "work a step", "work", *(f"{name} hours" for name in gpus))
    yield from (*table(work, [_work(cell) for cell in cells]), "")
    held = ("cell", "trained", "weights", "gradients", "moments", "copies", "activations", "peak GiB", "fits")
    yield from (*table(held, [_held(cell) for cell in cells]), "")
    first = cells[0]["cost"]
    shares = ", ".join(f"{kind} {share:.1%}" for kind, share in _shares(first["flops"]["step"]))
    yield f"a step of {cells[0]['name']}: {shares}; recomputed besides {_recomputed(first['flops']['step']):.1%}"
    yield (
        f"hours: all products of training, validations and test at {first['utilisation']:.0%} of the GPU's peak in the "
        "recipe's precision, one GPU; loading data is not in them"
    )
    yield "memory: counted, but for activations, which are estimated for the largest forward pass"


def _work(cell: dict[str, Any]) -> tuple[str, ...]:
    told = cell["cost"]
    tokens, flops = told["tokens"], told["flops"]
    counts = (f"{told['steps']:,}", f"{tokens['step']:,}", f"{tokens['run']:,}")
    sizes = (flop(flops["step"]["total"]), flop(flops["run"]["all"]))
    return (cell["name"], *counts, *sizes, *(_hours(gpu["hours"]) for gpu in told["gpus"].values()))


def flop(count: float) -> str:
    """
    >>> flop(9_880_000_000), flop(2.5e15), flop(12)
    ('9.88 GFLOP', '2.5 PFLOP', '12 FLOP')
    """
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {prefix}FLOP"
    return f"{count:.0f} FLOP"


def _hours(hours: float) -> str:
    return "< 0.01" if hours < 0.01 else f"{hours:,.2f}"


def _held(cell: dict[str, Any]) -> tuple[str, ...]:
    told = cell["cost"]
    kinds = ("weights", "gradients", "moments", "copies", "activations", "peak")
    fits = ", ".join(name for name, gpu in told["gpus"].items() if gpu["fits"]) or "none"
    return (
        cell["name"],
        f"{told['parameters']['trained']:,}",
        *(f"{told['bytes'][kind] / GIB:.3g}" for kind in kinds),
        fits,
    )


def _shares(step: dict[str, int]) -> Iterator[tuple[str, float]]:
    for kind in ("vision", "language", "attention", "lora", "head"):
        if step[kind]:
            yield kind, step[kind] / step["total"]


def _recomputed(step: dict[str, int]) -> float:
    return step["recomputed"] / step["total"]
