"""BaseReward: a recipe-driven trainer of multimodal reward models.

The public names are imported at their first use, so that `import basereward` does not import torch.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from basereward.data.conversion import convert
    from basereward.errors import BaseRewardError
    from basereward.inference.load_model import from_pretrained, load
    from basereward.inference.reward_scorer import RewardScorer
    from basereward.recipe import load_cells, load_recipe
    from basereward.training.build import build

__all__ = [
    "BaseRewardError",
    "RewardScorer",
    "build",
    "convert",
    "from_pretrained",
    "load",
    "load_cells",
    "load_recipe",
]

_MODULES = {
    "BaseRewardError": "basereward.errors",
    "RewardScorer": "basereward.inference.reward_scorer",
    "build": "basereward.training.build",
    "convert": "basereward.data.conversion",
    "from_pretrained": "basereward.inference.load_model",
    "load": "basereward.inference.load_model",
    "load_cells": "basereward.recipe",
    "load_recipe": "basereward.recipe",
}

# peft imports bitsandbytes, which looks for optional CPU kernels on import and warns that they are not installed; it
# works without them. The level of this one logger is set for the whole process, and here, because any of our modules
# may be the first that imports peft.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
