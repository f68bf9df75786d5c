"""The stage that trains a model, by any objective."""

from __future__ import annotations

from typing import Any, ClassVar


class Train:
    """Trains a model as `basereward train` does, as a run of its own.

    Outputs: `run`, the id of the run; `model`, the folder of its model; `checkpoint`, of a judge, its weights as a chat
    checkpoint in the hub's format, which `model.backbone.path` of another training opens.

    Args:
        recipe: the keys that this training changes in the recipe of the experiment and its profile.
    """

    outputs: ClassVar[tuple[str, ...]] = ("run", "model", "checkpoint")
    uncounted: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, recipe: dict[str, Any]) -> None:
        self.recipe = recipe
