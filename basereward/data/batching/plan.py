"""The plan of a run: the groups of every micro-batch.

The plan is a function of the recipe and the lengths of the groups only, so that a run can be stopped and resumed at any
step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch.utils.data import Sampler

from basereward.data.batching.token_balancing import assign_bins, bins_needed, largest_bin
from basereward.data.encoding.lengths import Lengths
from basereward.data.mixing.mixture import Mixture
from basereward.errors import RecipeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Place = tuple[int, int]
"""The place of a group: the index of its source, and the index of the group among the usable ones of the source."""

Modality = Literal["mixed", "separate"]
CHUNK = 4096  # steps that are computed together, to limit the memory


class Steps:
    """The division of a run into optimizer steps, micro-batches and stages.

    Args:
        steps: the number of optimizer steps.
        groups: groups per step, over all ranks.
        forwards_per_step: micro-batches (forward passes) per step on every rank.
        ranks: processes that train together.
        stages: the number of stages, which are equally long to within one step; each ends with a validation.
    """

    def __init__(self, steps: int, *, groups: int, forwards_per_step: int, ranks: int, stages: int) -> None:
        self.steps = steps
        self.groups = groups
        self.forwards_per_step = forwards_per_step
        self.ranks = ranks
        self.stages = min(stages, steps)

    def stage(self, index: int) -> range:
        """Return the indices of the micro-batches of a stage."""
        first, last = (i * self.steps // self.stages for i in (index, index + 1))
        return range(first * self.forwards_per_step, last * self.forwards_per_step)


class Plan(Steps):
    """All micro-batches of a run, in order.

    Args:
        mixture: the order of the groups in every epoch.
        groups: groups per optimizer step, over all ranks.
        groups_per_forward: groups per micro-batch on one rank, if there is no budget.
        budget: the largest number of tokens of a micro-batch on one rank. Every step then has the same number of
            micro-batches, the smallest one with which none exceeds the budget, and they have about equal numbers of
            tokens.
        modality: with `separate`, no micro-batch has both groups with images and groups without.
        lengths: the lengths of the groups of every source; required for a budget and for separate modalities.
        ranks: processes that train together.
        epochs: passes through the mixture; the last step is completed from the next epoch.
        steps: the number of optimizer steps; overrides `epochs`.
        stages: the number of stages, which are equally long to within one step; each ends with a validation.

    Raises:
        RecipeError: the groups of a step cannot be distributed over micro-batches.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        groups: int,
        groups_per_forward: int,
        budget: int | None = None,
        modality: Modality = "mixed",
        lengths: Mapping[str, Lengths] | None = None,
        ranks: int = 1,
        epochs: float = 1.0,
        steps: int | None = None,
        stages: int = 1,
    ) -> None:
        steps = steps if steps is not None else math.ceil(epochs * mixture.epoch_size / groups)
        super().__init__(steps, groups=groups, forwards_per_step=1, ranks=ranks, stages=stages)
        self.mixture = mixture
        self.budget = budget
        self.modality = modality
        self._order = lru_cache(maxsize=2)(mixture.order)
        self._cached_step = lru_cache(maxsize=4)(self._step)
        if budget is None and modality == "mixed":
            assert groups % (groups_per_forward * ranks) == 0, "the recipe's check rejects other batch sizes"
            self.forwards_per_step = groups // (groups_per_forward * ranks)
            return
        assert lengths is not None
        # The groups of all sources in one array; `_first[s]` is the index of the first group of source s.
        self._first = np.cumsum([0, *(len(lengths[name]) for name in mixture.names)])
        self._tokens = np.concatenate([lengths[name].tokens for name in mixture.names])
        self._with_images = np.concatenate([lengths[name].images > 0 for name in mixture.names])
        self.forwards_per_step = self._count_forwards(groups_per_forward)

    def forward(self, index: int, *, rank: int = 0) -> list[Place]:
        """Return the groups of one micro-batch on one rank.

        Args:
            index: the index of the micro-batch in the run.
            rank: the process.
        """
        step, part = divmod(index, self.forwards_per_step)
        return self._cached_step(step)[part * self.ranks + rank]

    def tokens(self, place: Place) -> int:
        """Return the tokens of a group in a tree row, if the plan was made with lengths."""
        return int(self._tokens[self._first[place[0]] + place[1]])

    def _step(self, step: int) -> list[list[Place]]:
        """Distribute the groups of a step over micro-batches; those of the ranks follow each other."""
        sources, rows = self._places(np.arange(step * self.groups, (step + 1) * self.groups))
        places = list(zip(sources.tolist(), rows.tolist(), strict=True))
        bins = self.forwards_per_step * self.ranks
        if self.budget is None and self.modality == "mixed":
            size = self.groups // bins
            return [places[i : i + size] for i in range(0, self.groups, size)]
        flat = self._first[sources] + rows
        batches = []
        for members, num_bins in self._split_by_modality(flat, bins):
            longest_first = members[np.argsort(-self._tokens[flat[members]], kind="stable")]
            for items in assign_bins(len(members), num_bins):
                batches.append([places[longest_first[item]] for item in items])
        return batches

    def _places(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return source and row of the groups at positions of the run, each of shape `(N,)`."""
        epochs, offsets = np.divmod(positions, self.mixture.epoch_size)
        sources, rows = np.empty(len(positions), np.int32), np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            epoch_sources, epoch_rows = self._order(int(epoch))
            sources[here], rows[here] = epoch_sources[offsets[here]], epoch_rows[offsets[here]]
        return sources, rows

    def _split_by_modality(self, flat: NDArray[np.int64], bins: int) -> list[tuple[NDArray[np.int64], int]]:
        """Split the groups of a step into those that may be in one micro-batch.

        Args:
            flat: `(G,)`, the indices of the step's groups among all groups.
            bins: micro-batches of the step, over all ranks.

        Returns:
            For each part, the positions of its groups in `flat` and the number of its micro-batches.
        """
        with_images = self._with_images[flat]
        images, texts = np.flatnonzero(with_images), np.flatnonzero(~with_images)
        if self.modality == "mixed" or not len(images) or not len(texts):
            return [(np.arange(len(flat)), bins)]
        # In proportion to the tokens, but at least one micro-batch each and none empty.
        fraction = int(self._tokens[flat[images]].sum()) / int(self._tokens[flat].sum())
        per_rank = bins // self.ranks
        image_bins = min(max(round(per_rank * fraction), 1), per_rank - 1) * self.ranks
        image_bins = min(max(image_bins, bins - len(texts)), len(images))
        return [(images, image_bins), (texts, bins - image_bins)]

    def _count_forwards(self, groups_per_forward: int) -> int:
        """Find the number of micro-batches per step and rank."""
        least = 1 if self.budget is not None else self.groups // (groups_per_forward * self.ranks)
        # Without a budget, a bound that no micro-batch reaches.
        budget = self.budget if self.budget is not None else int(self._tokens.max(initial=1)) * self.groups
        if self.modality == "mixed":
            needed = [bins_needed(chunk, budget, multiple=self.ranks) for chunk in self._sorted_steps()]
            return max([least, *(bins // self.ranks for bins in needed)])
        return self._count_separate(max(least, 2), budget)

    def _count_separate(self, least: int, budget: int) -> int:
        """Find the number of micro-batches per step and rank with separate modalities."""
        passes = least
        for step in range(self.steps):
            sources, rows = self._places(np.arange(step * self.groups, (step + 1) * self.groups))
            flat = self._first[sources] + rows
            while not self._fits(flat, passes * self.ranks, budget):
                passes += 1
                if passes * self.ranks > self.groups:
                    within = f" within batch.tokens={self.budget}" if self.budget is not None else ""
                    raise RecipeError(
                        f"batch.modality is separate, and the {self.groups} groups of step {step + 1} cannot be "
                        f"distributed over forward passes of {self.ranks} ranks{within}; raise batch.groups, or set "
                        "batch.modality=mixed"
                    )
        return passes

    def _fits(self, flat: NDArray[np.int64], bins: int, budget: int) -> bool:
        """Whether the groups of a step fit into `bins` micro-batches."""
        for members, num_bins in self._split_by_modality(flat, bins):
            longest_first = -np.sort(-self._tokens[flat[members]])[None]
            if not 0 < num_bins <= len(members) or int(largest_bin(longest_first, num_bins).max()) > budget:
                return False
        return True

    def _sorted_steps(self) -> Iterator[NDArray[np.int32]]:
        """Yield the tokens of the groups of `CHUNK` steps at a time, in descending order: `(S, G)`."""
        for first in range(0, self.steps, CHUNK):
            last = min(first + CHUNK, self.steps)
            sources, rows = self._places(np.arange(first * self.groups, last * self.groups))
            tokens = self._tokens[self._first[sources] + rows].reshape(last - first, self.groups)
            yield -np.sort(-tokens, axis=1)


class StageSampler(Sampler[list[Place]]):
    """The micro-batches of one stage on one rank.

    Its length is that of the whole stage, because Lightning counts the batches of a resumed epoch from its beginning.

    Args:
        plan: the plan of the run.
        stage: the index of the stage.
        rank: the process.
        done: micro-batches of the run that are done; iteration begins after them.
    """

    def __init__(self, plan: Plan, stage: int, *, rank: int, done: int) -> None:
        self.plan = plan
        self.forwards = plan.stage(stage)
        self.rank = rank
        self.start = min(max(done, self.forwards.start), self.forwards.stop)

    def __len__(self) -> int:
        return len(self.forwards)

    def __iter__(self) -> Iterator[list[Place]]:
        for index in range(self.start, self.forwards.stop):
            yield self.plan.forward(index, rank=self.rank)
