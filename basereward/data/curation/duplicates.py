"""Finds duplicate groups, within a source or between sources; the first one is kept.

MinHash signatures come from rensa, which is written in Rust and many times faster than datasketch. Its own index needs
2 KB per group; this module finds candidates by sorting, with at most 0.6 KB per group.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from rensa import RMinHash

from basereward.data.curation.pictures import PictureHashes
from basereward.data.curation.words import hash64, prompt_text, shingles, words
from basereward.data.schema.group import Group, role_texts
from basereward.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PlacedGroup: TypeAlias = tuple[str, int, Group]
"""The name of a source, the index of a group in it, and the group."""

SLOTS = 128  # per signature; the estimate of a similarity of 0.8 has a standard error of 0.035
BANDS = 16  # of four slots each. Groups with similarity 0.7 share one with probability 98.7 %, with 0.8 99.98 %
ROWS = 4
LEAST = 0.7  # the smallest threshold; below, the bands would miss too many pairs
CHUNK = 2048  # groups whose signatures are computed together


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A duplicate group, and the group (`kept_source`, `kept_index`) that is kept instead."""

    source: str
    index: int
    id: str
    reason: Literal["duplicate", "near_duplicate"]
    kept_source: str
    kept_index: int
    detail: str


def find_duplicates(
    groups: Iterable[PlacedGroup],
    *,
    threshold: float | None = 0.8,
    shingle: int = 3,
    pictures: PictureHashes | None = None,
) -> list[Duplicate]:
    """Find the duplicate groups, in the order of `groups`.

    A `duplicate` has the same prompt, images and responses (in any order) as an earlier group. A `near_duplicate` has
    the same images, and an estimated Jaccard similarity of at least `threshold` for the sets of shingles, both of the
    whole groups and of the responses alone, so that different answers to one long prompt are no duplicates. Every near
    duplicate is similar to a group that is kept, not only to one that is dropped.

    Args:
        groups: the groups with their places.
        threshold: 0.7 to 1; None: only exact duplicates.
        shingle: the number of consecutive words of a shingle.
        pictures: a cache of image hashes.

    Raises:
        DataError: `threshold` or `shingle` is out of its range.
    """
    if (threshold is not None and not LEAST <= threshold <= 1) or shingle < 1:
        raise DataError(
            f"threshold={threshold} and shingle={shingle}: the threshold is {LEAST} to 1, or null for exact duplicates "
            "only, and a shingle has 1 word or more"
        )
    seen = _Seen(signed=threshold is not None, shingle=shingle, pictures=pictures or PictureHashes())
    for place in groups:
        seen.add(place)
    first = seen.first_alike()
    near = seen.first_near(threshold, among=first) if threshold is not None else {}
    dropped = {int(i): (int(first[i]), None) for i in np.flatnonzero(first != np.arange(len(first)))} | near
    # The first of equal groups may itself be a near duplicate: then the group that is kept is named.
    return [seen.duplicate(i, *dropped.get(kept, (kept, alike))) for i, (kept, alike) in sorted(dropped.items())]


