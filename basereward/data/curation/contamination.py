"""Finds training groups that are in a benchmark, by text and by image.

A benchmark measures nothing if its rows were trained on. The test of shared 13-grams is that of GPT-3 (arXiv
2005.14165, appendix C).
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from basereward.data.curation.columns import columns
from basereward.data.curation.image_hashes import ImageHashes
from basereward.data.curation.overlap import KINDS, BenchmarkTexts, Overlap, OverlapKind, Traits, traits
from basereward.data.schema.group import Group
from basereward.errors import DataError, unknown

CONTAMINATING: tuple[OverlapKind, ...] = ("prompt", "prompt_response", "ngrams", "image", "similar_image")
"""All kinds except equal texts whose images are known to differ."""


@dataclass(frozen=True, slots=True)
class BenchmarkAnswer:
    """The overlaps of a group with benchmarks, and the number of its images that cannot be read.

    >>> BenchmarkAnswer(overlaps=(), num_unread=1).num_unread
    1
    """

    overlaps: tuple[Overlap, ...]
    num_unread: int


Answered: TypeAlias = tuple[str, int, str, BenchmarkAnswer]
"""The name of a source, the index of a group, its id, and its overlaps."""


class References:
    """An index of benchmarks.

    Args:
        benchmarks: the groups of each benchmark by name. Missing images count as `num_unread`; their texts are indexed.
        size: the number of words of an n-gram; a shorter prompt is one n-gram.
        threshold: the fraction of shared n-grams of the shorter prompt, above 0 to 1, from which two prompts overlap.
        bits: the largest distance between the perceptual hashes of an image and its copy, of 64 bits. For photographs
            that were resized or saved as JPEG again it is at most 2; cropping by 2 % gives up to 8.
        common: n-grams in more different prompts of a benchmark than this are ignored as its phrasing.
        image_hashes: a cache of image hashes.

    Raises:
        DataError: an argument is out of range.

    >>> from basereward.data.schema.group import Part, Turn
    >>> group = Group("a", "s", (Turn("user", (Part("Which digit is it?"),)),), ("7", "1"), ())
    >>> references = References({"digits": [group]})
    >>> [overlap.kind for overlap in references.ask(group).overlaps]
    ['prompt', 'prompt_response', 'ngrams']
    """

    def __init__(
        self,
        benchmarks: Mapping[str, Iterable[Group]],
        *,
        size: int = 13,
        threshold: float = 0.5,
        bits: int = 4,
        common: int = 10,
        image_hashes: ImageHashes | None = None,
    ) -> None:
        # With 32 of 64 bits, two random images would count as copies.
        if size < 1 or not 0 < threshold <= 1 or not 0 <= bits < 32 or common < 1:
            raise DataError(
                f"size={size}, threshold={threshold}, bits={bits}, common={common}: size and common must be 1 or "
                "more, the threshold above 0 and at most 1, and bits 0 to 31"
            )
        self.size = size
        self.image_hashes = image_hashes or ImageHashes()
        self.benchmarks: dict[str, BenchmarkTexts] = {}
        digest = hashlib.blake2b(repr((size, threshold, bits, common)).encode(), digest_size=16)
        for name, groups in benchmarks.items():
            rows = ((group.id, traits(group, size=size, image_hashes=self.image_hashes)) for group in groups)
            hashed = _hashed(rows, digest)
            self.benchmarks[name] = BenchmarkTexts(name, hashed, threshold=threshold, bits=bits, common=common)
            digest.update(repr(name).encode("utf-8", "surrogatepass"))
        # Of all that an answer depends on besides the group.
        self.fingerprint = digest.hexdigest()

    def ask(self, group: Group) -> BenchmarkAnswer:
        """Find the overlaps of a group with all benchmarks."""
        hashes = traits(group, size=self.size, image_hashes=self.image_hashes)
        overlaps: list[Overlap] = []
        for benchmark in self.benchmarks.values():
            overlaps += benchmark.overlaps(hashes)
        return BenchmarkAnswer(tuple(overlaps), hashes.num_unread)


def _hashed(rows: Iterable[tuple[str, Traits]], digest: hashlib.blake2b) -> Iterator[tuple[str, Traits]]:
    """Add each row to a hash before it is indexed."""
    for name, row in rows:
        parts = (name, row.prompt, sorted(row.answers), row.grams.tolist(), row.images)
        digest.update(repr(parts).encode("utf-8", "surrogatepass"))
        yield name, row


@dataclass(frozen=True, slots=True)
class Contaminated:
    """A group that is in a benchmark.

    >>> Contaminated("s", 3, "s/3", (Overlap("vl", "image", "r1"),)).detail
    "image of vl, row 'r1'"
    """

    source: str
    index: int
    id: str
    overlaps: tuple[Overlap, ...]

    @property
    def detail(self) -> str:
        """The overlaps as text, for the list of rejected rows."""
        texts = []
        for overlap in self.overlaps:
            suffix = f" ({overlap.detail})" if overlap.detail else ""
            texts.append(f"{overlap.kind} of {overlap.benchmark}, row '{overlap.reference}'{suffix}")
        return "; ".join(texts)


@dataclass
class OverlapReport:
    """Counts the rows of each source that overlap with each benchmark.

    A row counts once for every kind of overlap that it has, and once in `contaminated`.

    Attributes:
        rows: the rows of each source.
        unread: the images of each source that cannot be read.
        contaminated: for each source and benchmark, the rows with an overlap of a contaminating kind.
        kinds: for each source and benchmark, the rows with each kind of overlap.

    >>> report = OverlapReport()
    >>> report.add("s", BenchmarkAnswer((Overlap("vl", "image", "r1"), Overlap("vl", "prompt", "r1")), num_unread=0))
    >>> report.rows["s"], report.contaminated["s", "vl"], report.kinds["s", "vl"]["image"]
    (1, 1, 1)
    """

    rows: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    contaminated: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: dict[tuple[str, str], Counter[OverlapKind]] = field(default_factory=dict)

    def add(self, source: str, answer: BenchmarkAnswer, *, kinds: Collection[OverlapKind] = CONTAMINATING) -> None:
        """Count one row.

        Args:
            source: the source of the row.
            answer: its overlaps.
            kinds: the kinds of overlap that count as contamination.
        """
        self.rows[source] += 1
        self.unread[source] += answer.num_unread
        for overlap in answer.overlaps:
            self.kinds.setdefault((source, overlap.benchmark), Counter())[overlap.kind] += 1
        # A set, because several overlaps with one benchmark are still one contaminated row.
        for benchmark in {overlap.benchmark for overlap in answer.overlaps if overlap.kind in kinds}:
            self.contaminated[source, benchmark] += 1

    def table(self, references: References) -> str:
        """Format a line per source and benchmark, then the numbers of unread images."""
        header = ["source", "benchmark", "rows", "contaminated", *KINDS]
        lines = []
        # Pairs without an overlap get a line, too: it says that the benchmark was compared.
        for source, name in itertools.product(self.rows, references.benchmarks):
            kinds = self.kinds.get((source, name), Counter())
            counts = [self.rows[source], self.contaminated[source, name], *(kinds[kind] for kind in KINDS)]
            lines.append([source, name, *map(str, counts)])
        text = [columns([header, *lines])]
        unread = {f"source {source}": count for source, count in self.unread.items() if count}
        unread |= {f"benchmark {name}": b.num_unread for name, b in references.benchmarks.items() if b.num_unread}
        text += [f"{count} images of {name} could not be read" for name, count in unread.items()]
        return "\n".join(text)


def find_contaminated(
    groups: Iterable[tuple[str, int, Group]],
    references: References,
    *,
    report: OverlapReport | None = None,
    kinds: Collection[OverlapKind] = CONTAMINATING,
) -> Iterator[Contaminated]:
    """Yield the groups that have an overlap of `kinds` with a benchmark, in order.

    Args:
        groups: the groups with their places.
        references: the benchmarks.
        report: counts every group; None: no counts.
        kinds: the kinds of overlap.

    Raises:
        DataError: there is no such kind.

    >>> from basereward.data.schema.group import Part, Turn
    >>> group = Group("a", "s", (Turn("user", (Part("Which digit is it?"),)),), ("7", "1"), ())
    >>> [hit.index for hit in find_contaminated([("s", 0, group)], References({"digits": [group]}))]
    [0]
    """
    for kind in kinds:
        if kind not in KINDS:
            raise DataError(unknown("kind of overlap", kind, KINDS))
    answered = ((source, index, group.id, references.ask(group)) for source, index, group in groups)
    yield from contaminated(answered, report=report, kinds=kinds)


def contaminated(
    answered: Iterable[Answered], *, report: OverlapReport | None, kinds: Collection[OverlapKind] = CONTAMINATING
) -> Iterator[Contaminated]:
    """As `find_contaminated`, of groups whose overlaps are known.

    >>> answer = BenchmarkAnswer((Overlap("vl", "image", "r1"),), num_unread=0)
    >>> [hit.id for hit in contaminated([("s", 0, "s/0", answer)], report=None)]
    ['s/0']
    """
    for source, index, name, answer in answered:
        if report is not None:
            report.add(source, answer, kinds=kinds)
        overlaps = tuple(overlap for overlap in answer.overlaps if overlap.kind in kinds)
        if overlaps:
            yield Contaminated(source, index, name, overlaps)
