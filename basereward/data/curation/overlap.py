"""Finds the overlaps of groups with one benchmark, by texts, n-grams of words and images."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from basereward.data.curation.image_hashes import ImageFingerprint, ImageHashes
from basereward.data.curation.words import hash64, normalise, prompt_text, shingles
from basereward.data.schema.group import Group, flat_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

OverlapKind: TypeAlias = Literal["prompt", "prompt_response", "ngrams", "image", "similar_image", "other_image"]
KINDS: tuple[OverlapKind, ...] = ("prompt", "prompt_response", "ngrams", "image", "similar_image", "other_image")
"""`prompt`, `prompt_response`: the same words; `ngrams`: many shared n-grams of words; `image`: the same content;
`similar_image`: a resized or re-encoded copy; `other_image`: the same text with images that are known to differ, such
as two requests to describe an image."""

RowsByKind: TypeAlias = dict[OverlapKind, tuple[list[int], str]]
"""For each kind of overlap, the row numbers of the benchmark and the detail of the overlap."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """One overlap of a group with a row of a benchmark.

    Attributes:
        benchmark: the name of the benchmark.
        kind: what is equal or similar; see `KINDS`.
        reference: the id of the row.
        detail: a measure of the similarity, or the kind of the equal text for `other_image`.

    >>> Overlap("vl_rewardbench", "prompt", "row-7").detail
    ''
    """

    benchmark: str
    kind: OverlapKind
    reference: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Traits:
    """The hashes by which groups are compared.

    Attributes:
        prompt: a hash of the prompt; None if it has no text.
        answers: a hash of the prompt with each response.
        grams: hashes of the n-grams of the prompt, in ascending order.
        images: the hashes of each image, None if it cannot be read.

    >>> Traits(None, frozenset(), np.empty(0, np.uint64), (None, ImageFingerprint(1, None))).num_unread
    1
    """

    prompt: int | None
    answers: frozenset[int]
    grams: NDArray[np.uint64]
    images: tuple[ImageFingerprint | None, ...]

    @property
    def num_unread(self) -> int:
        """The number of images that cannot be read."""
        return sum(image is None or not image.readable for image in self.images)

    @property
    def all_images_known(self) -> bool:
        """Whether there are images and all of them can be read."""
        return bool(self.images) and not self.num_unread


def traits(group: Group, *, size: int, image_hashes: ImageHashes) -> Traits:
    """Compute the hashes of a group without its system turns, which are often the same in a whole data set.

    Args:
        group: the group.
        size: the number of words of an n-gram; a shorter prompt is one n-gram.
        image_hashes: a cache of image hashes.

    >>> from basereward.data.schema.group import Part, Turn
    >>> group = Group("a", "s", (Turn("user", (Part("Which digit is it?"),)),), ("7", "1"), ())
    >>> hashes = traits(group, size=3, image_hashes=ImageHashes())
    >>> len(hashes.grams), len(hashes.answers), hashes.images
    (2, 2, ())
    """
    text = normalise(prompt_text(group, system=False))
    grams = {hash64(gram) for gram in shingles(text.split(), size=size)}
    # An answer such as "yes" says nothing without its question, so answers are compared only together with a text.
    answers: set[int] = set()
    for index, response in enumerate(group.responses if text else ()):
        shown = [image_hashes.identity(placed.image) for placed in group.images_of(index)]
        answers.add(hash64(text, normalise(response), *([repr(shown)] if shown else [])))
    return Traits(
        prompt=hash64(text) if text else None,
        answers=frozenset(answers),
        grams=np.fromiter(sorted(grams), np.uint64, len(grams)),
        images=tuple(image_hashes.fingerprint(image) for image in flat_images(group.images)),
    )


class BenchmarkTexts:
    """The index of one benchmark.

    Args:
        name: the name of the benchmark.
        rows: pairs of (row id, hashes).
        threshold: the fraction of shared n-grams of the shorter prompt, 0 to 1, from which two prompts overlap.
        bits: the largest distance between two perceptual hashes.
        common: n-grams in more different prompts than this are ignored as the benchmark's phrasing.

    >>> from basereward.data.schema.group import Part, Turn
    >>> group = Group("a", "s", (Turn("user", (Part("Which digit is it?"),)),), ("7", "1"), ())
    >>> hashes = traits(group, size=3, image_hashes=ImageHashes())
    >>> index = BenchmarkTexts("digits", [("row-7", hashes)], threshold=0.5, bits=4, common=10)
    >>> [(overlap.kind, overlap.reference) for overlap in index.overlaps(hashes)]
    [('prompt', 'row-7'), ('prompt_response', 'row-7'), ('ngrams', 'row-7')]
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
        # Whether each row has images and all of them have been read.
        self._images_known: list[bool] = []
        # For each different prompt, the rows that have it. Benchmarks repeat a prompt for every pair of responses, and
        # its n-grams need to be indexed only once.
        self._rows_of_prompt: list[list[int]] = []
        grams: list[NDArray[np.uint64]] = []
        hashes: list[tuple[int, int]] = []
        for number, (row_id, row) in enumerate(rows):
            if row.prompt is not None and row.prompt not in self._prompts:
                grams.append(row.grams)
            self._add(number, row_id, row)
            for image in row.images:
                if image and image.perceptual is not None:
                    hashes.append((image.perceptual, number))
        self._hashes = np.array([code for code, _ in hashes], np.uint64)
        self._hash_rows = np.array([number for _, number in hashes], np.int64)
        self._index_grams(grams, common=common)

    def _add(self, number: int, row_id: str, row: Traits) -> None:
        self._ids.append(row_id)
        self._images_known.append(row.all_images_known)
        self.num_unread += row.num_unread
        if row.prompt is not None:
            if row.prompt not in self._prompts:
                self._rows_of_prompt.append(self._prompts.setdefault(row.prompt, []))
            self._prompts[row.prompt].append(number)
        for answer in row.answers:
            self._answers.setdefault(answer, []).append(number)
        for image in row.images:
            if image:
                self._contents.setdefault(image.content, []).append(number)

    def _index_grams(self, grams: Sequence[NDArray[np.uint64]], *, common: int) -> None:
        """Index the n-grams of each different prompt in sorted arrays, which need less memory than a dict."""
        counts = Counter(itertools.chain.from_iterable(own.tolist() for own in grams))
        self._common = np.array(sorted(gram for gram, count in counts.items() if count > common), np.uint64)
        specific = [own[~np.isin(own, self._common)] for own in grams]
        # The empty array gives the type for a benchmark without prompts.
        flat = np.concatenate([np.empty(0, np.uint64), *specific])
        order = np.argsort(flat, kind="stable")
        self._lengths = np.array([len(own) for own in specific], np.int64)
        self._grams = flat[order]
        self._owners = np.repeat(np.arange(len(grams)), self._lengths)[order]

    def overlaps(self, group: Traits) -> list[Overlap]:
        """Find the overlaps of a group, at most one per kind, in the order of `KINDS`."""
        by_text = self._overlaps_by_text(group)
        by_image = self._similar_images(group)
        rows_by_kind = self._without_other_images(group, by_text, by_image) | by_image
        overlaps = []
        for kind in KINDS:
            if kind in rows_by_kind:
                rows, detail = rows_by_kind[kind]
                overlaps.append(Overlap(self.name, kind, self._ids[rows[0]], detail))
        return overlaps

    def _overlaps_by_text(self, group: Traits) -> RowsByKind:
        """Find the rows with the same words or many shared n-grams."""
        rows_by_kind: RowsByKind = {}
        if group.prompt is not None and group.prompt in self._prompts:
            rows_by_kind["prompt"] = self._prompts[group.prompt], ""
        if same_answer := _rows(self._answers, group.answers):
            rows_by_kind["prompt_response"] = same_answer, ""
        if similar_text := self._similar_texts(group.grams):
            rows_by_kind["ngrams"] = similar_text
        return rows_by_kind

    def _without_other_images(self, group: Traits, by_text: RowsByKind, by_image: RowsByKind) -> RowsByKind:
        """Replace the kinds of equal texts by `other_image` if the images of both sides are known and differ.

        Thousands of unrelated prompts are "Describe this image in detail."
        """
        if not group.all_images_known:
            return by_text
        same_image = set(itertools.chain.from_iterable(rows for rows, _ in by_image.values()))
        rows_by_kind: RowsByKind = {}
        for kind, (rows, detail) in by_text.items():
            if all(self._images_known[row] and row not in same_image for row in rows):
                rows_by_kind.setdefault("other_image", (rows, detail or kind))
            else:
                rows_by_kind[kind] = (rows, detail)
        return rows_by_kind

    def _similar_texts(self, grams: NDArray[np.uint64]) -> tuple[list[int], str] | None:
        """Find the rows whose prompts share enough n-grams, most similar first; None if there are none."""
        grams = grams[~np.isin(grams, self._common)]
        low, high = (np.searchsorted(self._grams, grams, side=side) for side in ("left", "right"))
        # Between the two places of an n-gram in the sorted array are the prompts that have it.
        spans = [self._owners[a:b] for a, b in zip(low, high, strict=True) if a < b]
        if not spans:
            return None
        owners, shared = np.unique(np.concatenate(spans), return_counts=True)
        # Of the shorter prompt, so that a benchmark's question within a longer text is found.
        fractions = shared / np.minimum(self._lengths[owners], len(grams))
        if fractions.max() < self._threshold:
            return None
        most_first = owners[np.argsort(-fractions, kind="stable")][: int((fractions >= self._threshold).sum())]
        rows = list(itertools.chain.from_iterable(self._rows_of_prompt[owner] for owner in most_first))
        return rows, f"{fractions.max():.0%} of its word n-grams"

    def _similar_images(self, group: Traits) -> RowsByKind:
        """Find the rows with equal images, or else those with similar images."""
        images = [image for image in group.images if image]
        same = _rows(self._contents, [image.content for image in images])
        if same:
            return {"image": (same, "")}
        nearest = self._bits + 1
        rows: set[int] = set()
        for image in images:
            if image.perceptual is not None and len(self._hashes):
                # A comparison with all hashes at once is fast enough without an index of nearest neighbours.
                distances = np.bitwise_count(self._hashes ^ np.uint64(image.perceptual))
                close = distances <= self._bits
                rows.update(self._hash_rows[close].tolist())
                nearest = min(nearest, int(distances.min()))
        return {"similar_image": (sorted(rows), f"{nearest} of 64 bits apart")} if rows else {}


def _rows(index: Mapping[int, list[int]], keys: Iterable[int]) -> list[int]:
    """List the rows of an index that have one of the keys, in order."""
    return sorted(set(itertools.chain.from_iterable(index.get(key, ()) for key in keys)))
