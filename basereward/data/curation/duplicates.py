"""Finds duplicate groups, within a source or between sources; the first one is kept.

Near duplicates are found by MinHash with locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3): similar sets have equal signature slots with a probability that is their
Jaccard similarity, and only groups that share a whole band of slots are compared.

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

from basereward.data.curation.image_hashes import ImageHashes
from basereward.data.curation.words import hash64, prompt_text, shingles, words
from basereward.data.schema.group import Group, role_texts
from basereward.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PlacedGroup: TypeAlias = tuple[str, int, Group]
"""The name of a source, the index of a group in it, and the group."""

# Slots of a signature. The estimate of a similarity of 0.8 has a standard error of 0.035.
SLOTS = 128
# Bands of `ROWS` slots each. Two groups share a band with probability 1 - (1 - s**4)**16 for a similarity s: 98.7 % for
# 0.7, 99.98 % for 0.8. Only the first 64 slots are in bands, since more bands would compare more dissimilar groups.
BANDS = 16
ROWS = 4
# The smallest threshold. Below, the bands would miss too many pairs.
LEAST = 0.7
# Groups whose signatures are computed together. Their shingles are in memory until then.
CHUNK = 2048


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A duplicate group, and the group (`kept_source`, `kept_index`) that is kept instead.

    >>> copy = Duplicate("s", 1, "s/1", "duplicate", "s", 0, "the same as s/0 (source 's', group 0)")
    >>> copy.kept_index
    0
    """

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
    image_hashes: ImageHashes | None = None,
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
        image_hashes: a cache of image hashes.

    Raises:
        DataError: `threshold` or `shingle` is out of its range.

    >>> from basereward.data.schema.group import Part, Preference, Turn
    >>> group = Group("a", "s", (Turn("user", (Part("6 x 7?"),)),), ("42", "41"), (Preference(0, 1),))
    >>> [(copy.index, copy.kept_index, copy.reason) for copy in find_duplicates([("s", 0, group), ("s", 1, group)])]
    [(1, 0, 'duplicate')]
    """
    if (threshold is not None and not LEAST <= threshold <= 1) or shingle < 1:
        raise DataError(
            f"threshold={threshold} and shingle={shingle}: the threshold must be {LEAST} to 1, or null for exact "
            "duplicates only; shingle must be 1 or more"
        )
    seen = _Seen(signed=threshold is not None, shingle=shingle, image_hashes=image_hashes or ImageHashes())
    for place in groups:
        seen.add(place)
    first = seen.first_equal()
    near = seen.near_duplicates(threshold, among=first) if threshold is not None else {}
    dropped = {int(i): (int(first[i]), None) for i in np.flatnonzero(first != np.arange(len(first)))} | near
    # The first of equal groups may itself be a near duplicate. Then its copies refer to the group that is kept.
    return [seen.duplicate(i, *dropped.get(kept, (kept, similar))) for i, (kept, similar) in sorted(dropped.items())]


class _Seen:
    """Hashes of the groups seen so far, in arrays with one entry per group."""

    def __init__(self, *, signed: bool, shingle: int, image_hashes: ImageHashes) -> None:
        self._signed = signed
        self._shingle = shingle
        self._image_hashes = image_hashes
        self._sources: dict[str, int] = {}
        self._source_numbers, self._indices = array("i"), array("q")
        self._ids: list[str] = []
        self._contents, self._verdicts = array("Q"), array("Q")
        # Shingles of the groups without a signature: for each group those of the whole, then those of the responses.
        self._tokens: list[list[bytes]] = []
        # (groups, BANDS) uint64, and (groups, 2, SLOTS) uint8. Byte arrays grow without being copied each time.
        self._bands, self._slots = bytearray(), bytearray()

    def add(self, placed: PlacedGroup) -> None:
        """Add the hashes of one group."""
        source, index, group = placed
        images = [self._image_hashes.identity(image) for image in group.images]
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
        """Compute the signatures of the waiting groups: the hash of each band, and the last 8 bits of every slot.

        With 8 bits, 1 of 256 different slots counts as equal, which raises an estimate by at most 0.004 and takes an
        eighth of the memory ("b-bit minwise hashing", Li and König, 2010).
        """
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

    def first_equal(self) -> NDArray[np.int64]:
        """Return for each group the number of the first group with the same content."""
        _, first, inverse = np.unique(np.frombuffer(self._contents, np.uint64), return_index=True, return_inverse=True)
        return np.asarray(first[inverse], np.int64)

    def near_duplicates(self, threshold: float, *, among: NDArray[np.int64]) -> dict[int, tuple[int, float | None]]:
        """Find the groups that are similar to an earlier group that is kept.

        Args:
            threshold: the smallest similarity.
            among: the result of `first_equal`. Only groups that are the first ones with their content are compared.

        Returns:
            For each near duplicate, the most similar kept group (the first one if several are) and the similarity.
        """
        if self._tokens:
            self._sign()
        numbers = np.flatnonzero(among == np.arange(len(among)))
        buckets = _shared_buckets(np.frombuffer(self._bands, np.uint64).reshape(-1, BANDS), numbers=numbers)
        slots = np.frombuffer(self._slots, np.uint8).reshape(-1, 2, SLOTS)
        kept_by_bucket: dict[int, list[int]] = {}
        near: dict[int, tuple[int, float | None]] = {}
        for place in np.flatnonzero((buckets >= 0).any(axis=1)).tolist():
            i = int(numbers[place])
            group_buckets = buckets[place][buckets[place] >= 0].tolist()
            members = itertools.chain.from_iterable(kept_by_bucket.get(bucket, ()) for bucket in group_buckets)
            candidates = np.unique(list(members)).astype(np.int64)
            # The smaller one of two similarities: of the whole groups, and of their responses.
            similar = (slots[candidates] == slots[i]).mean(axis=2).min(axis=1)
            if len(candidates) and similar.max() >= threshold:
                near[i] = int(candidates[similar.argmax()]), float(similar.max())
                continue
            # Only kept groups become candidates. A chain of small changes would otherwise end at a text that has little
            # in common with the one that is kept.
            for bucket in group_buckets:
                kept_by_bucket.setdefault(bucket, []).append(i)
        return near

    def duplicate(self, i: int, kept: int, similarity: float | None) -> Duplicate:
        """Describe group `i` as a duplicate of the group `kept`; a similarity of None stands for equal content."""
        names = list(self._sources)
        kept_source = names[self._source_numbers[kept]]
        kept_name = f"{self._ids[kept]} (source '{kept_source}', group {self._indices[kept]})"
        detail = f"the same as {kept_name}" if similarity is None else f"{similarity:.0%} similar to {kept_name}"
        # Contradicting labels of the same responses point to an error in the data.
        if self._verdicts[i] != self._verdicts[kept] and similarity is None:
            detail += ", which has other preferences"
        return Duplicate(
            source=names[self._source_numbers[i]],
            index=self._indices[i],
            id=self._ids[i],
            reason="duplicate" if similarity is None else "near_duplicate",
            kept_source=kept_source,
            kept_index=self._indices[kept],
            detail=detail,
        )


def _shared_buckets(bands: NDArray[np.uint64], *, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
    """Number the buckets of groups with an equal band.

    Args:
        bands: the hashes of the bands of all groups, `(groups, BANDS)`.
        numbers: the groups to compare, `(N,)`.

    Returns:
        `(N, BANDS)`, the bucket of each group in each band; -1 if no other group is in it. Buckets of different bands
        have different numbers.
    """
    buckets = np.full((len(numbers), BANDS), -1, np.int32)
    for band in range(BANDS):
        _, inverse, counts = np.unique(bands[numbers, band], return_inverse=True, return_counts=True)
        buckets[:, band] = np.where(counts[inverse] > 1, inverse * BANDS + band, -1)
    return buckets


def _tokens(group: Group, *, images: list[int], size: int) -> list[list[bytes]]:
    """Return the shingles of the whole group, and those of its responses alone.

    The images are part of every shingle, so that groups with different images have none in common. A text without words
    is one shingle.
    """
    image_key = repr(images)
    prompt = {f"{image_key}p{shingle}" for shingle in shingles(words(prompt_text(group)), size=size)}
    answers = set()
    for response in group.responses:
        answers |= {f"{image_key}r{shingle}" for shingle in shingles(words(response) or [response], size=size)}
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
