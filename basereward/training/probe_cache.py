"""Keeps the data and the backbone of a probe in memory, so that the next probe of the process need not read them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from basereward.data.batching.loss_units import Unit
from basereward.data.module import PreferenceData
from basereward.model.backbone import Backbone
from basereward.recipe.schema import Recipe


class ProbeCache:
    """Holds data and backbone of the last probe. A probe uses them when it reads the same groups in the same way.

    >>> ProbeCache().find(Recipe(probe=True), rejections_file=Path("lost.jsonl"), unit="group") is None
    True
    """

    def __init__(self) -> None:
        # One entry: the cells of a sweep that share data and backbone follow one another, and two backbones may not fit
        # in memory.
        self._entry: tuple[str, PreferenceData, Backbone] | None = None

    def find(self, recipe: Recipe, *, rejections_file: Path, unit: Unit) -> tuple[PreferenceData, Backbone] | None:
        """Return the data with the plan of this recipe, and the backbone; None when they have to be read.

        Args:
            recipe: of the probe.
            rejections_file: where rejected rows are listed.
            unit: of the probe's objective.
        """
        if self._entry is None or not recipe.probe or self._entry[0] != _key(recipe):
            return None
        _, data, backbone = self._entry
        settings = recipe.trainer
        planned = data.replanned(
            rejections_file=rejections_file,
            unit=unit,
            seed=recipe.seeds.data,
            epochs=settings.epochs,
            steps=settings.steps,
            stages=settings.validations,
        )
        return planned, backbone

    def keep(self, recipe: Recipe, *, data: PreferenceData, backbone: Backbone) -> None:
        """Keep data and backbone of a probe for the next one, in place of earlier ones.

        Args:
            recipe: of the probe.
            data: after `setup`.
            backbone: with its frozen weights.
        """
        self._entry = _key(recipe), data, backbone


def _key(recipe: Recipe) -> str:
    """All settings on which data and backbone depend: without the head, the plan and the optimizer."""
    model = dataclasses.replace(recipe.model, head={})
    trainer = recipe.trainer
    return repr((model, recipe.data, recipe.batch, trainer.precision, trainer.accelerator, trainer.deterministic))
