"""An index of one benchmark by texts, n-grams of words and images."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from basereward.data.curation.pictures import Look, PictureHashes
from basereward.data.curation.words import hash64, normalise, prompt_text, shingles
from basereward.data.schema.group import Group

if TYPE_CHECKING:
    from numpy.typing import NDArray

OverlapKind: TypeAlias = Literal["prompt", "prompt_response", "ngrams", "image", "similar_image", "other_image"]
KINDS: tuple[OverlapKind, ...] = ("prompt", "prompt_response", "ngrams", "image", "similar_image", "other_image")
"""`prompt`, `prompt_response`: the same words; `ngrams`: many shared n-grams of words; `image`: the same content;
`similar_image`: a resized or re-encoded copy; `other_image`: the same text with images that are known to differ, such
as two requests to describe an image."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """One overlap of a group with a row (`reference`) of a benchmark."""

    benchmark: str
    kind: OverlapKind
    reference: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Traits:
    """The hashes by which groups are compared; `looks` has one entry per image, None if it cannot be read."""

    prompt: int | None
    answers: frozenset[int]
    grams: NDArray[np.uint64]
    looks: tuple[Look | None, ...]

    @property
    def num_unread(self) -> int:
        """The number of images that cannot be read."""
        return sum(look is None or not look.readable for look in self.looks)


def traits(group: Group, *, size: int, pictures: PictureHashes) -> Traits:
    """Compute the hashes of a group without its system turns.

    Args:
        group: the group.
        size: the number of words of an n-gram; a shorter prompt is one n-gram.
        pictures: a cache of image hashes.
    """
    text = normalise(prompt_text(group, system=False))
    grams = {hash64(gram) for gram in shingles(text.split(), size=size)}
    return Traits(
        prompt=hash64(text) if text else None,
        answers=frozenset(hash64(text, normalise(response)) for response in group.responses) if text else frozenset(),
        grams=np.fromiter(sorted(grams), np.uint64, len(grams)),
        looks=tuple(pictures.look(image) for image in group.images),
    )


class BenchmarkTexts:
    """The index of one benchmark.

    Args:
        name: the name of the benchmark.
        rows: pairs of (row id, hashes).
        threshold: the fraction of shared n-grams of the shorter prompt, 0 to 1, from which two prompts overlap.
        bits: the largest distance between two perceptual hashes.
        common: n-grams in more different prompts than this are ignored as the benchmark's phrasing.
    """

    def __init__(
        self, name: str, rows: Iterable[tuple[str, Traits]], *, threshold: float, bits: int, common: int
    ) -> None:
        self.name = name
        self.num_unread = 0
        self._threshold = threshold
        self._bits = bits
        self._ids: list[str] = []
        self._prompts: dict[int, list[int]] = {}
        self._answers: dict[int, list[int]] = {}
        self._contents: dict[int, list[int]] = {}
        self._looked: list[bool] = []  # whether a row has images and all of them have been read
        self._asking: list[list[int]] = []  # for each different prompt, the rows that have it
        grams: list[NDArray[np.uint64]] = []  # for each different prompt
        hashes: list[tuple[int, int]] = []
        for number, (row_id, row) in enumerate(rows):
            if row.prompt is not None and row.prompt not in self._prompts:
                grams.append(row.grams)
            self._add(number, row_id, row)
            hashes.extend((look.perceptual, number) for look in row.looks if look and look.perceptual is not None)
        self._hashes = np.array([code for code, _ in hashes], np.uint64)
        self._hash_rows = np.array([number for _, number in hashes], np.int64)
        self._index_grams(grams, common=common)

    def _add(self, number: int, row_id: str, row: Traits) -> None:
        self._ids.append(row_id)
        self._looked.append(bool(row.looks) and not row.num_unread)
        self.num_unread += row.num_unread
        if row.prompt is not None:
            if row.prompt not in self._prompts:
                self._asking.append(self._prompts.setdefault(row.prompt, []))
            self._prompts[row.prompt].append(number)
        for answer in row.answers:
            self._answers.setdefault(answer, []).append(number)
        for look in row.looks:
            if look:
                self._contents.setdefault(look.content, []).append(number)

    def _index_grams(self, grams: Sequence[NDArray[np.uint64]], *, common: int) -> None:
        counts = Counter(itertools.chain.from_iterable(own.tolist() for own in grams))
        self._common = np.array(sorted(gram for gram, count in counts.items() if count > common), np.uint64)
        specific = [own[~np.isin(own, self._common)] for own in grams]
        flat = np.concatenate([np.empty(0, np.uint64), *specific])
        order = np.argsort(flat, kind="stable")
        self._lengths = np.array([len(own) for own in specific], np.int64)
        self._grams = flat[order]
        self._owners = np.repeat(np.arange(len(grams)), self._lengths)[order]

    def overlaps(self, group: Traits) -> list[Overlap]:
        """Find the overlaps of a group, at most one per kind, in the order of `KINDS`."""
        rows_by_kind: dict[OverlapKind, tuple[list[int], str]] = {}
        if group.prompt is not None and group.prompt in self._prompts:
            rows_by_kind["prompt"] = self._prompts[group.prompt], ""
        if same_answer := _rows(self._answers, group.answers):
            rows_by_kind["prompt_response"] = same_answer, ""
        if similar_text := self._similar_texts(group.grams):
            rows_by_kind["ngrams"] = similar_text
        by_image = self._similar_images(group)
        # Equal texts are no overlap if all images of both sides are known and differ.
        images_known = bool(group.looks) and not group.num_unread
        same_image = set(itertools.chain.from_iterable(rows for rows, _ in by_image.values()))
        for kind, (rows, detail) in list(rows_by_kind.items()):
            if images_known and all(self._looked[row] and row not in same_image for row in rows):
                del rows_by_kind[kind]
                rows_by_kind.setdefault("other_image", (rows, detail or kind))
        rows_by_kind |= by_image
        overlaps = []
        for kind in KINDS:
            if kind in rows_by_kind:
                rows, detail = rows_by_kind[kind]
                overlaps.append(Overlap(self.name, kind, self._ids[rows[0]], detail))
        return overlaps

    def _similar_texts(self, grams: NDArray[np.uint64]) -> tuple[list[int], str] | None:
        """Find the rows whose prompts share enough n-grams, most similar first; None if there are none."""
        grams = grams[~np.isin(grams, self._common)]
        low, high = (np.searchsorted(self._grams, grams, side=side) for side in ("left", "right"))
        spans = [self._owners[a:b] for a, b in zip(low, high, strict=True) if a < b]
        if not spans:
            return None
        owners, shared = np.unique(np.concatenate(spans), return_counts=True)
        fractions = shared / np.minimum(self._lengths[owners], len(grams))
        if fractions.max() < self._threshold:
            return None
        most_first = owners[np.argsort(-fractions, kind="stable")][: int((fractions >= self._threshold).sum())]
        rows = list(itertools.chain.from_iterable(self._asking[owner] for owner in most_first))
        return rows, f"{fractions.max():.0%} of its runs of words"

    def _similar_images(self, group: Traits) -> dict[OverlapKind, tuple[list[int], str]]:
        """Find the rows with equal images, or else those with similar images."""
        looks = [look for look in group.looks if look]
        same = _rows(self._contents, [look.content for look in looks])
        if same:
            return {"image": (same, "")}
        nearest = self._bits + 1
        rows: set[int] = set()
        for look in looks:
            if look.perceptual is not None and len(self._hashes):
                distances = np.bitwise_count(self._hashes ^ np.uint64(look.perceptual))
                close = distances <= self._bits
                rows.update(self._hash_rows[close].tolist())
                nearest = min(nearest, int(distances.min()))
        return {"similar_image": (sorted(rows), f"{nearest} of 64 bits apart")} if rows else {}


def _rows(index: Mapping[int, list[int]], keys: Iterable[int]) -> list[int]:
    """List the rows of an index that have one of the keys, in order."""
    return sorted(set(itertools.chain.from_iterable(index.get(key, ()) for key in keys)))
