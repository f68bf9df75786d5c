"""Counts what a recipe would train on, without a model: groups, tokens, images and shares of its sources."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.cluster.options import ClusterOptions
from basereward.cluster.shards import ShardedRows
from basereward.data.batching.plan import Plan
from basereward.data.batching.tree_batch import PADDING
from basereward.data.module import PreferenceData
from basereward.data.schema.group import SPLITS
from basereward.data.schema.rejections import summary
from basereward.data.summary import describe_reading, first_usable
from basereward.errors import DataError
from basereward.io.files import cache_folder, set_aside
from basereward.model.families.processing import recipe_encoder
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe import recipe_yaml
from basereward.recipe.schema import Recipe
from basereward.training.build import build_data

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


def preview(recipe: Recipe, *, cluster: ClusterOptions | None = None) -> dict[str, Any]:
    """Summarise the data of a recipe and their plan.

    Args:
        recipe: whose sources are read.
        cluster: read them in shards on this cluster; None: on this machine. The result is the same.

    Returns:
        `sources`: of each the groups by split; of its training groups the tokens (each prefix counted once), the
        images, and the shares of an epoch by groups and by tokens; the rejected rows by reason (`lost`); and
        `reading`, how its rows are read (see `describe_reading`). `modality`: shares of groups with and without images.
        `epoch_groups`, `epoch_tokens`, `steps`, `groups_per_step`, `forwards_per_step`; `padding`, the share of
        padding tokens.

    Raises:
        BaseRewardError: the recipe or the data have an error. Too many rejected rows are no error here; they are in
            the result.
    """
    if recipe.data.streaming is not None:
        raise DataError("streamed sources cannot be counted before they are read; remove data.streaming to count them")
    encoder = recipe_encoder(recipe, path=backbone_path(recipe.model.backbone))
    listed_in = preview_rejections_file(recipe.name)
    with recipe_shards(recipe, cluster) as rows:
        data = build_data(recipe, encoder=encoder, rejections_file=listed_in, max_lost=1.0, rows=rows)
        data.setup()
    return _summary(data)


@contextlib.contextmanager
def recipe_shards(recipe: Recipe, cluster: ClusterOptions | None) -> Iterator[ShardedRows | None]:
    """Joins a cluster for the rows of a recipe; shards are removed when the block ends without an error.

    Args:
        recipe: whose rows are read. Its shards are in a folder of their own in `$BASEREWARD_CACHE/shards`.
        cluster: None: nothing is joined.

    >>> with recipe_shards(Recipe(), None) as rows:
    ...     print(rows)
    None
    """
    if cluster is None:
        yield None
        return
    name = hashlib.sha256(recipe_yaml(recipe).encode()).hexdigest()[:16]
    with ShardedRows(cluster, folder=cache_folder() / "shards" / name) as rows:
        yield rows
        rows.remove()


def preview_rejections_file(name: str) -> Path:
    """The file that lists the rejected rows of a recipe when there is no run; the last list is kept.

    When the cache folder cannot be written, the file is in a new temporary folder, which a warning names.

    Args:
        name: of the recipe.

    >>> preview_rejections_file("mine/small").name
    'mine-small.jsonl'
    """
    folder = cache_folder() / "lost"
    # `mkdir` succeeds for a folder that exists and is read-only, so the permission is asked for too.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.mkdtemp(prefix="basereward-lost-"))
        logger.warning(
            "the cache folder '%s' cannot be written; rejected rows are listed in %s", cache_folder(), folder
        )
    file = folder / f"{name.replace('/', '-')}.jsonl"
    set_aside(file)
    return file


def _summary(data: PreferenceData) -> dict[str, Any]:
    assert isinstance(data.plan, Plan)
    plan, lengths_by_source = data.plan, data.lengths["train"]
    mixture = plan.mixture
    # The groups of an epoch are drawn without regard to their length, so their mean length is that of the source.
    epoch_tokens = {name: mixture.counts[name] * _mean(lengths.tokens) for name, lengths in lengths_by_source.items()}
    total_tokens = sum(epoch_tokens.values())
    rejected = summary(data.rejected)
    sources = {}
    num_with_images = 0.0
    for name, lengths in lengths_by_source.items():
        epoch_groups = mixture.counts[name]
        num_with_images += epoch_groups * _mean(lengths.images > 0)
        sources[name] = {
            "groups": {split: len(data.lengths[split][name]) for split in SPLITS},
            "tokens": int(lengths.tokens.sum()),
            "images": int(lengths.images.sum()),
            "epoch_groups": epoch_groups,
            "share_of_groups": epoch_groups / mixture.epoch_size,
            # A total of 0 has shares of 0.
            "share_of_tokens": epoch_tokens[name] / max(total_tokens, 1.0),
            "lost": rejected.get(name, {}),
            "reading": describe_reading(data.sources[name], first_usable(data, name)),
        }
    image_share = num_with_images / mixture.epoch_size
    return {
        "sources": sources,
        "modality": {"image": image_share, "text": 1 - image_share},
        "epoch_groups": mixture.epoch_size,
        "epoch_tokens": round(total_tokens),
        "steps": plan.steps,
        "groups_per_step": plan.groups,
        "forwards_per_step": plan.forwards_per_step,
        "padding": _padding(data),
    }


def _mean(values: NDArray[Any]) -> float:
    """The mean; 0 of no values, where numpy would warn."""
    return float(values.mean()) if len(values) else 0.0


def _padding(data: PreferenceData, *, passes: int = 8) -> float:
    """The share of padding tokens in the first micro-batches."""
    assert isinstance(data.plan, Plan)
    # All groups of a micro-batch are in one row, which needs no padding.
    if data.layout == "tree":
        return 0.0
    padding = total = 0
    # The first ones are a fair sample, because the order of the groups is random; encoding all would take hours.
    for index in range(min(passes, data.plan.steps * data.plan.forwards_per_step)):
        batch = data.collate([data.parts["train"][place] for place in data.plan.forward(index)])
        padding += int((batch.rows.branch == PADDING).sum())
        total += batch.rows.branch.numel()
    return padding / total
