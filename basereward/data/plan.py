"""Which groups every step of a run trains on: a function of the recipe alone, so that a run can be
stopped and continued anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from torch.utils.data import Sampler

from basereward.data.mixture import Mixture

Place = tuple[int, int]
"""A group's place: index of its source, index of the group in it."""


class Plan:
    """All forward passes of a run, in order.

    Args:
        mixture: the order of the groups in every epoch.
        groups: groups a step of the optimizer, over all ranks.
        groups_per_forward: groups a forward pass on one rank.
        ranks: processes that train together.
        epochs: passes through the mixture; the last step is filled up from the next pass.
        steps: optimizer steps; overrides `epochs`.
        stages: equal stretches of the run, to within one step; a validation ends each.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        groups: int,
        groups_per_forward: int,
        ranks: int = 1,
        epochs: float = 1.0,
        steps: int | None = None,
        stages: int = 1,
    ) -> None:
        assert groups % (groups_per_forward * ranks) == 0, "the recipe's check lets no other batch through"
        self.mixture = mixture
        self.groups = groups
        self.groups_per_forward = groups_per_forward
        self.ranks = ranks
        self.steps = steps if steps is not None else math.ceil(epochs * mixture.epoch_size / groups)
        self.forwards_per_step = groups // (groups_per_forward * ranks)
        self.stages = min(stages, self.steps)
        self._order = lru_cache(maxsize=2)(mixture.order)

    def stage(self, index: int) -> range:
        """The forward passes of a stage."""
        first, last = (i * self.steps // self.stages for i in (index, index + 1))
        return range(first * self.forwards_per_step, last * self.forwards_per_step)

    def forward(self, index: int, *, rank: int = 0) -> list[Place]:
        """The groups of one forward pass on one rank."""
        first = (index * self.ranks + rank) * self.groups_per_forward
        return [self._place(first + i) for i in range(self.groups_per_forward)]

    def _place(self, position: int) -> Place:
        epoch, offset = divmod(position, self.mixture.epoch_size)
        sources, rows = self._order(epoch)
        return int(sources[offset]), int(rows[offset])


class StageSampler(Sampler[list[Place]]):
    """The batches of one stage on one rank. It counts the whole stage and may start inside it, where a stopped run
    goes on."""

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
