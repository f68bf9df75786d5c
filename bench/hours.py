"""GPU hours that the experiments would take at full size, by the count of `basereward check --cost`.

    python -m bench.hours [EXPERIMENT ...]

Data sets are not read: a cell trains on as many pairs as its recipe limits it to, or on 200,000, the size of the
paper's ablations; groups of several answers count as that many pairs. A pair is a picture of 896 x 896 pixels (1,024
tokens) with a question of 40 words, or 600 words of text; answers have 40 to 200 words, critiques 60, reasoning 120.
Of a pipeline the stages that train are counted, and the cells of the experiments that it runs.
Work is that of Qwen2.5-VL-7B by its published shapes, at 45 % of the peak of one H100; of a backbone of another size
as much as the number in its name says. Generation in validation and test of judges
is not counted, and that of reinforcement learning is, with texts as long as allowed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from basereward.recipe import Cell, Recipe, find_experiment, load_experiment, names
from basereward.recipe.checks.rollouts import learns_from_rollouts
from basereward.recipe.schema import Node
from basereward.recipe.stages import StageRecipe
from basereward.recipe.yaml.files import read_yaml, shipped_experiments
from basereward.rl.running.cost import rollout_cost
from basereward.training.cost.recipe_cost import recipe_cost
from basereward.training.cost.workload import workload
from bench.checkpoint import write_settings
from bench.workloads import write

PROFILE, SIZE_B, GPU = "qwen2_5_vl_7b", 7.0, "h100"
PAIRS = 200_000
ROWS = 48
OUTPUT = re.compile(r"\$\{[^}]*\}")
OWN_ROWS = "data.sources.pairs.path=pairs.jsonl"


def hours(cell: Cell, *, folder: Path, text: set[str]) -> float:
    """GPU hours of a cell: its multimodal pairs and its text pairs, each measured on generated rows.

    Args:
        folder: with `model`, `pairs.jsonl` and `text.jsonl`.
        text: names of the sources without images.
    """
    total = 0.0
    for kind, number in _pairs(cell.recipe, text).items():
        if number:
            recipe = _on(cell.recipe, folder / f"{kind}.jsonl", model=folder / "model", pairs=number)
            if learns_from_rollouts(recipe.objective):
                cost = rollout_cost(recipe, gpus=[GPU])
            else:
                cost = recipe_cost(recipe, workload(recipe), gpus=[GPU])
            total += cost["gpus"][GPU]["hours"]
    # Work grows with the number of weights, so the hours of another backbone follow from the size in its name.
    size = re.search(r"(\d+(?:\.\d+)?)B", cell.recipe.model.backbone.path or "")
    return total * (float(size[1]) / SIZE_B if size else 1.0)


def passes(stage: Node) -> float:
    """How often a stage goes through its training rows, at most.

    Before each round of a cleaning, and after the last one, models are trained on all folds but one. In each round
    they score all rows, which is the forward pass: a third of the work of training.

    >>> passes({"_target_": "train"}), passes({"_target_": "clean", "folds": 2, "models": 3, "rounds": 3})
    (1.0, 15.0)
    """
    if stage["_target_"] != "clean":
        return 1.0
    rounds, folds = int(stage["rounds"]), int(stage["folds"])
    return int(stage["models"]) * ((rounds + 1) * max(1, folds - 1) + rounds / 3)


def _pairs(recipe: Recipe, text: set[str]) -> dict[str, float]:
    """Number of pairs that a cell trains on, with images (`pairs`) and without (`text`)."""
    mixture = recipe.data.mixture
    shares: dict[str, float] = {**mixture.weights} or {**mixture.limits} or dict.fromkeys(recipe.data.sources, 1.0)
    total_share = sum(shares.values())
    steps = recipe.trainer.steps
    number = steps * recipe.batch.groups if steps else (sum(mixture.limits.values()) or PAIRS)
    written = sum(share for name, share in shares.items() if name in text) / total_share
    return {"pairs": number * (1 - written), "text": number * written}


def _on(recipe: Recipe, rows: Path, *, model: Path, pairs: float) -> Recipe:
    """The recipe on generated rows in place of its own."""
    own = {"_target_": "jsonl", "path": str(rows), "val": 0.1, "test": 0.0}
    # Without curation: the rows of benchmarks are not here.
    data = replace(recipe.data, sources={"pairs": own}, mixture=type(recipe.data.mixture)(), max_lost=0.0)
    data = replace(data, curation=type(recipe.data.curation)())
    # The shapes are written here, so that nothing is downloaded.
    backbone = replace(recipe.model.backbone, path=str(model), revision=None)
    trainer = replace(recipe.trainer, steps=math.ceil(pairs / recipe.batch.groups))
    return replace(recipe, data=data, model=replace(recipe.model, backbone=backbone), trainer=trainer)


def prepare(folder: Path) -> None:
    """Writes the model's settings and the rows, with all that a head may learn from."""
    write_settings(folder / "model", shapes="7b")
    write(folder, rows=ROWS)
    for kind in ("pairs", "text"):
        file = folder / f"{kind}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        # Generative heads learn from critiques, reasoning and ratings, whose tokens are a part of the work.
        targets = {"critiques": ["word " * 60] * 2, "reasoning": "word " * 120, "ratings": [1.0, 0.0]}
        file.write_text("".join(json.dumps(row | targets) + "\n" for row in rows))


