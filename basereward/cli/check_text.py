"""The text of `basereward check`: what was looked at, what was counted, and the cost of each cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basereward.cli.tables import format_counts, format_table
from basereward.errors import format_bytes, format_count
from basereward.io.secrets import redact

GIB = 2**30


def format_quick(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Where the runs of some cells write, and how their rows are read.

    Args:
        facts: by cell, of `quick_findings`.

    >>> list(format_quick({}))
    []
    """
    # The cells of a sweep mostly share all of these, and then each line is printed once.
    lines: dict[str, None] = {}
    for of_cell in facts.values():
        for name in ("runs", "cache"):
            lines[f"{name}: {of_cell[name]['path']}, {format_bytes(of_cell[name]['free'])} free"] = None
        lines[f"MLflow: {redact(of_cell['tracking'])}"] = None
        for name, source in of_cell["sources"].items():
            lines.update(dict.fromkeys(_format_source(name, source)))
    yield from lines


def _format_source(name: str, source: Mapping[str, Any]) -> Iterator[str]:
    if not source["read"]:
        yield f"source {name}: not read, because {source['path'] or source['target']} is not on this machine"
    elif source["path"] is None:
        yield f"source {name}: its rows are generated"
    else:
        size = f" ({format_bytes(source['bytes'])})" if source["bytes"] is not None else ""
        yield f"source {name}: {source['path']}{size}; {_format_rows(source)}"
        columns = [ours if ours == own else f"{ours} from {own}" for ours, own in source["columns"].items()]
        unread = f"; not read: {', '.join(source['unread'])}" if source["unread"] else ""
        yield f"  columns: {', '.join(columns)}{unread}"


def _format_rows(source: Mapping[str, Any]) -> str:
    read = "all" if source["complete"] else "the first"
    splits = ", ".join(f"{number} {split}" for split, number in source["groups"].items())
    rejected = f", {source['rejected']} rejected" if source["rejected"] else ""
    return f"{read} {format_count(source['rows'], 'row')} read: {splits}{rejected}"


def format_counted(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The device, the lengths of rows, the weights, the memory and the disk of some cells.

    Args:
        facts: by cell, of `cell_findings`.

    >>> list(format_counted({"a": {"model": {"weights": 2_000, "trained": 10}}, "b": {}}))
    ['model: 2,000 weights, 10 trained']
    """
    lines: dict[str, None] = {}
    for of_cell in facts.values():
        lines.update(dict.fromkeys(_format_cell(of_cell)))
    yield from lines


def _format_cell(facts: Mapping[str, Any]) -> Iterator[str]:
    if devices := facts.get("devices"):
        memory = format_bytes(devices["memory"])
        yield f"device: {devices['kind']} ({devices['name']}, {memory}), precision {devices['precision']}"
    for name, tokens in facts.get("tokens", {}).items():
        rejected = f"; rejected: {format_counts(tokens['rejected'])}" if tokens["rejected"] else ""
        lengths = f"median {tokens['median']:,}, longest {tokens['longest']:,} tokens with all responses"
        yield f"source {name}: {format_count(tokens['encoded'], 'row')} encoded, {lengths}{rejected}"
    model = facts.get("model", {})
    if "missing" in model:
        yield f"model: {model['missing']}, so rows are not encoded and memory is not counted; --cost asks the hub"
    elif model:
        yield f"model: {model['weights']:,} weights, {model['trained']:,} trained"
    if memory_facts := facts.get("memory"):
        yield f"memory: {_format_memory(memory_facts)}"
    if disk := facts.get("disk"):
        parts = [f"{name} {format_bytes(size)}" for name, size in disk.items() if size]
        yield f"disk that a run needs: {', '.join(parts)}"


def _format_memory(memory: Mapping[str, Any]) -> str:
    if "missing" in memory:
        return f"not counted: {memory['missing']}"
    sizes = {name: format_bytes(size) for name, size in memory.items()}
    counted = f"{sizes['counted']} for weights, gradients and moments, about {sizes['peak']} with activations"
    return f"{counted}, of {sizes['available']}"


def format_cost(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One table of work and hours, one of memory, and how both were counted."""
    gpus = list(cells[0]["cost"]["gpus"])
    work_head = ("cell", "steps", "tokens a step", "tokens", "work a step", "work", *(f"{name} hours" for name in gpus))
    yield from (*format_table(work_head, [_work_row(cell) for cell in cells]), "")
    memory_head = (
        "cell",
        "trained",
        "weights",
        "gradients",
        "moments",
        "masters",
        "copies",
        "activations",
        "peak GiB",
        "fits",
    )
    yield from (*format_table(memory_head, [_memory_row(cell) for cell in cells]), "")
    # Precision and utilisation are the same for all cells, so the first cell describes all of them.
    first = cells[0]["cost"]
    step = first["flops"]["step"]
    recomputed = step["recomputed"] / step["total"]
    yield f"a step of {cells[0]['name']}: {_format_shares(step)}; recomputed in addition {recomputed:.1%}"
    yield (
        f"hours: all products of training, validations and test at {first['utilisation']:.0%} of the GPU's peak in the "
        "recipe's precision, one GPU; loading data is not in them"
    )
    yield "memory: counted, but for activations, which are estimated for the largest forward pass"


def _work_row(cell: dict[str, Any]) -> tuple[str, ...]:
    cost = cell["cost"]
    tokens, flops = cost["tokens"], cost["flops"]
    counts = (f"{cost['steps']:,}", f"{tokens['step']:,}", f"{tokens['run']:,}")
    work = (format_flops(flops["step"]["total"]), format_flops(flops["run"]["all"]))
    return (cell["name"], *counts, *work, *(_format_hours(gpu["hours"]) for gpu in cost["gpus"].values()))


def _memory_row(cell: dict[str, Any]) -> tuple[str, ...]:
    cost = cell["cost"]
    kinds = ("weights", "gradients", "moments", "masters", "copies", "activations", "peak")
    sizes = [f"{cost['bytes'][kind] / GIB:.3g}" for kind in kinds]
    fitting = [name for name, gpu in cost["gpus"].items() if gpu["fits"]]
    return (cell["name"], f"{cost['parameters']['trained']:,}", *sizes, ", ".join(fitting) or "none")


def format_flops(count: float) -> str:
    """A number of floating-point operations with a decimal prefix.

    >>> format_flops(9_880_000_000), format_flops(2.5e15), format_flops(12)
    ('9.88 GFLOP', '2.5 PFLOP', '12 FLOP')
    """
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {prefix}FLOP"
    return f"{count:.0f} FLOP"


def _format_hours(hours: float) -> str:
    return "< 0.01" if hours < 0.01 else f"{hours:,.2f}"


def _format_shares(step: Mapping[str, int]) -> str:
    """What share of a step's FLOPs each part of the model has; parts without work are left out."""
    kinds = ("vision", "language", "attention", "lora", "head")
    return ", ".join(f"{kind} {step[kind] / step['total']:.1%}" for kind in kinds if step[kind])
