"""What a recipe leaves out of its training groups: in one pass, in a fixed order, each group under one reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

from basereward.data.curation.curate import Curated, Curation
from basereward.data.curation.duplicates import PlacedGroup
from basereward.data.schema.group import Group, RejectedRow, Split

MakeGroup = Callable[..., Group]
LONG = "why does the sea look blue from the shore although a glass of its water has no colour at all in the light"


class Benchmark:
    """Groups of which some are in each part."""

    name = "bench"

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = list(groups)

    def groups(self, split: Split) -> Sequence[Group]:
        return self._groups[1:] if split == "train" else self._groups[:1] if split == "test" else []

    def rejected(self, split: Split) -> list[RejectedRow]:
        return []


@pytest.fixture
def groups(make_group: MakeGroup) -> list[Group]:
    """Ten questions of their own; the sixth comes again as the eighth."""
    made = [make_group(f"{LONG} {i} {i * 7} {i * 31}", f"yes {i}", f"no {i}", group_id=f"g{i}") for i in range(10)]
    made[7] = make_group(f"{LONG} 5 35 155", "yes 5", "no 5", group_id="g7")
    return made


def placed(groups: Sequence[Group]) -> Callable[[], Iterator[PlacedGroup]]:
    """The groups as those of one source, from place 10 on."""
    return lambda: (("s", index, group) for index, group in enumerate(groups, start=10))


def reasons(curated: Curated) -> dict[int, str]:
    """By place."""
    assert all(source == "s" for source, _ in curated.rejected)
    assert all(lost.split == "train" and not lost.fault and lost.detail for lost in curated.rejected.values())
    return {index: lost.reason for (_, index), lost in curated.rejected.items()}


def test_nothing_asked_leaves_all(groups: list[Group]) -> None:
    """Duplicates stay, and no model is asked."""
    curated = Curation()(placed(groups))
    assert (curated.rejected, curated.preferences) == ({}, {})


def test_of_equal_groups_the_first_is_kept(groups: list[Group]) -> None:
    """The others are no faults; near ones stay unless they are asked for."""
    assert reasons(Curation(duplicates=True)(placed(groups))) == {17: "duplicate"}


def test_near_groups_count_as_equal_from_a_similarity_on(make_group: MakeGroup) -> None:
    """One other word of sixty in the answers."""
    answer = " ".join(f"word{i}" for i in range(60))
    same = [make_group(LONG, f"{answer} {end}", f"short {answer}", group_id=end) for end in ("one", "two")]
    assert reasons(Curation(duplicates=True)(placed(same))) == {}
    assert reasons(Curation(near=0.8)(placed(same))) == {11: "near_duplicate"}


def test_groups_of_a_benchmark_are_left_out_whatever_part_they_are_in(groups: list[Group]) -> None:
    """Two of them are in it, one in its test part; the report is there to be read."""
    curated = Curation(against={"bench": Benchmark([groups[2], groups[4]])})(placed(groups[2:]))
    found = reasons(curated)
    assert {found[10], found[12]} == {"contaminated"}
    assert curated.overlaps is not None


class Judge:
    """Scores that are given by the id of a group, and the groups that were asked for."""

    def __init__(self, margins: dict[str, float]) -> None:
        self.margins = margins
        self.asked: list[str] = []

    def __call__(self, groups: Iterable[Group]) -> Iterator[list[float]]:
        for group in groups:
            self.asked.append(group.id)
            yield [self.margins.get(group.id, 1.0), 0.0]


def test_a_judge_drops_what_it_contradicts_and_weighs_what_it_doubts(groups: list[Group]) -> None:
    """A margin of -3 is beyond the threshold; one of -1 leaves the weight 2 / (1 + e) = 0.5379."""
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


def test_a_judge_is_not_asked_about_what_is_left_out_already(groups: list[Group]) -> None:
    """Each group has one reason, the first that is found."""
    judge = Judge({"g7": -9.0, "g3": -9.0, "g0": -9.0})
    curated = Curation(duplicates=True, judge=judge)(placed(groups))
    assert reasons(curated) == {17: "duplicate", 13: "disagrees", 10: "disagrees"}
    assert judge.asked == [f"g{i}" for i in range(10) if i != 7]
