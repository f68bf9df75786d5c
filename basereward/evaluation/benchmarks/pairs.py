"""A person's own file of pairs as a benchmark: how often a model prefers what the rows prefer."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from basereward.data.images.image_store import ImageStore
from basereward.data.readers.find import find_table
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.data.schema.validation import check_usable
from basereward.errors import DataError
from basereward.evaluation.item_identity import items_fingerprint, pictures_fingerprint
from basereward.evaluation.items import Decision, Item, JudgedItem, by_label
from basereward.evaluation.statistics.measures import Measure, Measures, Variant, accuracy, all_right, length_controlled
from basereward.evaluation.statistics.shares import count, right, share

logger = logging.getLogger(__name__)
CATEGORIES = ("category", "subset", "source")  # columns that rows are counted by, the first that is there
MOST_CATEGORIES = 50  # a column with more values than this is no category


class Pairs:
    """The preferences of rows as `basereward/data/schema/rows.py` describes them, an item each.

    A row that cannot be used, and a preference that is a tie, is no item: `lost` counts them by reason.

    Args:
        path: a data file, or a folder of data files.
        columns: our column name -> the file's own.
        images: the folder that relative paths of pictures start from; null: that of the file.
        split: of the data set, where the file or the folder has several.
        by: the column whose values are counted apart; null: the first of `category`, `subset` and `source`.

    Raises:
        DataError: a column of `columns` is none of ours.
    """

    version = "1"
    expected_items: int | None = None
    partial: str | None = None
    judges_only = False

    def __init__(
        self,
        name: str,
        *,
        path: str,
        columns: Mapping[str, str] | None = None,
        images: str | None = None,
        split: str = "train",
        by: str | None = None,
    ) -> None:
        self.name = name
        self.lost: Counter[str] = Counter()
        self._path = Path(path)
        folder = self._path if self._path.is_dir() else self._path.parent
        self.store = ImageStore((folder if images is None else Path(images)).absolute())
        self._form = RowFormat(columns=columns, images=self.store)
        self._split = split
        self._by = by

    @property
    def inputs(self) -> list[Path]:
        """The local files and folders that are read."""
        return [each for each in (self._path, self.store.root) if each.exists()]

    @cached_property
    def items(self) -> Sequence[Item]:
        """
        Raises:
            DataError: the file cannot be read, or no row of it can be used; the message has the first reasons.
        """
        pairs: list[tuple[Mapping[str, Any], Group, int, int]] = []
        first: dict[str, str] = {}
        for row, group in self._groups(first):
            for preference in group.preferences:
                if preference.tie:
                    self.lost["tie"] += 1
                else:
                    pairs.append((row, group, preference.winner, preference.loser))
        for reason, number in self.lost.items():
            example = f"; the first: {first[reason]}" if reason in first else ""
            logger.warning("%s is no pair %d times: %s%s", self._path, number, reason, example)
        if not pairs:
            told = "; ".join(first.values()) or "the preferences are ties"
            raise DataError(f"'{self._path}' has no pair that can be counted: {told}")
        return self._items(pairs)

    def _groups(self, first: dict[str, str]) -> Iterator[tuple[Mapping[str, Any], Group]]:
        """The rows that can be used, with their groups; the first row that is lost for a reason is kept in `first`."""
        table = find_table(str(self._path), split=self._split)
        for _, number, raw in table.scan():
            where = table.where(number)
            try:
                row = table.decode(raw)
                if not isinstance(row, Mapping):
                    raise RowRejected("wrong_type", "the row is no object with named columns")
                group = self._form.group(row, source=self.name, row_id=table.row_id(number), where=where)
                check_usable(group)
            except RowRejected as loss:
                self.lost[loss.reason] += 1
                first.setdefault(loss.reason, loss.detail if where in loss.detail else f"{where}: {loss.detail}")
            else:
                yield row, group

    def _items(self, pairs: Sequence[tuple[Mapping[str, Any], Group, int, int]]) -> list[Item]:
        column = self._category([row for row, _, _, _ in pairs])
        prompts = [_prompt_key(group) for _, group, _, _ in pairs]
        sizes = Counter(prompts)
        return [
            Item(
                row=place,
                id=group.id if len(group.preferences) == 1 else f"{group.id}/{winner}>{loser}",
                prompt=group.prompt,
                responses=(group.responses[winner], group.responses[loser]),
                right=(0,),
                wrong=(1,),
                prompt_id=prompt,
                labels={column: str(row.get(column))} if column else {},
                images=tuple(Path(image).absolute() if isinstance(image, Path) else image for image in group.images),
                prompt_items=sizes[prompt],
            )
            for place, ((row, group, winner, loser), prompt) in enumerate(zip(pairs, prompts, strict=True))
        ]

    def _category(self, rows: Sequence[Mapping[str, Any]]) -> str | None:
        """The column that is counted by.

        Raises:
            DataError: the column that was asked for is in no row.
        """
        if self._by is not None:
            if not any(row.get(self._by) is not None for row in rows):
                raise DataError(f"by={self._by}: no row has this column. Columns found: {', '.join(map(str, rows[0]))}")
            return self._by
        for name in CATEGORIES:
            values = {str(row.get(name)) for row in rows if isinstance(row.get(name), str | int)}
            if 1 <= len(values) <= MOST_CATEGORIES:
                return name
        return None

    @property
    def variants(self) -> Mapping[str, Variant]:
        return {"pairs": _measures, "length_controlled": lambda judged: {"overall": length_controlled(judged)}}

    @cached_property
    def fingerprint(self) -> dict[str, str | None]:
        """As of a published benchmark."""
        return {"items": items_fingerprint(self.items), "pictures": pictures_fingerprint(self.items, self.store)}

    @cached_property
    def digest(self) -> str:
        """A hash of all that decides on a score or a number."""
        pictures = self.fingerprint["pictures"] or repr([item.images for item in self.items])
        return hashlib.sha256(f"{self.version} {self.fingerprint['items']} {pictures}".encode()).hexdigest()


def _prompt_key(group: Group) -> str:
    images = [str(image) if isinstance(image, str | Path) else repr(image) for image in group.images]
    return hashlib.sha256(repr((group.prompt, images)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _measures(judged: Sequence[JudgedItem]) -> Measures:
    """All pairs, every category, and where a prompt has several pairs the share of prompts with all of them right."""
    several = len({each.item.prompt_id for each in judged}) < len(judged)
    one: Callable[[Sequence[JudgedItem]], Measure] = _clustered if several else accuracy
    measures = {"overall": one(judged)}
    if several:
        measures["acc_plus"] = all_right(judged)
    for label in dict.fromkeys(label for each in judged for label in each.item.labels):
        measures |= {f"{label}: {value}": one(part) for value, part in by_label(judged, label).items()}
    return measures


def _clustered(judged: Sequence[JudgedItem]) -> Measure:
    """Accuracy with an interval by prompt, since the pairs of one prompt are not independent."""
    ties, undecided = count(judged, Decision.TIE), count(judged, Decision.UNDECIDED)
    return share(right(judged), ties=ties, undecided=undecided)
