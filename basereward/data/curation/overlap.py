"""One benchmark, indexed by what a group may share with it: texts, runs of words, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
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
"""`prompt`, `prompt_response`: the same words; `ngrams`: many of the same runs of words; `image`: the same content;
`similar_image`: a resized or re-encoded copy. `other_image`: the text is the same and the pictures are known to differ,
as of two rows that ask to describe what they show."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """That a group shares something with a row of a benchmark, and with which one."""

    benchmark: str
    kind: OverlapKind
    reference: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Traits:
    """What groups are compared by. `looks` has an entry for each image, None where it could not be read."""

    prompt: int | None
    answers: frozenset[int]
    grams: NDArray[np.uint64]
    looks: tuple[Look | None, ...]

    @property
    def num_unread(self) -> int:
        """Images that could not be looked at."""
        return sum(look is None or not look.readable for look in self.looks)


def traits(group: Group, *, size: int, pictures: PictureHashes) -> Traits:
    """Turns of the system are left out; `grams` are the hashes of `size` words in a row, or of all when there are
    fewer. A prompt of images alone has no text to compare."""
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
        rows: of each row its id and what it is compared by.
        threshold: share of the runs of words of the shorter prompt, 0 to 1, from which two prompts overlap.
        bits: how far two perceptual hashes may be apart.
        common: runs of words in more different prompts than this are the benchmark's manner of asking, and left out.
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
        self._looked: list[bool] = []  # whether a row has pictures, all of them looked at
        self._asking: list[list[int]] = []  # of each different prompt the rows that have it
        grams: list[NDArray[np.uint64]] = []  # of each different prompt
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
        counts = Counter(gram for own in grams for gram in own.tolist())
        self._common = np.array(sorted(gram for gram, count in counts.items() if count > common), np.uint64)
        telling = [own[~np.isin(own, self._common)] for own in grams]
        flat = np.concatenate([np.empty(0, np.uint64), *telling])
        order = np.argsort(flat, kind="stable")
        self._lengths = np.array([len(own) for own in telling], np.int64)
        self._grams = flat[order]
        self._owners = np.repeat(np.arange(len(grams)), self._lengths)[order]

    def overlaps(self, group: Traits) -> list[Overlap]:
        """What the group shares with the benchmark, at most one of each kind, in the order of `KINDS`."""
        found: dict[OverlapKind, tuple[list[int], str]] = {}
        if group.prompt is not None and group.prompt in self._prompts:
            found["prompt"] = self._prompts[group.prompt], ""
        answered = sorted({row for answer in group.answers for row in self._answers.get(answer, ())})
        if answered:
            found["prompt_response"] = answered, ""
        if worded := self._worded_alike(group.grams):
            found["ngrams"] = worded
        pictured = self._pictured_alike(group)
        told_apart = bool(group.looks) and not group.num_unread
        rows_alike = {row for rows, _ in pictured.values() for row in rows}
        for kind, (rows, detail) in list(found.items()):
            if told_apart and all(self._looked[row] and row not in rows_alike for row in rows):
                del found[kind]
                found.setdefault("other_image", (rows, detail or kind))
        found |= pictured
        return [
            Overlap(self.name, kind, self._ids[found[kind][0][0]], found[kind][1]) for kind in KINDS if kind in found
        ]

    def _worded_alike(self, grams: NDArray[np.uint64]) -> tuple[list[int], str] | None:
        """The rows whose prompts share enough, those that share most first, and their share; None without any."""
        grams = grams[~np.isin(grams, self._common)]
        low, high = (np.searchsorted(self._grams, grams, side=side) for side in ("left", "right"))
        spans = [self._owners[a:b] for a, b in zip(low, high, strict=True) if a < b]
        if not spans:
            return None
        owners, shared = np.unique(np.concatenate(spans), return_counts=True)
        shares = shared / np.minimum(self._lengths[owners], len(grams))
        if shares.max() < self._threshold:
            return None
        most_first = owners[np.argsort(-shares, kind="stable")][: int((shares >= self._threshold).sum())]
        rows = [row for owner in most_first for row in self._asking[owner]]
        return rows, f"{shares.max():.0%} of its runs of words"

    def _pictured_alike(self, group: Traits) -> dict[OverlapKind, tuple[list[int], str]]:
        looks = [look for look in group.looks if look]
        same = sorted({row for look in looks for row in self._contents.get(look.content, ())})
        if same:
            return {"image": (same, "")}
        nearest = self._bits + 1
        rows: set[int] = set()
        for look in looks:
            if look.perceptual is not None and len(self._hashes):
                apart = np.bitwise_count(self._hashes ^ np.uint64(look.perceptual))
                close = apart <= self._bits
                rows.update(self._hash_rows[close].tolist())
                nearest = min(nearest, int(apart.min()))
        return {"similar_image": (sorted(rows), f"{nearest} of 64 bits apart")} if rows else {}
