"""The stages of a pipeline, stored in its folder, so that it can resume without the file of the experiment."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from basereward.errors import RunError
from basereward.io.files import write_state
from basereward.io.hashing import combined_sha256, file_sha256, folder_sha256
from basereward.io.limits import MIB, read_json_object
from basereward.pipelines.stages.contracts import Stage
from basereward.recipe import Experiment, Recipe, make, recipe_from_yaml, recipe_sha256, recipe_yaml
from basereward.recipe.schema import Node, TrackingRecipe
from basereward.recipe.stages import Outputs, StageRecipe, resolved
from basereward.recipe.text import build_recipe
from basereward.recipe.yaml.interpolation import texts_of
from basereward.runs.run_folder import RunFolder, runs_root

FILE = "pipeline.json"
LIMIT = 64 * MIB


@dataclass(frozen=True)
class Pipeline:
    """The stages of an experiment.

    Attributes:
        name: of the experiment.
        summary: of the experiment.
        stages: in the order in which they run.
        tracking: where all of them are recorded.
        settings: `profile` and `overrides` of the experiment.

    >>> Pipeline("mine", "", (StageRecipe("hard", {"_target_": "select"}),), TrackingRecipe(), {}).text()[:13]
    'hard: select '
    """

    name: str
    summary: str
    stages: tuple[StageRecipe, ...]
    tracking: TrackingRecipe
    settings: dict[str, Any]

    @classmethod
    def of(cls, experiment: Experiment) -> Pipeline:
        """The pipeline of a loaded experiment with stages."""
        tracking = experiment.cells[0].recipe.tracking if experiment.cells else TrackingRecipe()
        # No stage depends on the settings of tracking, and an address may contain a password.
        overrides = [override for override in experiment.overrides if not override.startswith("tracking")]
        settings = {"profile": experiment.profile, "overrides": overrides}
        return cls(experiment.name, experiment.summary, experiment.stages, tracking, settings)

    def text(self) -> str:
        """The names, targets and hashes of the stages, by which the pipeline is found again."""
        lines: list[str] = []
        for stage in self.stages:
            content = json.dumps(stage.node, sort_keys=True)
            content += "" if stage.recipe is None else recipe_sha256(stage.recipe)
            lines.append(f"{stage.name}: {stage.node['_target_']} {hashlib.sha256(content.encode()).hexdigest()}")
        return "\n".join(lines)

    def save(self, folder: RunFolder) -> None:
        """Write it into the folder of the pipeline."""
        stages: list[dict[str, Any]] = []
        for stage in self.stages:
            # As YAML and not as an object, as in the folder of a run: it is checked when it is read again.
            recipe = None if stage.recipe is None else recipe_yaml(stage.recipe)
            stages.append({**asdict(dataclasses.replace(stage, recipe=None)), "recipe": recipe})
        content = {**vars(self), "stages": stages, "tracking": asdict(self.tracking)}
        write_state(folder.path / FILE, json.dumps(content) + "\n")

    @classmethod
    def load(cls, folder: RunFolder) -> Pipeline:
        """Read what `save` wrote.

        Raises:
            RunError: there is no such file, it is damaged, or its stages are not those that the pipeline began with.
            RecipeError: a recipe is not valid in this version.
        """
        content = read_json_object(folder.path / FILE, limit=LIMIT, error=RunError)
        try:
            stages: list[StageRecipe] = []
            for values in content["stages"]:
                recipe = None if values["recipe"] is None else recipe_from_yaml(values["recipe"])
                stages.append(StageRecipe(values["name"], values["node"], recipe, tuple(values["needs"])))
            tracking = TrackingRecipe(**content["tracking"])
            pipeline = cls(content["name"], content["summary"], tuple(stages), tracking, content["settings"])
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{folder.path / FILE} is damaged: {error}") from error
        if pipeline.text() != folder.recipe_text():
            raise RunError(
                f"'{folder.path / FILE}' or '{folder.recipe}' was edited after pipeline '{folder.run_id}' was started, "
                "and a pipeline resumes only with the stages that it began with. Put the files back as they were, or "
                "start a new one with `basereward train`"
            )
        return pipeline


def resolved_recipe(recipe: Recipe, outputs: Outputs) -> Recipe:
    """The recipe of a stage with the outputs of the stages before.

    Args:
        recipe: of the stage.
        outputs: of those that it uses.

    >>> recipe = Recipe(summary="of ${annotate.rows}")
    >>> resolved_recipe(recipe, {"annotate": {"rows": "a.jsonl"}}).summary
    'of a.jsonl'
    """
    return build_recipe(resolved(asdict(recipe), outputs))


def made_stage(stage: StageRecipe, outputs: Outputs, *, tracking: TrackingRecipe | None = None) -> Stage:
    """The object of a stage that is not one training. A stage whose own models are trained gets their whole recipe.

    Args:
        stage: of the pipeline.
        outputs: of the stages that it uses.
        tracking: where its trainings are recorded; None: as its recipe says.

    Raises:
        RecipeError: an argument is wrong.

    >>> made_stage(StageRecipe("hard", {"_target_": "select", "rows": "a.jsonl", "limit": 3}), {}).limit
    3
    """
    node = resolved(stage.node, outputs)
    if stage.recipe is not None:
        recipe = resolved_recipe(stage.recipe, outputs)
        node["recipe"] = asdict(recipe if tracking is None else dataclasses.replace(recipe, tracking=tracking))
    made: Stage = make(node, "stages")
    return made


def is_used(stages: Iterable[StageRecipe], stage: str, output: str) -> bool:
    """Whether a stage uses an output of another one.

    Args:
        stages: of the pipeline.
        stage: that has the output.
        output: its name.

    >>> is_used([StageRecipe("hard", {"rows": "${annotate.rows}"}, None, ("annotate",))], "annotate", "rows")
    True
    """
    reference = f"${{{stage}.{output}}}"
    for other in stages:
        values = [other.node, {} if other.recipe is None else asdict(other.recipe)]
        if any(reference in text for _, text in texts_of(values, ())):
            return True
    return False


def stage_key(node: Node, *, uncounted: tuple[str, ...] = (), inputs: Iterable[Path] = ()) -> str:
    """The identity of a stage: its target, its arguments, and the content of its inputs.

    Args:
        node: with the outputs of the stages before, and the definitions of what its arguments name.
        uncounted: arguments that do not change what it makes.
        inputs: the files and folders that its arguments name. A text of another argument that happens to be the name of
            a folder is only a text.

    >>> stage_key({"_target_": "select", "seed": 0}) == stage_key({"_target_": "select", "seed": 1})
    False
    """
    counted = {name: value for name, value in node.items() if name not in uncounted}
    parts = [("stage", json.dumps(counted, sort_keys=True))]
    parts += [(f"input {number}", _content(path)) for number, path in enumerate(inputs)]
    return combined_sha256(parts)


def _content(path: Path) -> str:
    """The hash of a file or a folder; '' if there is none, which the check of the stage reports."""
    try:
        return folder_sha256(path) if path.is_dir() else file_sha256(path)
    except OSError:
        return ""


def shown_path(path: Path) -> str:
    """A path as an output of a stage: relative to the working folder if it lies in it, so that a project can be moved.

    Args:
        path: absolute.

    >>> shown_path(Path.cwd() / "runs" / "a"), shown_path(Path("/data/runs/a"))
    ('runs/a', '/data/runs/a')
    """
    is_below = path.is_relative_to(Path.cwd()) and runs_root().is_relative_to(Path.cwd())
    return os.path.relpath(path) if is_below else str(path)
