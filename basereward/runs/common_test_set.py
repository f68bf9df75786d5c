"""What recipes can be compared on: the groups that they all were tested on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from basereward.runs.score_files import ScoredGroup

ReadHead = TypeVar("ReadHead", bound=Hashable)
TestKey: TypeAlias = tuple[str, str, tuple[tuple[int, int, bool], ...], int]
"""Source, id and preferences of a group, and how many came before that are alike in these: ids may come twice."""
Tested: TypeAlias = Mapping[TestKey, ScoredGroup]


@dataclass(frozen=True)
class CommonTestSet:
    """Groups, and the names of the recipes of which every run was tested on all of them."""

    names: Sequence[str]
    groups: Sequence[TestKey]

    @property
    def pairs(self) -> NDArray[np.int64]:
        """(G,), of each group those that are no ties."""
        return np.array([sum(not tie for *_, tie in preferences) for _, _, preferences, _ in self.groups], np.int64)

    def right(self, tested: Tested) -> NDArray[np.int64]:
        """(G,), of each group the pairs that a run has right."""
        return np.array([sum(margin > 0 for margin in tested[key].margins) for key in self.groups], np.int64)


def by_key(groups: Iterable[ScoredGroup]) -> dict[TestKey, ScoredGroup]:
    """Groups that have a pair that is no tie."""
    told = (group for group in groups if group.margins)
    same = numbered(told, lambda group: (group.source, group.id, tuple(group.preferences)))
    return {(*head, number): group for head, number, group in same}


def numbered(
    groups: Iterable[ScoredGroup], head: Callable[[ScoredGroup], ReadHead]
) -> Iterator[tuple[ReadHead, int, ScoredGroup]]:
    """Every group with its head and how many came before with the same one: a source may give one id to several."""
    seen: Counter[ReadHead] = Counter()
    for group in groups:
        key = head(group)
        yield key, seen[key], group
        seen[key] += 1


def shared(recipes: Mapping[str, Collection[Tested]]) -> CommonTestSet:
    """The groups that most recipes were tested on; of several such sets, that of the most groups.

    A recipe that was tested on others, such as a model of text among readers of pictures, is not among the names.

    Args:
        recipes: of each its runs.
    """
    holders: dict[TestKey, list[str]] = {}
    for name, runs in recipes.items():
        for key in set.intersection(*map(set, runs)) if runs else ():
            holders.setdefault(key, []).append(name)
    held: dict[tuple[str, ...], list[TestKey]] = {}
    for key, names in holders.items():
        held.setdefault(tuple(names), []).append(key)
    found = [
        CommonTestSet(names, sorted(key for more, keys in held.items() if set(names) <= set(more) for key in keys))
        for names in held
    ]
    return max(found, key=lambda each: (len(each.names), len(each.groups)), default=CommonTestSet((), ()))
