"""What MLflow shows of a run: its note, a text in Markdown, and the data sets that the run reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sized
from typing import Any, cast

from basereward.data.schema.group import Split
from basereward.recipe.schema import Recipe
from basereward.runs.provenance import command_line

CONTEXTS = {"train": "training", "val": "validation", "test": "test"}
"""What MLflow calls the splits."""
LONGEST_DIGEST = 36
"""MLflow's limit, in characters."""


def run_note(recipe: Recipe, *, axes: Mapping[str, str], sizes: Mapping[str, Mapping[str, int]]) -> str:
    """The note of a run: what it trains on what, and how it is made again.

    Args:
        recipe: of the run.
        axes: label of each axis of a sweep's cell, by the name of the axis; empty for other runs.
        sizes: numbers of groups by source and split.

    >>> print(run_note(Recipe(name="mine"), axes={"head": "mlp"}, sizes={"digits": {"train": 9}}).splitlines()[0])
    A cell of the sweep `mine`: head=mlp.
    """
    cell = " ".join(f"{name}={label}" for name, label in axes.items())
    lines = [f"A cell of the sweep `{recipe.name}`: {cell}." if axes else recipe.summary or recipe.name, ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _rows(recipe, sizes)]
    lines += ["", *_how_to_repeat(axes)]
    if axes:
        lines += ["", f"`basereward report {recipe.name}` compares all cells; the report is an artifact of the sweep."]
    return "\n".join(lines)


def dataset_inputs(
    recipe: Recipe, *, content: Mapping[str, Mapping[str, str]], lengths: Mapping[Split, Mapping[str, Sized]]
) -> Iterator[dict[str, str]]:
    """Yield every split of every source that has groups, for `Tracker.inputs`.

    Args:
        recipe: of the run.
        content: a hash of the groups of each split, by source.
        lengths: the usable groups, or something of each, by split and source.
    """
    for name, splits in content.items():
        source_type, source = _origin(recipe.data.sources.get(name, {}))
        for split, digest in splits.items():
            # The keys of `content` are splits.
            groups = lengths[cast(Split, split)].get(name)
            # The training groups of a stream are not counted before they are read.
            rows = {"num_rows": len(groups)} if groups is not None else {}
            if rows.get("num_rows") == 0:
                continue
            yield {
                "name": name,
                "digest": digest[:LONGEST_DIGEST],
                "source_type": source_type,
                "source": json.dumps(source),
                "profile": json.dumps(rows),
                "context": CONTEXTS[split],
            }


def split_sizes(lengths: Mapping[Split, Mapping[str, Sized]]) -> dict[str, dict[str, int]]:
    """The numbers of groups by source and split.

    Args:
        lengths: the usable groups, or something of each, by split and source.

    >>> split_sizes({"train": {"digits": [1, 2]}, "val": {"digits": [3]}})
    {'digits': {'train': 2, 'val': 1}}
    """
    sizes: dict[str, dict[str, int]] = {}
    for split, sources in lengths.items():
        for name, groups in sources.items():
            sizes.setdefault(name, {})[split] = len(groups)
    return sizes


def _origin(node: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The type and the address of a source, in the words of MLflow.

    >>> _origin({"_target_": "hub", "path": "a/b", "revision": "1b6e"})
    ('hugging_face', {'path': 'a/b', 'revision': '1b6e'})
    >>> _origin({"_target_": "digits"})
    ('code', {'tags': {'source': 'digits'}})
    """
    if node.get("_target_") == "hub":
        return "hugging_face", {"path": node.get("path"), "revision": node.get("revision")}
    if "path" in node:
        return "local", {"uri": str(node["path"])}
    return "code", {"tags": {"source": str(node.get("_target_", ""))}}


def _rows(recipe: Recipe, sizes: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[str, str]]:
    model, optimizer = recipe.model, recipe.optimizer
    yield "backbone", f"{model.backbone.path or _short(model.backbone.make or {})}, {_trained(recipe)}"
    yield "head", _short(model.head)
    if recipe.objective is not None:
        yield "objective", _short(recipe.objective)
    yield "loss", _short(recipe.loss)
    for name, splits in sizes.items():
        yield f"data: {name}", ", ".join(f"{number:,} {CONTEXTS[split]}" for split, number in splits.items() if number)
    length = f"{recipe.trainer.steps:,} steps" if recipe.trainer.steps else f"{recipe.trainer.epochs:g} epochs"
    yield "length", f"{length} of {recipe.batch.groups} groups"
    yield "learning rate", f"{optimizer.lr:g}, {recipe.schedule.shape}, warm-up {recipe.schedule.warmup:g}"
    seeds = recipe.seeds
    yield "seeds", f"data {seeds.data}, init {seeds.init}, dropout {seeds.dropout}"


def _trained(recipe: Recipe) -> str:
    """What of the backbone is trained."""
    if recipe.probe:
        return "frozen"
    if recipe.model.lora is not None:
        return f"LoRA of rank {recipe.model.lora.rank}"
    frozen = recipe.model.backbone.freeze
    return f"without {', '.join(frozen)}" if frozen else "trained in full"


def _short(node: Mapping[str, Any]) -> str:
    """A class and its arguments in one line.

    >>> _short({"_target_": "mlp", "layers": 3})
    '`mlp` layers=3'
    """
    arguments = [f"{key}={value}" for key, value in node.items() if key != "_target_" and value is not None]
    return " ".join([f"`{node.get('_target_', 'default')}`", *arguments])


def _how_to_repeat(axes: Mapping[str, str]) -> list[str]:
    """The command, if a person typed one for this run, and the lines of Python that always work."""
    command = None if axes else command_line()
    lines = [f"    {command}"] if command else []
    return [
        "The artifact `recipe.yaml` is the complete recipe. To train it again:",
        "",
        *lines,
        *([""] if lines else []),
        '    module, data, trainer = build(load_recipe("recipe.yaml", profile=None))',
        "    trainer.fit(module, data)",
    ]
