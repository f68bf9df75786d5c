"""The stage that runs the cells of another experiment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from basereward.errors import RecipeError, TrainingError
from basereward.pipelines.stages.contracts import UNTRAINED, StageResult, definition
from basereward.recipe import Experiment, load_experiment
from basereward.sweeps.saved_sweep import sweep_grid
from basereward.sweeps.sweep import sweep
from basereward.training.preflight import quick_findings


class Sweep:
    """Runs every cell of an experiment that varies something, as `basereward sweep` does, each as a run of its own.

    `basereward report` with the same experiment, profile and overrides has the comparison. Output: `sweep`, the id of
    the sweep.

    Args:
        experiment: the name of a file in `experiments`, or the path of one.
        profile: of the experiment; `${profile}`: that of the pipeline; null: none.
        settings: keys of the experiment and their values, such as outputs of earlier stages; `grid.KEY` replaces an
            axis.
    """

    outputs: ClassVar[tuple[str, ...]] = ("sweep",)
    uncounted: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, experiment: str, profile: str | None = None, settings: dict[str, Any] | None = None) -> None:
        self.experiment = experiment
        self.profile = profile
        # JSON is YAML, so that texts keep their type.
        self.overrides = [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]

    def definitions(self) -> Mapping[str, Any]:
        """As `Stage.definitions`: the names of the cells and the hashes of their recipes, and the ensembles."""
        return {"cells": definition(self._defined)}

    def inputs(self) -> Sequence[Path]:
        """As `Stage.inputs`; the runs of the cells notice other files themselves."""
        return []

    def _defined(self) -> list[str]:
        experiment = self._loaded()
        return [sweep_grid(experiment), *map(str, experiment.ensembles.items())]

    def preview(self, folder: Path) -> Mapping[str, str]:
        """As `Stage.preview`; checks the cells without their models, whose starts may be stand-ins."""
        experiment = self._loaded()
        found = quick_findings(experiment.cells)
        # The model of an earlier stage is no backbone yet; the check of that stage has its faults.
        faults = [str(fault) for fault in found.faults if UNTRAINED not in str(fault)]
        if faults:
            raise RecipeError(f"the sweep of '{self.experiment}' has faults: {'; '.join(faults)}")
        return {"sweep": "a-sweep"}

    def run(self, folder: Path) -> StageResult:
        """As `Stage.run`; finished cells are skipped, interrupted ones resume.

        Raises:
            TrainingError: a cell has failed; the others are finished.
        """
        result = sweep(self._loaded())
        failed = [row["name"] for row in [*result["cells"], *result["ensembles"]] if row["status"] == "failed"]
        if failed:
            raise TrainingError(f"cells of sweep {result['sweep_id']} have failed: {', '.join(failed)}")
        metrics: dict[str, float] = {}
        for row in [*result["cells"], *result["ensembles"]]:
            # Names of metrics in MLflow have no `=` and no comma.
            name = re.sub("[=,]", "_", row["name"])
            metrics |= {f"{name}/{key}": value for key, value in row["metrics"].items() if value is not None}
        facts = {key: result[key] for key in ("cells", "ensembles", "differences")}
        return StageResult({"sweep": result["sweep_id"]}, metrics, facts)

    def _loaded(self) -> Experiment:
        return load_experiment(self.experiment, profile=self.profile, overrides=self.overrides)
