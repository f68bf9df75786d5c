"""What a recipe would train on: rows, tokens and shares of its sources, counted without a model."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from basereward.data.batching.plan import Plan
from basereward.data.batching.tree_batch import PADDING
from basereward.data.module import PreferenceData
from basereward.data.schema.columns import ReportsColumns
from basereward.data.schema.group import SPLITS
from basereward.data.schema.rejections import summary
from basereward.data.summary import describe_group
from basereward.errors import DataError
from basereward.io.cache import cache_folder
from basereward.model.families.processing import recipe_encoder
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe.schema import Recipe
from basereward.training.build import build_data

logger = logging.getLogger(__name__)


def preview(recipe: Recipe) -> dict[str, Any]:
    """The plan of a recipe's data.

    Returns:
        `sources`: for each its groups by part, and of those that train the tokens (each prefix once), the images, the
        share of an epoch by groups and by tokens, the lost rows by reason, and `reading`, which shows how its rows are
        read (see `_reading`); `modality`: the shares of groups with
        images and without; `steps`, `forwards_per_step`, and `padding`, the share of tokens that are none.

    Raises:
        BaseRewardError: anything that the recipe or the data have wrong, but for too many lost rows, which are told.
    """
    if recipe.data.streaming is not None:
        raise DataError("data.streaming knows nothing of its sources before they are read; leave it out to count them")
    encoder = recipe_encoder(recipe, path=backbone_path(recipe.model.backbone))
    data = build_data(recipe, encoder=encoder, lost_file=lost_file(recipe.name), max_lost=1.0)
    data.setup()
    return _told(data)


def lost_file(name: str) -> Path:
    """Where the lost rows of a recipe are listed when no run is made of it; the last listing is kept.

    Where the cache cannot be written, it is a new folder for temporary files, which a warning names.
    """
    folder = cache_folder() / "lost"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.mkdtemp(prefix="basereward-lost-"))
        logger.warning("the cache folder '%s' cannot be written; lost rows are listed in %s", cache_folder(), folder)
    return folder / f"{name.replace('/', '-')}.jsonl"


def _told(data: PreferenceData) -> dict[str, Any]:
    assert isinstance(data.plan, Plan)
    plan, trained = data.plan, data.lengths["train"]
    counts = plan.mixture.counts
    means = {name: float(each.tokens.mean()) if len(each) else 0.0 for name, each in trained.items()}
    tokens = {name: counts[name] * means[name] for name in trained}
    lost = summary(data.lost)
    sources = {
        name: {
            "groups": {split: len(data.lengths[split][name]) for split in SPLITS},
            "tokens": int(each.tokens.sum()),
            "images": int(each.images.sum()),
            "epoch_groups": counts[name],
            "share_of_groups": counts[name] / plan.mixture.epoch_size,
            "share_of_tokens": tokens[name] / max(sum(tokens.values()), 1.0),
            "lost": lost.get(name, {}),
            "reading": _reading(data, name),
        }
        for name, each in trained.items()
    }
    pictured = {name: float((each.images > 0).mean()) if len(each) else 0.0 for name, each in trained.items()}
    with_images = sum(counts[name] * pictured[name] for name in trained) / plan.mixture.epoch_size
    return {
        "sources": sources,
        "modality": {"image": with_images, "text": 1 - with_images},
        "epoch_groups": plan.mixture.epoch_size,
        "epoch_tokens": round(sum(tokens.values())),
        "steps": plan.steps,
        "groups_per_step": plan.groups,
        "forwards_per_step": plan.forwards_per_step,
        "padding": _padding(data),
    }


def _reading(data: PreferenceData, name: str) -> dict[str, Any]:
    """How the rows of a source are read.

    Returns:
        `columns`, our name of each column that is read -> the data's own; `not_read`, the columns that nothing reads;
        `notes`; `first`, the first usable group as `describe_group` gives it, or null where there is none.
    """
    source = data.sources[name]
    columns = source.columns_read() if isinstance(source, ReportsColumns) else None
    first = next(
        (
            source.groups(split)[int(data.lengths[split][name].index[0])]
            for split in SPLITS
            if data.lengths[split][name]
        ),
        None,
    )
    return {
        "columns": {} if columns is None else columns.read,
        "not_read": [] if columns is None else columns.unread,
        "notes": [] if columns is None else list(columns.notes),
        "first": None if first is None else describe_group(first),
    }


def _padding(data: PreferenceData, *, passes: int = 8) -> float:
    """The share of tokens that are padding, in the first forward passes."""
    assert isinstance(data.plan, Plan)
    if data.layout == "tree":
        return 0.0  # groups stand in one row
    indices = range(min(passes, data.plan.steps * data.plan.forwards_per_step))
    batches = [data.collate([data.parts["train"][place] for place in data.plan.forward(i)]) for i in indices]
    padded = sum(int((batch.branch == PADDING).sum()) for batch in batches)
    return padded / sum(batch.branch.numel() for batch in batches)