class _Seen:
    """Hashes of the groups seen so far, in arrays with one entry per group."""

    def __init__(self, *, signed: bool, shingle: int, pictures: PictureHashes) -> None:
        self._signed = signed
        self._shingle = shingle
        self._pictures = pictures
        self._sources: dict[str, int] = {}
        self._source_numbers, self._indices = array("i"), array("q")
        self._ids: list[str] = []
        self._contents, self._verdicts = array("Q"), array("Q")
        self._tokens: list[list[bytes]] = []  # of the groups that have no signature yet: of the whole, of the responses
        self._bands, self._slots = bytearray(), bytearray()  # (groups, BANDS) of 8 bytes, (groups, 2, SLOTS) of one

    def add(self, placed: PlacedGroup) -> None:
        source, index, group = placed
        images = [self._pictures.identity(image) for image in group.images]
        turns = role_texts(group.prompt)
        self._source_numbers.append(self._sources.setdefault(source, len(self._sources)))
        self._indices.append(index)
        self._ids.append(group.id)
        self._contents.append(hash64(repr(turns), repr(images), *sorted(group.responses)))
        self._verdicts.append(_verdict(group))
        if self._signed:
            self._tokens.extend(_tokens(group, images=images, size=self._shingle))
            if len(self._tokens) >= 2 * CHUNK:
                self._sign()

    def _sign(self) -> None:
        """Adds the hashes of the bands of each whole group, and the last 8 bits of every slot."""
        rows = RMinHash.digest_matrix_from_token_byte_sets(self._tokens, SLOTS, 0).to_rows()
        slots = np.asarray(rows, dtype=np.uint64).reshape(-1, 2, SLOTS)
        whole = slots[:, 0, : BANDS * ROWS].reshape(-1, BANDS, ROWS)
        bands = np.zeros(whole.shape[:2], np.uint64)
        for row in range(ROWS):
            # The factor is odd, so that the multiplication modulo 2**64 is invertible.
            bands = (bands ^ whole[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
            bands ^= bands >> np.uint64(32)
        self._bands += bands.tobytes()
        self._slots += slots.astype(np.uint8).tobytes()
        self._tokens = []

    def first_alike(self) -> NDArray[np.int64]:
        """For each group the number of the first one of the same content."""
        _, first, inverse = np.unique(np.frombuffer(self._contents, np.uint64), return_index=True, return_inverse=True)
        return np.asarray(first[inverse], np.int64)

    def first_near(self, threshold: float, *, among: NDArray[np.int64]) -> dict[int, tuple[int, float | None]]:
        """Of the groups that are the first of their content those that are near to one that is kept: the most alike,
        of equals the first, and how alike it is."""
        if self._tokens:
            self._sign()
        numbers = np.flatnonzero(among == np.arange(len(among)))
        buckets = _shared(np.frombuffer(self._bands, np.uint64).reshape(-1, BANDS), numbers=numbers)
        slots = np.frombuffer(self._slots, np.uint8).reshape(-1, 2, SLOTS)
        kept: dict[int, list[int]] = {}  # by bucket
        near: dict[int, tuple[int, float | None]] = {}
        for place in np.flatnonzero((buckets >= 0).any(axis=1)).tolist():
            i = int(numbers[place])
            own = buckets[place][buckets[place] >= 0].tolist()
            members = itertools.chain.from_iterable(kept.get(bucket, ()) for bucket in own)
            candidates = np.unique(list(members)).astype(np.int64)
            alike = (slots[candidates] == slots[i]).mean(axis=2).min(axis=1)
            if len(candidates) and alike.max() >= threshold:
                near[i] = int(candidates[alike.argmax()]), float(alike.max())
                continue
            for bucket in own:
                kept.setdefault(bucket, []).append(i)
        return near

    def duplicate(self, i: int, kept: int, alike: float | None) -> Duplicate:
        names = list(self._sources)
        kept_source = names[self._source_numbers[kept]]
        named = f"{self._ids[kept]} (source '{kept_source}', group {self._indices[kept]})"
        detail = f"the same as {named}" if alike is None else f"{alike:.0%} alike with {named}"
        if self._verdicts[i] != self._verdicts[kept] and alike is None:
            detail += ", which prefers otherwise"
        return Duplicate(
            source=names[self._source_numbers[i]],
            index=self._indices[i],
            id=self._ids[i],
            reason="duplicate" if alike is None else "near_duplicate",
            kept_source=kept_source,
            kept_index=self._indices[kept],
            detail=detail,
        )


def _shared(bands: NDArray[np.uint64], *, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
    """For each of the numbered groups and band its bucket, unlike those of other bands; -1 where it is there alone."""
    buckets = np.full((len(numbers), BANDS), -1, np.int32)
    for band in range(BANDS):
        _, inverse, counts = np.unique(bands[numbers, band], return_inverse=True, return_counts=True)
        buckets[:, band] = np.where(counts[inverse] > 1, inverse * BANDS + band, -1)
    return buckets


def _tokens(group: Group, *, images: list[int], size: int) -> list[list[bytes]]:
    """The shingles of prompt and responses, and of the responses alone.

    The images are part of each, so that no group shares any with a group of other images. A text without words is a
    shingle by itself.
    """
    own = repr(images)
    prompt = {f"{own}p{shingle}" for shingle in shingles(words(prompt_text(group)), size=size)}
    answers = set()
    for response in group.responses:
        answers |= {f"{own}r{s}" for s in shingles(words(response) or [response], size=size)}
    return [_encoded(prompt | answers), _encoded(answers)]


def _encoded(tokens: set[str]) -> list[bytes]:
    return [token.encode("utf-8", "surrogatepass") for token in tokens]


def _verdict(group: Group) -> int:
    """Hash which text is preferred to which, independent of the order of the responses."""
    verdicts = []
    for preference in group.preferences:
        winner, loser = group.responses[preference.winner], group.responses[preference.loser]
        verdicts.append(("tie", *sorted((winner, loser))) if preference.tie else ("wins", winner, loser))
    return hash64(repr(sorted(verdicts)))
