"""What probes of one process have in common, so that it is read once for all of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from basereward.data.module import PreferenceData
from basereward.model.backbone import Backbone
from basereward.recipe.schema import Recipe


class ProbeCache:
    """What the last probe stood on: the next one does too when it reads the same groups in the same way."""

    def __init__(self) -> None:
        self._kept: tuple[str, PreferenceData, Backbone] | None = None

    def find(self, recipe: Recipe, *, lost_file: Path) -> tuple[PreferenceData, Backbone] | None:
        """The data of a recipe in its own plan, and the backbone; None where they have to be read."""
        if self._kept is None or not recipe.probe or self._kept[0] != _key(recipe):
            return None
        _, data, backbone = self._kept
        settings = recipe.trainer
        planned = data.replanned(
            lost_file=lost_file,
            seed=recipe.seeds.data,
            epochs=settings.epochs,
            steps=settings.steps,
            stages=settings.validations,
        )
        return planned, backbone

    def keep(self, recipe: Recipe, *, data: PreferenceData, backbone: Backbone) -> None:
        """Keeps what a probe stands on for the next one."""
        self._kept = _key(recipe), data, backbone


def _key(recipe: Recipe) -> str:
    """All of a recipe but what a run of a probe alone decides: its head, its plan, how it is trained."""
    model = dataclasses.replace(recipe.model, head={})
    trainer = recipe.trainer
    return repr((model, recipe.data, recipe.batch, trainer.precision, trainer.accelerator, trainer.deterministic))