def experiments() -> Iterator[str]:
    """The names of the experiments that can be run at full size."""
    for entry in names("experiments"):
        experiment, _ = find_experiment(entry.name, profile=PROFILE, overrides=_overrides(entry.name))
        if experiment.cells:
            yield entry.name


def _overrides(experiment: str) -> list[str]:
    """A path of rows where the experiment brings no data of its own."""
    _, faults = find_experiment(experiment, profile=PROFILE)
    return [OWN_ROWS] if any(fault.key.endswith("data.sources.pairs.path") for fault in faults) else []


def stage_hours(stage: StageRecipe, *, folder: Path, text: set[str]) -> dict[str, float]:
    """GPU hours of a stage by name: of its training, of the models of a cleaning, or of the cells of its experiment.

    Args:
        stage: of a pipeline.
        folder, text: as for `hours`.
    """
    if stage.recipe is not None:
        once = hours(Cell(stage.name, stage.name, {}, stage.recipe), folder=folder, text=text)
        return {stage.name: passes(stage.node) * once}
    if stage.node["_target_"] != "sweep":
        return {}
    # Outputs of earlier stages are not there; no file and no model of these is read.
    settings = json.loads(OUTPUT.sub("output", json.dumps(stage.node["settings"] or {})))
    overrides = [*_overrides(stage.node["experiment"]), *(f"{key}={json.dumps(it)}" for key, it in settings.items())]
    swept = load_experiment(stage.node["experiment"], profile=stage.node["profile"], overrides=overrides)
    return {f"{stage.name}: {cell.name}": hours(cell, folder=folder, text=text) for cell in swept.cells}


def main() -> None:
    """Prints the hours of every cell, and of every experiment."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("experiments", metavar="EXPERIMENT", nargs="*", help="names in experiments/ (default: all)")
    args = parser.parse_args()
    text = set(read_yaml(shipped_experiments() / "mixtures" / "sets" / "text.yaml")["sources"])
    text |= set(read_yaml(shipped_experiments() / "mixtures" / "sets" / "others.yaml")["sources"])
    text |= {"shp", "ultra_feedback_all"}
    with tempfile.TemporaryDirectory(prefix="basereward-hours-") as temporary:
        folder = Path(temporary)
        prepare(folder)
        for name in args.experiments or experiments():
            experiment = load_experiment(name, profile=PROFILE, overrides=_overrides(name))
            by_cell = {cell.name: hours(cell, folder=folder, text=text) for cell in experiment.cells}
            for stage in experiment.stages:
                by_cell |= stage_hours(stage, folder=folder, text=text)
            for cell, value in by_cell.items():
                print(f"  {cell}: {value:,.0f}")
            print(f"{name}: {len(by_cell)} cells, {sum(by_cell.values()):,.0f} hours of one {GPU.upper()}")


if __name__ == "__main__":
    main()
