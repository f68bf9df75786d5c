"""Lightning's loggers that a recipe adds to MLflow: `tracking.also`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from basereward.recipe.schema import Recipe
from basereward.runs.params import flatten
from basereward.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)


def other_loggers(recipe: Recipe, run: RunFolder) -> list[Logger]:
    """Make the loggers of `tracking.also`.

    TensorBoard's files are in the folder `tensorboard` of the run. Weights & Biases gets the project that MLflow calls
    the experiment; its own variables, such as WANDB_MODE and WANDB_ENTITY, apply.

    Args:
        recipe: of the run.
        run: its folder.

    >>> other_loggers(Recipe(), RunFolder.reserve())
    []
    """
    loggers: list[Logger] = []
    for name in recipe.tracking.also:
        if name == "tensorboard":
            loggers.append(TensorBoardLogger(run.path, name="tensorboard", version=""))
        else:
            project = recipe.tracking.experiment or recipe.name
            # The id lets a resumed run continue. W&B refuses slashes in the name of a project.
            loggers.append(
                WandbLogger(
                    name=run.name,
                    id=run.run_id,
                    project=project.replace("/", "-"),
                    group=run.status["parent"],
                    save_dir=run.path,
                    resume="allow",
                    config=flatten(dataclasses.asdict(recipe)),
                )
            )
    for opened in loggers:
        # Opened here: the first of two threads to log would open it, and the second one once more.
        _ = getattr(opened, "experiment")  # noqa: B009 - the base class does not declare it
    return loggers


def close_loggers(loggers: Sequence[Logger], state: str) -> None:
    """Write what the loggers still hold, and end their runs. A failure is a warning: MLflow has the record.

    Args:
        loggers: from `other_loggers`.
        state: how the run ends: `finished`, `failed` or `killed`.

    >>> close_loggers([], "finished")
    """
    for closed in loggers:
        try:
            closed.finalize("success" if state == "finished" else "failed")
            # Lightning leaves the run of W&B open until the process ends, and a process may train several cells.
            if isinstance(closed, WandbLogger):
                closed.experiment.finish(exit_code=0 if state == "finished" else 1)
        except Exception as error:  # noqa: BLE001 - a library of others must not turn a finished run into a failed one
            logger.warning("%s was not closed: %s", type(closed).__name__, error)
