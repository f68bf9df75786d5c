"""Which groups every step of a run trains on: a function of the recipe and the lengths of the groups alone, so that a
run can be stopped and continued anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch.utils.data import Sampler

from basereward.data.batching.token_balancing import deal, hands_needed, largest_hand
from basereward.data.encoding.lengths import Lengths
from basereward.data.mixing.mixture import Mixture
from basereward.errors import RecipeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Place = tuple[int, int]
"""A group's place: index of its source, index of the group in it."""

Modality = Literal["mixed", "separate"]
CHUNK = 4096  # steps that are looked at together


class Steps:
    """How a run is cut into steps, forward passes and stages.

    Args:
        steps: optimizer steps.
        groups: groups a step, over all ranks.
        forwards_per_step: forward passes a step takes on every rank.
        stages: equal stretches of the run, to within one step; a validation ends each.
    """

    def __init__(self, steps: int, *, groups: int, forwards_per_step: int, ranks: int, stages: int) -> None:
        self.steps = steps
        self.groups = groups
        self.forwards_per_step = forwards_per_step
        self.ranks = ranks
        self.stages = min(stages, steps)

    def stage(self, index: int) -> range:
        """The forward passes of a stage."""
        first, last = (i * self.steps // self.stages for i in (index, index + 1))
        return range(first * self.forwards_per_step, last * self.forwards_per_step)

    def share(self, groups: int) -> float:
        """What a pass of so many groups counts among the passes of its step, 1 on average: those of a token budget hold
        unequal numbers, and every group of a step has the same say."""
        return groups * self.forwards_per_step * self.ranks / self.groups


class Plan(Steps):
    """All forward passes of a run, in order.

    Args:
        mixture: the order of the groups in every epoch.
        groups: groups a step of the optimizer, over all ranks.
        groups_per_forward: groups a forward pass on one rank, when there is no budget.
        budget: tokens a forward pass on one rank may have. Every step then takes the same number of passes, the fewest
            with which none is above the budget, and its groups are shared out so that the passes are about alike.
        modality: with `separate` no pass has both groups with images and groups without.
        lengths: of the groups of every source; needed for a budget and for separate modalities.
        ranks: processes that train together.
        epochs: passes through the mixture; the last step is filled up from the next pass.
        steps: optimizer steps; overrides `epochs`.
        stages: equal stretches of the run, to within one step; a validation ends each.

    Raises:
        RecipeError: the groups of a step cannot be shared out.
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
        self._dealt = lru_cache(maxsize=4)(self._deal)
        if budget is None and modality == "mixed":
            assert groups % (groups_per_forward * ranks) == 0, "the recipe's check lets no other batch through"
            self.forwards_per_step = groups // (groups_per_forward * ranks)
            return
        assert lengths is not None
        self._first = np.cumsum([0, *(len(lengths[name]) for name in mixture.names)])  # of each source in the flat ones
        self._tokens = np.concatenate([lengths[name].tokens for name in mixture.names])
        self._with_images = np.concatenate([lengths[name].images > 0 for name in mixture.names])
        self.forwards_per_step = self._count_forwards(groups_per_forward)

    def forward(self, index: int, *, rank: int = 0) -> list[Place]:
        """The groups of one forward pass on one rank."""
        step, part = divmod(index, self.forwards_per_step)
        return self._dealt(step)[part * self.ranks + rank]

    def tokens(self, place: Place) -> int:
        """Of one group, when the plan knows lengths."""
        return int(self._tokens[self._first[place[0]] + place[1]])

    def _deal(self, step: int) -> list[list[Place]]:
        """The groups of a step by pass and rank."""
        sources, rows = self._places(np.arange(step * self.groups, (step + 1) * self.groups))
        places = list(zip(sources.tolist(), rows.tolist(), strict=True))
        hands = self.forwards_per_step * self.ranks
        if self.budget is None and self.modality == "mixed":
            size = self.groups // hands
            return [places[i : i + size] for i in range(0, self.groups, size)]
        flat = self._first[sources] + rows
        dealt = []
        for chosen, share in self._shares(flat, hands):
            longest_first = chosen[np.argsort(-self._tokens[flat[chosen]], kind="stable")]
            dealt += [[places[longest_first[card]] for card in hand] for hand in deal(len(chosen), share)]
        return dealt

    def _places(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Source and row of the groups at places in the run, each of shape `(N,)`."""
        epochs, offsets = np.divmod(positions, self.mixture.epoch_size)
        sources, rows = np.empty(len(positions), np.int32), np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            of_epoch = self._order(int(epoch))
            sources[here], rows[here] = of_epoch[0][offsets[here]], of_epoch[1][offsets[here]]
        return sources, rows

    def _shares(self, flat: NDArray[np.int64], hands: int) -> list[tuple[NDArray[np.int64], int]]:
        """Groups of a step that may meet in a pass, and the passes that they get."""
        with_images = self._with_images[flat]
        pictures, texts = np.flatnonzero(with_images), np.flatnonzero(~with_images)
        if self.modality == "mixed" or not len(pictures) or not len(texts):
            return [(np.arange(len(flat)), hands)]
        part = int(self._tokens[flat[pictures]].sum()) / int(self._tokens[flat].sum())
        passes = hands // self.ranks
        share = min(max(round(passes * part), 1), passes - 1) * self.ranks
        share = min(max(share, hands - len(texts)), len(pictures))
        return [(pictures, share), (texts, hands - share)]

    def _count_forwards(self, groups_per_forward: int) -> int:
        least = 1 if self.budget is not None else self.groups // (groups_per_forward * self.ranks)
        budget = self.budget if self.budget is not None else int(self._tokens.max(initial=1)) * self.groups
        if self.modality == "mixed":
            needed = [hands_needed(chunk, budget, multiple=self.ranks) for chunk in self._sorted_steps()]
            return max([least, *(hands // self.ranks for hands in needed)])
        return self._count_separate(max(least, 2), budget)

    def _count_separate(self, least: int, budget: int) -> int:
        passes = least
        for step in range(self.steps):
            sources, rows = self._places(np.arange(step * self.groups, (step + 1) * self.groups))
            flat = self._first[sources] + rows
            while not self._fits(flat, passes * self.ranks, budget):
                passes += 1
                if passes * self.ranks > self.groups:
                    within = f" within batch.tokens={self.budget}" if self.budget is not None else ""
                    raise RecipeError(
                        f"batch.modality is separate, and the {self.groups} groups of step {step + 1} cannot be shared "
                        f"out over passes of {self.ranks} ranks{within}; raise batch.groups, or leave batch.modality "
                        "mixed"
                    )
        return passes

    def _fits(self, flat: NDArray[np.int64], hands: int, budget: int) -> bool:
        for chosen, share in self._shares(flat, hands):
            longest_first = -np.sort(-self._tokens[flat[chosen]])[None]
            if not 0 < share <= len(chosen) or int(largest_hand(longest_first, share).max()) > budget:
                return False
        return True

    def _sorted_steps(self) -> Iterator[NDArray[np.int32]]:
        """The tokens of every step's groups, longest first, some thousand steps at a time: shape `(S, G)`."""
        for first in range(0, self.steps, CHUNK):
            last = min(first + CHUNK, self.steps)
            sources, rows = self._places(np.arange(first * self.groups, last * self.groups))
            tokens = self._tokens[self._first[sources] + rows].reshape(last - first, self.groups)
            yield -np.sort(-tokens, axis=1)


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
