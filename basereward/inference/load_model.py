"""Opens trained models."""

from __future__ import annotations

import os

from basereward.inference.ensemble import Ensemble, is_ensemble, load_ensemble
from basereward.inference.scorer import Scorer, load_scorer
from basereward.recipe.trust import trusting
from basereward.runs.resolve_model import resolve_model


def load(
    model: str | os.PathLike[str], *, device: str | None = None, dtype: str | None = None, trust: bool = False
) -> Scorer | Ensemble:
    """Opens a trained model, or an ensemble of them.

    Args:
        model: a run id, `runs:/<run id>/model`, or a folder that was saved.
        device: None: the GPU if there is one.
        dtype: of the backbone's weights, `float32` or `bfloat16`; None: as in training. The head is always in float32.
        trust: whether heads from outside of this package, and Python files of the checkpoint, may run. A folder from
            elsewhere can name any code, so only the caller can allow it.

    Raises:
        RunError: there is no such run.
        ModelError: the folder is not a saved model, or its weights do not fit; there is no such dtype, or the weights
            are quantised and cannot be cast to it.
    """
    folder = resolve_model(str(model))
    with trusting(trust):
        if is_ensemble(folder):
            return load_ensemble(folder, find=resolve_model, device=device, dtype=dtype)
        return load_scorer(folder, device=device, dtype=dtype)
