"""A user's own file of pairs as a benchmark: how often a model agrees with the preferences of the rows."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from basereward.data.formats.row_reader import RowReader
from basereward.data.images.image_store import ImageStore
from basereward.data.open_rows import open_images, open_table
from basereward.data.readers.find import matching_files
from basereward.data.schema.columns import shown_names
from basereward.data.schema.group import Group, PlacedImage, Split
from basereward.data.schema.missing_columns import MappedColumns
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.data.schema.validation import check_usable
from basereward.errors import DataError, format_count
from basereward.evaluation.item_identity import (
    absolute_image,
    absolute_visual,
    items_fingerprint,
    partial_pictures,
    pictures_fingerprint,
)
from basereward.evaluation.items import Decision, Item, JudgedItem, by_label
from basereward.evaluation.scoring import prompt_groups
from basereward.evaluation.statistics.measures import Measure, Measures, Variant, accuracy, all_right, length_controlled
from basereward.evaluation.statistics.shares import count, right, share
from basereward.io.formats import is_pattern

logger = logging.getLogger(__name__)
# Columns by whose values rows are counted separately; the first one that rows have.
CATEGORIES = ("category", "subset", "source")
# A column with more values than this is an id rather than a category.
MAX_CATEGORIES = 50


@dataclass(frozen=True, slots=True)
class _PairRow:
    """A preference that is no tie, with the row and the group that it comes from."""

    row: Mapping[str, Any]
    group: Group
    winner: int
    loser: int

    @property
    def id(self) -> str:
        if len(self.group.preferences) == 1:
            return self.group.id
        return f"{self.group.id}/{self.winner}>{self.loser}"

    @property
    def images(self) -> tuple[Any, ...]:
        # Absolute, so that the digest does not depend on the working directory.
        return tuple(map(absolute_visual, self.group.images))

    @property
    def response_images(self) -> tuple[tuple[PlacedImage, ...], ...]:
        """The images of the winner and of the loser; none if neither has one."""
        shown = [self.group.images_of(place) for place in (self.winner, self.loser)]
        absolute = [tuple(replace(item, image=absolute_image(item.image)) for item in placed) for placed in shown]
        return tuple(absolute) if any(absolute) else ()


class Pairs:
    """One item per preference of rows in any format that is recognised (see `basereward/data/formats`).

    A row that cannot be used and a preference that is a tie are not items; `lost` counts them by reason.

    Args:
        name: of the benchmark.
        path: a data file, a folder or a pattern of data files, or a hub id.
        columns: our name of a column -> its name in the file.
        images: the folder from which relative paths of images start; null: the folder of the file.
        split: of the data set, if the file or the folder has several.
        by: the column whose values are counted separately; null: the first of `category`, `subset` and `source`.

    Raises:
        DataError: a key of `columns` is not one of our columns.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mine.jsonl"
    >>> _ = file.write_text('{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}')
    >>> [item.responses for item in Pairs("mine", path=str(file)).items]
    [('4', '5')]
    """

    version = "1"
    expected_items: int | None = None
    partial: str | None = None
    unscored: str | None = None
    known_columns: ClassVar[tuple[str, ...]] = ()
    """Columns that are not reported as not read."""

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
        self._path = path
        self.store = open_images(path, images)
        if not self.store.closed:
            self.store = ImageStore(self.store.root.absolute())
        self._columns = columns
        self._reader = RowReader(RowFormat(columns=columns, images=self.store, of_table=True))
        self._split = split
        self._by = by

    @property
    def inputs(self) -> list[Path]:
        """The local files and folders that are read."""
        return [path for path in (*self._files(), self.store.root) if path.exists()]

    def _files(self) -> list[Path]:
        return matching_files(self._path) if is_pattern(self._path) else [Path(self._path)]

    @property
    def variants(self) -> Mapping[str, Variant]:
        """Ways of counting by name: `pairs`, and `length_controlled`."""
        return {"pairs": _measures, "length_controlled": lambda judged: {"overall": length_controlled(judged)}}

    @cached_property
    def items(self) -> Sequence[Item]:
        """All items, in the order of the rows.

        Raises:
            DataError: the file cannot be read, or no row of it can be used; the message has the first reasons.
        """
        pairs: list[_PairRow] = []
        examples: dict[str, str] = {}
        for row, group in self._groups(examples):
            for preference in group.preferences:
                if preference.tie:
                    self.lost["tie"] += 1
                else:
                    pairs.append(_PairRow(row, group, preference.winner, preference.loser))
        for reason, number in self.lost.items():
            example = f"; the first: {examples[reason]}" if reason in examples else ""
            what = format_count(number, "row or preference is no pair", "rows or preferences are no pairs")
            logger.warning("%s: %s: %s%s", self._path, what, reason, example)
        if not pairs:
            reasons = "; ".join(examples.values()) or "the preferences are ties"
            raise DataError(f"'{self._path}' has no pair that can be counted: {reasons}")
        return self._items(pairs)

    def groups(self, split: Split) -> Sequence[Group]:
        """As a source whose test split is the whole benchmark: its prompts, without preferences.

        Raises:
            DataError: the rows cannot be read.
        """
        return prompt_groups(self.items, self.store) if split == "test" else ()

    @cached_property
    def fingerprint(self) -> dict[str, str | None]:
        """Hashes of the `items` and of the content of the `pictures`, as of a published benchmark."""
        return {"items": items_fingerprint(self.items), "pictures": pictures_fingerprint(self.items, self.store)}

    @cached_property
    def digest(self) -> str:
        """A hash of everything that decides on a score or a number."""
        pictures = self.fingerprint["pictures"] or repr(partial_pictures(self.items, self.store))
        return hashlib.sha256(f"{self.version} {self.fingerprint['items']} {pictures}".encode()).hexdigest()

    def _groups(self, examples: dict[str, str]) -> Iterator[tuple[Mapping[str, Any], Group]]:
        """The rows that can be used, with their groups.

        Args:
            examples: gets the first rejected row of each reason.
        """
        table = open_table(self._path, columns=self._columns, split=self._split)
        mapped = MappedColumns(self._reader.named_columns)
        used = False
        for _, number, raw in table.scan():
            where = table.where(number)
            try:
                row = table.decode(raw)
                if not isinstance(row, Mapping):
                    raise RowRejected("wrong_type", "the row is not an object with named columns")
                mapped.see(row)
                group = self._reader.group(row, source=self.name, row_id=table.row_id(number), where=where)
                check_usable(group)
            except RowRejected as rejection:
                self.lost[rejection.reason] += 1
                # Some details name the row already.
                detail = rejection.detail if where in rejection.detail else f"{where}: {rejection.detail}"
                examples.setdefault(rejection.reason, detail)
            else:
                used = True
                yield row, group
        # Without a usable row, the faults of the rows say more.
        if used:
            mapped.check(self._path)
        self._log_columns()

    def _log_columns(self) -> None:
        """Log how the rows were read, and which of their columns were not."""
        report = self._reader.report
        if report.formats:
            logger.info("%s: read as %s", self._path, ", ".join(report.formats))
        unread = [name for name in report.unread if name not in self.known_columns]
        if unread:
            logger.warning("%s: columns that are not read: %s", self._path, shown_names(unread))

    def _items(self, pairs: Sequence[_PairRow]) -> list[Item]:
        labels = self._labels([pair.row for pair in pairs])
        prompts = [_prompt_key(pair.group) for pair in pairs]
        prompt_items = Counter(prompts)
        items: list[Item] = []
        for number, (pair, prompt) in enumerate(zip(pairs, prompts, strict=True)):
            items.append(
                Item(
                    row=number,
                    id=pair.id,
                    prompt=pair.group.prompt,
                    responses=(pair.group.responses[pair.winner], pair.group.responses[pair.loser]),
                    right=(0,),
                    wrong=(1,),
                    prompt_id=prompt,
                    labels=labels[number],
                    images=pair.images,
                    response_images=pair.response_images,
                    prompt_items=prompt_items[prompt],
                )
            )
        return items

    def _labels(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """The labels of the item of each row."""
        column = self._category(rows)
        return [{column: str(row.get(column))} if column else {} for row in rows]

    def _category(self, rows: Sequence[Mapping[str, Any]]) -> str | None:
        """The column whose values are counted separately; None if there is none.

        Raises:
            DataError: no row has the column that the argument `by` names.
        """
        if self._by is not None:
            if not any(row.get(self._by) is not None for row in rows):
                raise DataError(f"by={self._by}: no row has this column. Columns found: {', '.join(map(str, rows[0]))}")
            return self._by
        for name in CATEGORIES:
            values = {str(row.get(name)) for row in rows if isinstance(row.get(name), str | int)}
            if 1 <= len(values) <= MAX_CATEGORIES:
                return name
        return None


def _prompt_key(group: Group) -> str:
    """Equal for groups with the same prompt and images."""
    images = [str(image) if isinstance(image, str | Path) else repr(image) for image in group.images]
    return hashlib.sha256(repr((group.prompt, images)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _measures(judged: Sequence[JudgedItem]) -> Measures:
    """Accuracy on all pairs and on every category. If prompts have several pairs, also `acc_plus`, the share of prompts
    whose pairs are all right."""
    has_shared_prompts = len({judged_item.item.prompt_id for judged_item in judged}) < len(judged)
    accuracy_of: Callable[[Sequence[JudgedItem]], Measure] = _clustered if has_shared_prompts else accuracy
    measures = {"overall": accuracy_of(judged)}
    if has_shared_prompts:
        measures["acc_plus"] = all_right(judged)
    labels: dict[str, None] = {}
    for judged_item in judged:
        labels |= dict.fromkeys(judged_item.item.labels)
    for label in labels:
        for value, members in by_label(judged, label).items():
            measures[f"{label}: {value}"] = accuracy_of(members)
    return measures


def _clustered(judged: Sequence[JudgedItem]) -> Measure:
    """Accuracy with an interval over prompts, because the pairs of one prompt are not independent."""
    ties, undecided = count(judged, Decision.TIE), count(judged, Decision.UNDECIDED)
    return share(right(judged), ties=ties, undecided=undecided)
