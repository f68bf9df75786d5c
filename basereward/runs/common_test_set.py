"""The test groups that several recipes have in common, on which they can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from basereward.runs.score_files import ScoredGroup

BaseKey = TypeVar("BaseKey", bound=Hashable)
TestKey: TypeAlias = tuple[str, str, tuple[tuple[int, int, bool], ...], int]
"""Source, id and preferences of a group, and the number of earlier groups that are equal in these: ids may repeat."""
TestedGroups: TypeAlias = Mapping[TestKey, ScoredGroup]


@dataclass(frozen=True)
class CommonTestSet:
    """Recipes that were tested on the same G groups.

    Attributes:
        names: of the recipes; each of their runs was tested on all groups.
        groups: keys of the groups.

    >>> CommonTestSet(names=("linear",), groups=[("text", "a", ((0, 1, False), (0, 2, True)), 0)]).pairs.tolist()
    [1]
    """

    names: Sequence[str]
    groups: Sequence[TestKey]

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Number of pairs without ties in each group, shape `(G,)`."""
        return np.array([_num_untied(key) for key in self.groups], np.int64)

    def correct(self, tested: TestedGroups) -> NDArray[np.int64]:
        """Number of pairs that a run ranks correctly in each group, shape `(G,)`."""
        return np.array([_num_correct(tested[key]) for key in self.groups], np.int64)


def _num_untied(key: TestKey) -> int:
    _, _, preferences, _ = key
    return sum(not tie for _, _, tie in preferences)


def _num_correct(group: ScoredGroup) -> int:
    return sum(margin > 0 for margin in group.margins)


def by_key(groups: Iterable[ScoredGroup]) -> dict[TestKey, ScoredGroup]:
    """Index groups by their key; groups without a pair that is not a tie are left out.

    >>> tie = ScoredGroup("a", "text", [1.0, 0.0], [5, 5], [(0, 1, True)])
    >>> by_key([tie])
    {}
    """
    ranked = (group for group in groups if group.margins)
    keyed = numbered(ranked, lambda group: (group.source, group.id, tuple(group.preferences)))
    return {(*key, number): group for key, number, group in keyed}


def numbered(
    groups: Iterable[ScoredGroup], base_key: Callable[[ScoredGroup], BaseKey]
) -> Iterator[tuple[BaseKey, int, ScoredGroup]]:
    """Number groups with the same key, because a source may use one id for several groups.

    Yields:
        The key of each group, the number of earlier groups with this key, and the group.

    >>> groups = [ScoredGroup("a", "text", [1.0, 0.0], [5, 5], [(0, 1, False)])] * 2
    >>> [(key, number) for key, number, _ in numbered(groups, lambda group: group.id)]
    [('a', 0), ('a', 1)]
    """
    counts: Counter[BaseKey] = Counter()
    for group in groups:
        key = base_key(group)
        yield key, counts[key], group
        counts[key] += 1


def common_test_set(recipes: Mapping[str, Collection[TestedGroups]]) -> CommonTestSet:
    """Find the groups on which most recipes were tested; among equal choices, the largest set of groups.

    A recipe that was tested on other groups, such as a text-only model among multimodal ones, is not in the result.

    Args:
        recipes: the tested groups of each run, by recipe.

    >>> first, second = (ScoredGroup(name, "text", [1.0, 0.0], [5, 5], [(0, 1, False)]) for name in "ab")
    >>> common = common_test_set({"linear": [by_key([first, second])], "mlp": [by_key([first])]})
    >>> common.names, common.pairs.tolist()
    (('linear', 'mlp'), [1])
    """
    recipes_of_group: dict[TestKey, list[str]] = {}
    for name, runs in recipes.items():
        # A group counts for a recipe only if all of its runs were tested on it: runs are averaged group by group.
        shared_keys: set[TestKey] = set.intersection(*map(set, runs)) if runs else set()
        for key in shared_keys:
            recipes_of_group.setdefault(key, []).append(name)
    groups_of_recipes: dict[tuple[str, ...], list[TestKey]] = {}
    for key, names in recipes_of_group.items():
        groups_of_recipes.setdefault(tuple(names), []).append(key)
    best = CommonTestSet((), ())
    for candidates in groups_of_recipes:
        keys: list[TestKey] = []
        for holders, own_keys in groups_of_recipes.items():
            # Groups that further recipes share count too.
            if set(candidates) <= set(holders):
                keys += own_keys
        # More recipes come before more groups: a recipe that is left out cannot be compared at all.
        if (len(candidates), len(keys)) > (len(best.names), len(best.groups)):
            best = CommonTestSet(candidates, sorted(keys))
    return best
