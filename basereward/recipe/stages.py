"""Reads and checks the key `stages` of an experiment, which makes it a pipeline of runs and evaluations.

A value `${NAME.OUTPUT}` of a stage is an output of another one, such as the file that it writes or the model that it
trains. Until that stage has run, the value stays as it is written. `${profile}` is the profile that the experiment runs
on.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from basereward.errors import unknown
from basereward.recipe.checks.targets import TargetError, locate
from basereward.recipe.fault import EVERY_CELL, Fault
from basereward.recipe.nodes import check_node
from basereward.recipe.schema import Node, Recipe
from basereward.recipe.yaml.files import shortened
from basereward.recipe.yaml.interpolation import texts_of
from basereward.recipe.yaml.merge import Layer

KEY = "stages"
TRAIN = "train"
RECIPE = "recipe"
"""The argument of a stage that trains: what its recipe changes in that of the experiment."""
PROFILE = "${profile}"
NAME = re.compile(r"[A-Za-z][\w-]*")
SECTIONS = frozenset(Recipe.__dataclass_fields__)
REFERENCE = re.compile(r"\$\{([A-Za-z][\w-]*)\.([a-z_]+)\}")

Outputs: TypeAlias = Mapping[str, Mapping[str, str]]
"""The outputs of stages that have run: `{stage: {output: value}}`."""
MakeRecipe: TypeAlias = Callable[[str, Layer], tuple[Recipe, list[Fault]]]
"""The recipe of a stage of this name, whose layer is merged over that of the experiment, and its faults."""


@dataclass(frozen=True)
class StageRecipe:
    """One stage of an experiment.

    Attributes:
        name: of the stage.
        node: its target and arguments, without `recipe`.
        recipe: of a stage that trains, or whose own models are trained; None for another one.
        needs: the stages whose outputs it uses.

    >>> StageRecipe("hard", {"_target_": "select", "rows": "${annotate.rows}"}).needs
    ()
    """

    name: str
    node: Node
    recipe: Recipe | None = None
    needs: tuple[str, ...] = ()

    @property
    def is_training(self) -> bool:
        """Whether the stage is one training, whose run is that of the stage."""
        return self.node["_target_"] == TRAIN and self.recipe is not None


def read_stages(
    experiment: Layer, make_recipe: MakeRecipe, *, profile: str | None
) -> tuple[list[StageRecipe], list[Fault]]:
    """The stages of an experiment in the order in which they run, and their faults.

    A stage runs after those whose outputs it uses; otherwise they run in the order of the file.

    Args:
        experiment: the keys that belong to the experiment as a whole.
        make_recipe: makes the recipe of a stage that trains.
        profile: that the experiment runs on.
    """
    sections = experiment.values.get(KEY) or {}
    if not isinstance(sections, dict):
        return [], [Fault(EVERY_CELL, KEY, f"expected a mapping of names to stages; {shortened(sections)} given")]
    # null removes a stage that an included file or the experiment has.
    given = {name: values for name, values in sections.items() if values is not None}
    outputs = {name: _outputs(values) for name, values in given.items()}
    stages: list[StageRecipe] = []
    faults: list[Fault] = []
    for name, values in given.items():
        if not isinstance(values, dict):
            message = f"expected a mapping with `_target_`; {shortened(values)} given"
            faults.append(Fault(name, f"{KEY}.{name}", message))
            continue
        stage, problems = _read_stage(name, _layer_of(experiment, name, values, profile=profile), outputs, make_recipe)
        stages.append(stage)
        faults += problems
    ordered, circle = _ordered(stages)
    if circle:
        names = ", ".join(circle)
        faults.append(Fault(EVERY_CELL, KEY, f"these stages use outputs of each other in a circle: {names}"))
    return ordered, faults


def _layer_of(experiment: Layer, name: str, values: dict[str, Any], *, profile: str | None) -> Layer:
    """A stage as a layer of its own, with the profile at its place, whose keys keep their origins for messages."""
    values = {key: profile if value == PROFILE else value for key, value in values.items()}
    path = (KEY, name)
    origins = {inner[2:]: where for inner, where in experiment.origins.items() if inner[:2] == path}
    return Layer(values, {(): experiment.origin(path), **origins})


def _outputs(values: Any) -> tuple[str, ...] | None:
    """The names of the outputs of a stage; None if its target cannot be found, which is a fault of that stage."""
    target = values.get("_target_") if isinstance(values, dict) else None
    if not isinstance(target, str):
        return None
    try:
        definition = locate(target, "stages").definition
    except TargetError:
        return None
    # Read from the source text, as arguments are, because nothing is imported before all faults are found.
    for statement in definition.body if isinstance(definition, ast.ClassDef) else ():
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "outputs" and statement.value:
            return tuple(ast.literal_eval(statement.value))
    return ()


def _read_stage(
    name: str, layer: Layer, outputs: Mapping[str, tuple[str, ...] | None], make_recipe: MakeRecipe
) -> tuple[StageRecipe, list[Fault]]:
    prefix = f"{KEY}.{name}"
    faults: list[Fault] = []
    if problem := _name_problem(name):
        faults.append(Fault(name, prefix, problem))
    # The recipe has its own check, where its references are text already.
    node, problems = check_node(layer.values, "stages")
    needs, wrong = _references(name, layer.values, outputs)
    for key, message in [*problems, *wrong]:
        origin = layer.origin(tuple(key.split(".")))
        faults.append(Fault(name, f"{prefix}.{key}" if key else prefix, message + (f" ({origin})" if origin else "")))
    changes = node.pop(RECIPE, None)
    if changes is None or faults:
        return StageRecipe(name, node, None, needs), faults
    recipe, faults_of_recipe = make_recipe(name, _escaped(_below(layer, RECIPE), outputs))
    for fault in faults_of_recipe:
        faults.append(Fault(name, f"{prefix}.{RECIPE}.{fault.key}", fault.message))
    return StageRecipe(name, node, recipe, needs), faults


def _name_problem(name: Any) -> str | None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return "the name of a stage has letters, digits, _ and -, and begins with a letter"
    # `${data.sources}` is a key of the recipe.
    return f"'{name}' is a key of a recipe; give the stage another name" if name in SECTIONS else None


def _below(layer: Layer, key: str) -> Layer:
    """The mapping at a key as a layer of its own."""
    origins = {inner[1:]: where for inner, where in layer.origins.items() if inner[:1] == (key,)}
    return Layer(layer.values[key], {(): layer.origin((key,)), **origins})


def _references(
    name: str, values: Any, outputs: Mapping[str, tuple[str, ...] | None]
) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """The stages whose outputs are used, and pairs of a key and a message for references to something else."""
    needs: dict[str, None] = {}
    problems: list[tuple[str, str]] = []
    for path, text in texts_of(values, ()):
        key = ".".join(map(str, path))
        for stage, output in REFERENCE.findall(text):
            known = outputs.get(stage)
            if stage not in outputs:
                # In a recipe it may refer to another key, which the check of the recipe knows.
                if path[0] != RECIPE:
                    problems.append((key, unknown("stage", stage, [other for other in outputs if other != name])))
            elif stage == name:
                problems.append((key, "a stage cannot use an output of its own"))
            elif known is not None and output not in known:
                problems.append((key, unknown(f"output of stage '{stage}'", output, known)))
            else:
                needs[stage] = None
    return tuple(needs), problems


def _ordered(stages: Sequence[StageRecipe]) -> tuple[list[StageRecipe], list[str]]:
    """The stages in the order in which they run; and the names of those that wait for each other."""
    names = {stage.name for stage in stages}
    ordered: list[StageRecipe] = []
    waiting = list(stages)
    while waiting:
        done = {stage.name for stage in ordered}
        ready = next((stage for stage in waiting if done.issuperset(names.intersection(stage.needs))), None)
        if ready is None:
            return [*ordered, *waiting], [stage.name for stage in waiting]
        ordered.append(ready)
        waiting.remove(ready)
    return ordered, []


def _escaped(layer: Layer, stages: Container[str]) -> Layer:
    """The layer with references to stages as plain text, which the references of the recipe leave alone."""

    def escape(match: re.Match[str]) -> str:
        return f"\\{match[0]}" if match[1] in stages else match[0]

    return Layer(_map_texts(layer.values, lambda text: REFERENCE.sub(escape, text)), layer.origins)


def resolved(value: Any, outputs: Outputs) -> Any:
    """A value with every reference to an output replaced.

    Args:
        value: texts, mappings and lists.
        outputs: of all stages that it refers to.

    >>> resolved({"path": "${annotate.rows}"}, {"annotate": {"rows": "/runs/a/rows.jsonl"}})
    {'path': '/runs/a/rows.jsonl'}
    """

    def replace(match: re.Match[str]) -> str:
        stage = outputs.get(match[1])
        return match[0] if stage is None else stage[match[2]]

    return _map_texts(value, lambda text: REFERENCE.sub(replace, text))


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _map_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_map_texts(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value
