"""The rows of a run of reinforcement learning: usable groups of all sources, and the order of the prompts."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basereward.data.encoding.encoder import Encoder
from basereward.data.encoding.lengths import Lengths, measure
from basereward.data.lazy_table import LazyTable
from basereward.data.mixing.mixture import Mixture
from basereward.data.schema.group import SPLITS, Group, RejectedRow, Split
from basereward.data.schema.rejections import check_limit, summary, write_rejections
from basereward.data.sources import LazyGroups, Source
from basereward.errors import DataError
from basereward.io.files import cache_folder
from basereward.recipe import make
from basereward.recipe.schema import Recipe


class RolloutRows:
    """The groups of a recipe's sources, each checked once, as `PreferenceData` does.

    Args:
        recipe: of the run.
        encoder: that a judge was trained with, or that of the policy. A group that it cannot encode is rejected.
        rejections_file: where rejected rows are listed.

    Raises:
        TooManyRowsLost: more rows are rejected than `data.max_lost` allows.
        DataError: a source is malformed, or there is nothing to train on.

    Attributes:
        lengths: lengths of the usable groups by split and source.
        rejected: the rejected rows.
    """

    def __init__(self, recipe: Recipe, *, encoder: Encoder, rejections_file: Path) -> None:
        self.recipe = recipe
        self.sources: dict[str, Source] = {}
        for name, node in recipe.data.sources.items():
            self.sources[name] = make(node, "sources", name)
        self.lengths: dict[Split, dict[str, Lengths]] = {split: {} for split in SPLITS}
        self.rejected: list[RejectedRow] = []
        self.rejections_file = rejections_file
        # TRL passes images to the policy, and no videos.
        self._read(encoder.without_videos())

    def _read(self, encoder: Encoder) -> None:
        rows: dict[str, int] = {}
        for name, source in self.sources.items():
            for split in SPLITS:
                # Without target texts, which rollouts take the place of.
                self.lengths[split][name], rejected = measure(
                    *(source, split),
                    encoder=encoder,
                    workers=self.recipe.data.workers,
                    cache=cache_folder() / "lengths",
                    with_targets=False,
                )
                rows[name] = rows.get(name, 0) + len(self.lengths[split][name]) + len(rejected)
                self.rejected += rejected
        if self.rejected:
            write_rejections(self.rejections_file, self.rejected)
        limits: dict[str, Any] = {"max_lost": self.recipe.data.max_lost, "listed_in": self.rejections_file}
        check_limit(self.rejected, rows=rows, **limits)

    @property
    def content(self) -> dict[str, dict[str, str]]:
        """A hash of the groups of each split, by source."""
        content: dict[str, dict[str, str]] = {}
        for name in self.sources:
            content[name] = {split: of_source[name].content for split, of_source in self.lengths.items()}
        return content

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        """The number of rejected rows by source and reason."""
        return summary(self.rejected)

    def list_rejections_in(self, file: Path) -> None:
        """List the rejected rows in another file."""
        self.rejections_file = file
        if self.rejected:
            write_rejections(file, self.rejected)

    def groups(self, split: Split, name: str) -> Sequence[Group]:
        """The usable groups of a split of a source."""
        groups, index = self.sources[name].groups(split), self.lengths[split][name].index
        return LazyGroups(lambda place: groups[int(index[place])], count=len(index))

    def training_groups(self) -> Sequence[Group]:
        """The training groups of an epoch, in the ratios of the mixture.

        Raises:
            DataError: there are none.
        """
        mixture = self.recipe.data.mixture
        of_source = {name: self.groups("train", name) for name in self.sources}
        sizes = {name: len(groups) for name, groups in of_source.items()}
        if not any(sizes.values()):
            raise DataError(
                f"there are no usable training rows in {', '.join(sizes)}. Give more rows, or hold out fewer"
            )
        mixed = Mixture(
            sizes,
            weights=mixture.weights or None,
            limits=mixture.limits or None,
            passes=mixture.passes or None,
            stop=mixture.stop,
            seed=self.recipe.seeds.data,
        )
        sources, rows = mixed.order(0)
        return LazyGroups(lambda place: of_source[mixed.names[sources[place]]][int(rows[place])], count=len(sources))


def ordered_rows(table: LazyTable, *, count: int, seed: int) -> LazyTable:
    """The rows of a table for the prompts of all steps: one permutation after the other, drawn by the seed.

    One pass over this table is the whole run, so that a run which resumes has the order of one that never stopped.

    Args:
        table: the rows of an epoch.
        count: prompts of all steps.
        seed: of the permutations.

    >>> from basereward.data.lazy_table import lazy_table
    >>> rows = ordered_rows(lazy_table(lambda index: {"row": index}, 3), count=7, seed=0)
    >>> len(rows), sorted(rows[:3]["row"]), sorted(rows[3:6]["row"])
    (7, [0, 1, 2], [0, 1, 2])
    """
    order: list[int] = []
    for epoch in itertools.count():
        if len(order) >= count:
            break
        places = list(range(len(table)))
        random.Random(f"rollouts/{seed}/{epoch}").shuffle(places)
        order += places
    return table.select(order[:count])


def num_steps(recipe: Recipe, *, rows: int) -> int:
    """The optimizer steps of a run: `trainer.steps`, or those of `trainer.epochs` passes over the rows.

    Args:
        recipe: of the run.
        rows: prompts of an epoch.

    >>> import dataclasses
    >>> num_steps(Recipe(batch=dataclasses.replace(Recipe().batch, groups=4)), rows=10)
    3
    """
    if recipe.trainer.steps is not None:
        return recipe.trainer.steps
    return max(1, math.ceil(recipe.trainer.epochs * rows / recipe.batch.groups))


def validation_steps(steps: int, *, validations: int, updates: int) -> list[int]:
    """The steps after which the held-out rows are answered: evenly spread, the last one always among them.

    A checkpoint follows, so each is the last step of the rollouts of a generation, except the last step of the run.

    Args:
        steps: of the run.
        validations: their number.
        updates: steps with the rollouts of one generation.

    >>> validation_steps(10, validations=2, updates=1), validation_steps(10, validations=4, updates=4)
    ([5, 10], [4, 8, 10])
    """
    due: set[int] = {steps}
    for number in range(1, validations):
        step = number * steps / validations
        due.add(min(steps, max(1, round(step / updates)) * updates))
    return sorted(due)


def evenly_spread(groups: Sequence[Group], most: int | None) -> Sequence[Group]:
    """At most some of the groups, evenly spread over them.

    Args:
        groups: of a split of a source.
        most: their number; None: all.

    >>> [group for group in evenly_spread(range(10), 3)]
    [0, 3, 6]
    """
    if most is None or len(groups) <= most:
        return groups
    return LazyGroups(lambda place: groups[place * len(groups) // most], count=most)
