"""Reads the pairs of sources that judges select from, with the reasons for which other preferences are left out."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from basereward.data.schema.group import Group, Split, role_texts
from basereward.data.schema.rejections import RowRejected
from basereward.data.source_files import check_source_outputs
from basereward.data.sources import Source
from basereward.errors import DataError
from basereward.evaluation.construction.pictures import PictureFolder
from basereward.evaluation.item_identity import item_fingerprint
from basereward.evaluation.items import Item
from basereward.io.progress import track
from basereward.recipe import make
from basereward.recipe.fragment import assign_overrides, load_source


@dataclass(frozen=True)
class Candidates:
    """Pairs, each as an item whose first response is the preferred one.

    Attributes:
        items: in the order of the sources; `row` is the place in this list.
        read: number of preferences and rejected rows of all sources.
        left_out: reason -> number of preferences or rows that are not candidates.
        digest: of all items with the content of their images.
    """

    items: Sequence[Item]
    read: int
    left_out: dict[str, int]
    digest: str


@dataclass(frozen=True)
class CandidateOptions:
    """Which preferences of the sources are candidates.

    Attributes:
        split: of the sources.
        length_control: the largest difference of the lengths of both responses in characters, as a share of the
            shorter one, exclusive; None: any.
        limit: the most candidates, drawn by `seed`; None: all.
        seed: of the draw.
    """

    split: Split = "train"
    length_control: float | None = None
    limit: int | None = None
    seed: int = 0


def read_candidates(
    sources: Sequence[str],
    options: CandidateOptions,
    *,
    overrides: Iterable[str] = (),
    pictures: PictureFolder,
    outputs: Mapping[str, Path],
    also: Iterable[Path] = (),
) -> Candidates:
    """Read the candidates of sources, and check that their images can be opened.

    Args:
        sources: names in `experiments/sources`, or rows: files, folders, patterns or hub ids.
        options: which preferences are candidates.
        overrides: `key=value` for arguments of the source; `SOURCE.key=value` if there are several.
        pictures: gets the images that have no file.
        outputs: name of each file of the selection in messages -> its path; none may be an input.
        also: further inputs, such as the folders of models.

    Raises:
        DataError: two sources have one name, no preference is a candidate, or an output is an input.
        RecipeError: a source cannot be opened.
    """
    collected = _Collected(options, pictures)
    names: set[str] = set()
    for given, changes in assign_overrides(sources, overrides, kind="source").items():
        name, node = load_source(given, overrides=changes)
        if name in names:
            raise DataError(f"two sources are called '{name}'; rename one of the files, or give one source")
        names.add(name)
        source: Source = make(node, "sources", name)
        groups = source.groups(options.split)
        check_source_outputs(outputs, given, node, groups, also=also, folders={"the images": pictures.folder})
        collected.left_out.update(row.reason for row in source.rejected(options.split))
        for group in track(groups, f"reading {name}", unit="rows"):
            collected.add(group)
    return collected.candidates(sources)


def length_difference(first: str, second: str) -> float:
    """The difference of the lengths of two texts in characters, as a share of the shorter one.

    >>> length_difference("1234567890", "12345678901"), length_difference("", "a")
    (0.1, inf)
    """
    shorter = min(len(first), len(second))
    return abs(len(first) - len(second)) / shorter if shorter else float("inf")


class _Collected:
    """Candidates while sources are read."""

    def __init__(self, options: CandidateOptions, pictures: PictureFolder) -> None:
        self.left_out: Counter[str] = Counter()
        self._options = options
        self._items: list[Item] = []
        self._folder = pictures
        self._pictures: list[tuple[str, ...]] = []
        self._used: Counter[str] = Counter()

    def add(self, group: Group) -> None:
        """Add the preferences of a group."""
        pairs = list(self._pairs(group))
        if not pairs:
            return
        if group.response_images:
            # Candidates are judged and shown by the texts of their responses.
            self.left_out["image_in_response"] += len(pairs)
            return
        try:
            located = [self._folder.locate(image) for image in group.images]
        except RowRejected as rejection:
            self.left_out[rejection.reason] += len(pairs)
            return
        pictures = tuple(digest for digest, _ in located)
        prompt = hashlib.sha256(repr((role_texts(group.prompt), pictures)).encode("utf-8", "surrogatepass"))
        for winner, loser in pairs:
            item = Item(
                row=len(self._items),
                id=self._name(group, winner, loser),
                prompt=group.prompt,
                responses=(group.responses[winner], group.responses[loser]),
                right=(0,),
                wrong=(1,),
                prompt_id=prompt.hexdigest()[:16],
                labels={"source": group.source},
                images=tuple(place for _, place in located),
            )
            self._items.append(item)
            self._pictures.append(pictures)

    def _pairs(self, group: Group) -> Iterator[tuple[int, int]]:
        control = self._options.length_control
        for preference in group.preferences:
            winner, loser = group.responses[preference.winner], group.responses[preference.loser]
            if preference.tie:
                self.left_out["tie"] += 1
            elif control is not None and length_difference(winner, loser) >= control:
                self.left_out["length_control"] += 1
            else:
                yield preference.winner, preference.loser

    def _name(self, group: Group, winner: int, loser: int) -> str:
        name = group.id if len(group.preferences) == 1 else f"{group.id}/{winner}>{loser}"
        self._used[name] += 1
        # Groups of a source may share an id; the ids of pairs must differ.
        return name if self._used[name] == 1 else f"{name}~{self._used[name]}"

    def candidates(self, sources: Sequence[str]) -> Candidates:
        """All candidates, or those that are drawn.

        Raises:
            DataError: there are none.
        """
        read = len(self._items) + sum(self.left_out.values())
        if not self._items:
            reasons = ", ".join(f"{reason} {number}" for reason, number in self.left_out.items()) or "they are empty"
            raise DataError(
                f"{', '.join(sources)}: no preference of the part {self._options.split} can be judged: {reasons}"
            )
        places = list(range(len(self._items)))
        if self._options.limit is not None and self._options.limit < len(places):
            drawn = random.Random(f"candidates/{self._options.seed}").sample(places, self._options.limit)
            self.left_out["limit"] = len(places) - len(drawn)
            places = sorted(drawn)
        items = [replace(self._items[place], row=row) for row, place in enumerate(places)]
        combined = hashlib.sha256()
        for item, place in zip(items, places, strict=True):
            combined.update(repr((item_fingerprint(item), self._pictures[place])).encode())
        left_out = dict(sorted(self.left_out.items()))
        return Candidates(items, read, left_out, combined.hexdigest())
