"""Curation of training groups: one pass, a fixed order of filters, one reason for each dropped group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

from basereward.data.curation.curate import Curated, Curation
from basereward.data.curation.duplicates import PlacedGroup
from basereward.data.schema.group import Group, RejectedRow, Split

MakeGroup = Callable[..., Group]
LONG = "why does the sea look blue from the shore although a glass of its water has no colour at all in the light"


class Benchmark:
    """A source with groups in its test and training splits."""

    name = "bench"

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = list(groups)

    def groups(self, split: Split) -> Sequence[Group]:
        return self._groups[1:] if split == "train" else self._groups[:1] if split == "test" else []

    def rejected(self, split: Split) -> list[RejectedRow]:
        return []


@pytest.fixture
def groups(make_group: MakeGroup) -> list[Group]:
    """Ten distinct questions, except that group 7 repeats group 5."""
    distinct = [make_group(f"{LONG} {i} {i * 7} {i * 31}", f"yes {i}", f"no {i}", group_id=f"g{i}") for i in range(10)]
    distinct[7] = make_group(f"{LONG} 5 35 155", "yes 5", "no 5", group_id="g7")
    return distinct


def placed(groups: Sequence[Group]) -> Callable[[], Iterator[PlacedGroup]]:
    """Return a function that yields the groups of one source, from index 10 on."""
    return lambda: (("s", index, group) for index, group in enumerate(groups, start=10))


def reasons(curated: Curated) -> dict[int, str]:
    """Return the reason of each dropped group by its index."""
    assert all(source == "s" for source, _ in curated.rejected)
    assert all(row.split == "train" and not row.fault and row.detail for row in curated.rejected.values())
    return {index: row.reason for (_, index), row in curated.rejected.items()}


def test_curation_without_filters_keeps_all(groups: list[Group]) -> None:
    """Without filters no group is dropped and no preference changed."""
    curated = Curation()(placed(groups))
    assert (curated.rejected, curated.preferences) == ({}, {})


def test_duplicates_drop_all_but_the_first(groups: list[Group]) -> None:
    """A dropped duplicate is not a fault of the data; near duplicates stay unless `near` is set."""
    assert reasons(Curation(duplicates=True)(placed(groups))) == {17: "duplicate"}


def test_near_drops_groups_above_the_similarity(make_group: MakeGroup) -> None:
    """The answers differ in one word of sixty."""
    answer = " ".join(f"word{i}" for i in range(60))
    similar = [make_group(LONG, f"{answer} {end}", f"short {answer}", group_id=end) for end in ("one", "two")]
    assert reasons(Curation(duplicates=True)(placed(similar))) == {}
    assert reasons(Curation(near=0.8)(placed(similar))) == {11: "near_duplicate"}


def test_benchmark_groups_of_every_split_are_dropped(groups: list[Group]) -> None:
    """One is in the benchmark's test split, one in its training split; the overlap report is available."""
    curated = Curation(against={"bench": Benchmark([groups[2], groups[4]])})(placed(groups[2:]))
    reason_of = reasons(curated)
    assert {reason_of[10], reason_of[12]} == {"contaminated"}
    assert curated.overlaps is not None


class Judge:
    """A judge that scores groups by their ids and records the ids that it scored."""

    def __init__(self, margins: dict[str, float]) -> None:
        self.margins = margins
        self.scored_ids: list[str] = []

    def __call__(self, groups: Iterable[Group]) -> Iterator[list[float]]:
        for group in groups:
            self.scored_ids.append(group.id)
            yield [self.margins.get(group.id, 1.0), 0.0]


def test_judge_drops_or_down_weights_preferences(groups: list[Group]) -> None:
    """A margin of -3 is beyond the threshold and drops the group; a margin of -1 gives the weight 2 / (1 + e) =
    0.5379."""
    judge = Judge({"g1": -3.0, "g2": -1.0})
    curated = Curation(judge=judge, drop=2.0)(placed(groups))
    assert reasons(curated) == {11: "disagrees"}
    assert list(curated.preferences) == [("s", 12)]
    assert curated.preferences["s", 12][0].weight == pytest.approx(0.537883, abs=1e-6)
    assert curated.relabelled is not None
    assert (curated.relabelled.num_groups, curated.relabelled.num_lost, curated.relabelled.num_down_weighted) == (
        10,
        1,
        1,
    )


def test_judge_does_not_score_dropped_groups(groups: list[Group]) -> None:
    """Each group has the reason of the first filter that drops it."""
    judge = Judge({"g7": -9.0, "g3": -9.0, "g0": -9.0})
    curated = Curation(duplicates=True, judge=judge)(placed(groups))
    assert reasons(curated) == {17: "duplicate", 13: "disagrees", 10: "disagrees"}
    assert judge.scored_ids == [f"g{i}" for i in range(10) if i != 7]
