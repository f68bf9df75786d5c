"""Finds duplicate groups, within a source or between sources; the first one is kept.

Near duplicates are found by MinHash with locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3): similar sets have equal signature slots with a probability that is their
Jaccard similarity, and only groups that share a whole band of slots are compared.

Signatures are made group by group, by `signatures`, so that they can be made in shards; they are compared here, in one
process, by sorting, with at most 0.6 KB per group.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from basereward.data.curation.image_hashes import ImageHashes
from basereward.data.curation.signatures import BANDS, Signer, signature_type
from basereward.data.schema.group import Group
from basereward.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PlacedGroup: TypeAlias = tuple[str, int, Group]
"""The name of a source, the index of a group in it, and the group."""

# The smallest threshold. Below, the bands would miss too many pairs.
LEAST = 0.7


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
    check_options(threshold, shingle=shingle)
    signer = Signer(near=threshold is not None, shingle=shingle, image_hashes=image_hashes)
    sources, indices, ids = array("i"), array("q"), list[str]()
    numbers: dict[str, int] = {}

    def placed() -> Iterator[Group]:
        for source, index, group in groups:
            sources.append(numbers.setdefault(source, len(numbers)))
            indices.append(index)
            ids.append(group.id)
            yield group

    records = bytearray()
    for signed in signer.sign(placed()):
        # A bytearray grows without being copied each time.
        records += signed.tobytes()
    names = list(numbers)
    if not records:
        return []
    signatures = np.frombuffer(records, signature_type(near=threshold is not None))
    return describe_duplicates(signatures, lambda i: (names[sources[i]], indices[i], ids[i]), threshold=threshold)


def describe_duplicates(
    signatures: NDArray[np.void], place_of: Callable[[int], tuple[str, int, str]], *, threshold: float | None
) -> list[Duplicate]:
    """Find the duplicates among groups whose signatures are known, in their order.

    Args:
        signatures: of all groups, of the type that `signature_type` gives; it may be mapped from a file.
        place_of: gives the source, the index and the id of a group by its number; asked for duplicates only.
        threshold: as of `find_duplicates`.

    >>> from basereward.data.curation.signatures import Signer
    >>> groups = [Group("a", "s", (), ("yes",)), Group("b", "s", (), ("yes",))]
    >>> (signatures,) = Signer(near=False).sign(groups)
    >>> [copy.detail for copy in describe_duplicates(signatures, lambda i: ("s", i, groups[i].id), threshold=None)]
    ["the same as a (source 's', group 0)"]
    """
    first = _first_equal(signatures)
    near = {} if threshold is None else _near_duplicates(signatures, threshold, among=first)
    dropped = {int(i): (int(first[i]), None) for i in np.flatnonzero(first != np.arange(len(first)))} | near
    copies = []
    for i, (kept, similarity) in sorted(dropped.items()):
        # The first of equal groups may itself be a near duplicate. Then its copies refer to the group that is kept.
        kept, similarity = dropped.get(kept, (kept, similarity))
        # Contradicting labels of the same responses point to an error in the data.
        agree = bool(signatures["verdict"][i] == signatures["verdict"][kept])
        copies.append(_duplicate(place_of(i), place_of(kept), similarity, agree=agree))
    return copies


def check_options(threshold: float | None, *, shingle: int) -> None:
    """Check the arguments of `find_duplicates`.

    Raises:
        DataError: `threshold` or `shingle` is out of its range.

    >>> check_options(0.8, shingle=3)
    """
    if (threshold is not None and not LEAST <= threshold <= 1) or shingle < 1:
        raise DataError(
            f"threshold={threshold} and shingle={shingle}: the threshold must be {LEAST} to 1, or null for exact "
            "duplicates only; shingle must be 1 or more"
        )


def _first_equal(signatures: NDArray[np.void]) -> NDArray[np.int64]:
    """Return for each group the number of the first group with the same content."""
    _, first, inverse = np.unique(signatures["content"], return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def _near_duplicates(
    signatures: NDArray[np.void], threshold: float, *, among: NDArray[np.int64]
) -> dict[int, tuple[int, float | None]]:
    """Find the groups that are similar to an earlier group that is kept.

    Args:
        signatures: of all groups.
        threshold: the smallest similarity.
        among: the result of `_first_equal`. Only groups that are the first ones with their content are compared.

    Returns:
        For each near duplicate, the most similar kept group (the first one if several are) and the similarity.
    """
    numbers = np.flatnonzero(among == np.arange(len(among)))
    buckets = _shared_buckets(signatures["bands"], numbers=numbers)
    slots = signatures["slots"]
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


def _duplicate(
    dropped: tuple[str, int, str], kept: tuple[str, int, str], similarity: float | None, *, agree: bool
) -> Duplicate:
    """Describe a group as a duplicate of one that is kept; a similarity of None stands for equal content."""
    source, index, name = dropped
    kept_source, kept_index, kept_id = kept
    kept_name = f"{kept_id} (source '{kept_source}', group {kept_index})"
    detail = f"the same as {kept_name}" if similarity is None else f"{similarity:.0%} similar to {kept_name}"
    if not agree and similarity is None:
        detail += ", which has other preferences"
    return Duplicate(
        source=source,
        index=index,
        id=name,
        reason="duplicate" if similarity is None else "near_duplicate",
        kept_source=kept_source,
        kept_index=kept_index,
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
