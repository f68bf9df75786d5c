"""Groups that are in a benchmark which the model is to be measured on, by text and by picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from basereward.data.curation.columns import columns
from basereward.data.curation.overlap import KINDS, BenchmarkTexts, Overlap, OverlapKind, traits
from basereward.data.curation.pictures import PictureHashes
from basereward.data.schema.group import Group
from basereward.errors import DataError, unknown

CONTAMINATING: tuple[OverlapKind, ...] = ("prompt", "prompt_response", "ngrams", "image", "similar_image")
"""All but a text that is the same under pictures that are known to differ."""


@dataclass(frozen=True, slots=True)
class BenchmarkAnswer:
    """What a group shares with which benchmark, and how many of its images could not be looked at."""

    overlaps: tuple[Overlap, ...]
    num_unread: int


class References:
    """The benchmarks, indexed; ask it about each group.

    Args:
        benchmarks: their groups by name. Images that are missing count as `num_unread`, their texts are indexed.
        size: words in a run; a prompt with fewer is a run by itself.
        threshold: share of the runs of words of the shorter prompt, over 0 to 1, from which two prompts overlap.
        bits: how far the perceptual hashes of a picture and its copy may be apart, of 64. Of photographs that were
            resized or saved as JPEG anew none is further than 2; a crop by 2 % moves up to 8.
        common: runs of words in more different prompts of a benchmark than this tell nothing, and are left out.

    Raises:
        DataError: an argument is out of its range.
    """

    def __init__(
        self,
        benchmarks: Mapping[str, Iterable[Group]],
        *,
        size: int = 13,
        threshold: float = 0.5,
        bits: int = 4,
        common: int = 10,
        pictures: PictureHashes | None = None,
    ) -> None:
        if size < 1 or not 0 < threshold <= 1 or not 0 <= bits < 32 or common < 1:
            raise DataError(
                f"size={size}, threshold={threshold}, bits={bits}, common={common}: size and common are 1 or more, "
                "the threshold is over 0 to 1, and bits are 0 to 31"
            )
        self.size = size
        self.pictures = pictures or PictureHashes()
        self.benchmarks = {
            name: BenchmarkTexts(
                name,
                ((group.id, traits(group, size=size, pictures=self.pictures)) for group in groups),
                threshold=threshold,
                bits=bits,
                common=common,
            )
            for name, groups in benchmarks.items()
        }

    def ask(self, group: Group) -> BenchmarkAnswer:
        """What the group shares with the benchmarks."""
        own = traits(group, size=self.size, pictures=self.pictures)
        overlaps = [overlap for benchmark in self.benchmarks.values() for overlap in benchmark.overlaps(own)]
        return BenchmarkAnswer(tuple(overlaps), own.num_unread)


@dataclass(frozen=True, slots=True)
class Contaminated:
    """A group that is in a benchmark."""

    source: str
    index: int
    id: str
    overlaps: tuple[Overlap, ...]

    @property
    def detail(self) -> str:
        """What it shares, for a list of rows.

        >>> Contaminated("s", 3, "s/3", (Overlap("vl", "image", "r1"),)).detail
        "image of vl, row 'r1'"
        """
        return "; ".join(
            f"{overlap.kind} of {overlap.benchmark}, row '{overlap.reference}'"
            + (f" ({overlap.detail})" if overlap.detail else "")
            for overlap in self.overlaps
        )


@dataclass
class OverlapReport:
    """How many rows of which source overlap with which benchmark.

    A row counts under every kind that holds for it, and once under `contaminated`.
    """

    rows: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    contaminated: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: dict[tuple[str, str], Counter[OverlapKind]] = field(default_factory=dict)

    def add(self, source: str, answer: BenchmarkAnswer, *, kinds: Collection[OverlapKind] = CONTAMINATING) -> None:
        """Counts one row."""
        self.rows[source] += 1
        self.unread[source] += answer.num_unread
        for overlap in answer.overlaps:
            self.kinds.setdefault((source, overlap.benchmark), Counter())[overlap.kind] += 1
        for benchmark in {overlap.benchmark for overlap in answer.overlaps if overlap.kind in kinds}:
            self.contaminated[source, benchmark] += 1

    def table(self, references: References) -> str:
        """A line for each source and benchmark, then what could not be looked at."""
        header = ["source", "benchmark", "rows", "of them in it", *KINDS]
        lines = [
            [source, name, str(self.rows[source]), str(self.contaminated[source, name])]
            + [str(self.kinds.get((source, name), Counter())[kind]) for kind in KINDS]
            for source in self.rows
            for name in references.benchmarks
        ]
        text = [columns([header, *lines])]
        unread = {f"source {source}": count for source, count in self.unread.items() if count}
        unread |= {f"benchmark {name}": b.num_unread for name, b in references.benchmarks.items() if b.num_unread}
        text += [f"{count} images of {name} could not be looked at" for name, count in unread.items()]
        return "\n".join(text)


def find_contaminated(
    groups: Iterable[tuple[str, int, Group]],
    references: References,
    *,
    report: OverlapReport | None = None,
    kinds: Collection[OverlapKind] = CONTAMINATING,
) -> Iterator[Contaminated]:
    """The groups that share something of `kinds` with a benchmark, in order; every group is counted in `report`.

    Raises:
        DataError: there is no such kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise DataError(unknown("kind of overlap", kind, KINDS))
    for source, index, group in groups:
        answer = references.ask(group)
        if report is not None:
            report.add(source, answer, kinds=kinds)
        overlaps = tuple(overlap for overlap in answer.overlaps if overlap.kind in kinds)
        if overlaps:
            yield Contaminated(source, index, group.id, overlaps)
