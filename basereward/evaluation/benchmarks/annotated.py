"""A published benchmark: rows of a data set on the hub, or local rows of the same layout, read by a protocol."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from basereward.data.readers.find import find_files, find_table
from basereward.data.schema.messages import shown
from basereward.data.schema.missing_columns import MappedColumns
from basereward.data.schema.rejections import RowRejected
from basereward.data.sources.hub import find_images
from basereward.errors import DataError, sentence
from basereward.evaluation.item_identity import items_fingerprint, pictures_fingerprint
from basereward.evaluation.items import Item
from basereward.evaluation.protocols import Protocol, check_protocol
from basereward.evaluation.statistics.measures import Variant
from basereward.recipe import make
from basereward.recipe.schema import Node


class Annotated:
    """All rows of a benchmark, in their stored order. No row is ever left out.

    Args:
        name: of the benchmark.
        path: a hub id, a folder with data files or one that `save_to_disk` wrote, or one data file.
        protocol: how rows are read and counted.
        version: of this reading of the benchmark; a change that moves a number raises it.
        files: names or patterns of data files in `path`; null: those that the `datasets` library finds.
        subset: the configuration of the data set, if it has several.
        revision: branch, tag or commit of the hub repository.
        split: of the data set.
        columns: the protocol's name of a column -> its name in the data set.
        images: zip or tar files in the data set, or a folder, that hold the images; null: paths start from the folder
            of a local data set.
        expected_items: the number of items of the whole benchmark in this version; null: unknown.
        expected_counts: label of the protocol -> its values -> the number of items that have each; null: some, in an
            unknown number.

    Raises:
        RecipeError: the protocol lacks a required member.

    >>> benchmark = Annotated("mine", path="rows.jsonl", protocol={"_target_": "rm_bench"})
    >>> list(benchmark.variants)
    ['domain_mean', 'row_pooled']
    """

    def __init__(
        self,
        name: str,
        *,
        path: str,
        protocol: Node,
        version: str = "1",
        files: list[str] | None = None,
        subset: str | None = None,
        revision: str | None = None,
        split: str = "test",
        columns: Mapping[str, str] | None = None,
        images: str | list[str] | None = None,
        expected_items: int | None = None,
        expected_counts: dict[str, dict[str, int | None]] | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.expected_items = expected_items
        self._expected_counts = expected_counts or {}
        self.protocol: Protocol = check_protocol(make(protocol, "protocols"))
        self.store = find_images(path, images, revision=revision)
        self._columns = dict(columns or {})
        self._node = protocol
        self._path = path
        self._files = list(files or ())
        self._table = partial(find_table, path, files=files or (), subset=subset, revision=revision, split=split)

    @property
    def judges_only(self) -> bool:
        """Whether the responses hold what a model that scores text cannot see."""
        return bool(getattr(self.protocol, "judges_only", Protocol.judges_only))

    @property
    def variants(self) -> Mapping[str, Variant]:
        """Ways of counting by name, the published one first."""
        return self.protocol.variants

    @cached_property
    def items(self) -> Sequence[Item]:
        """All items, in the order of the rows.

        Raises:
            DataError: the data set cannot be loaded, or a row is malformed; the message names it.
        """
        table = self._table()
        items: list[Item] = []
        mapped = MappedColumns(set(self._columns.values()))
        for _, number, raw in table.scan():
            try:
                items.append(self._item(table.decode(raw), number=len(items), mapped=mapped))
            except RowRejected as rejection:
                raise DataError(
                    f"{table.where(number)}: {rejection.reason}: {sentence(rejection.detail)} "
                    f"A benchmark is never counted in part, so nothing of '{self.name}' is counted."
                ) from rejection
        if not items:
            raise DataError(f"{table.label} has no rows; benchmark '{self.name}' has nothing to count")
        mapped.check(table.label)
        # Known only now, when all rows are read.
        prompt_items = Counter(item.prompt_id for item in items)
        return [replace(item, prompt_items=prompt_items[item.prompt_id]) for item in items]

    @cached_property
    def partial(self) -> str | None:
        """How the items differ in number from those of the whole benchmark; None if they do not."""
        faults = []
        if self.expected_items not in (None, len(self.items)):
            faults.append(f"items: {self.expected_items:,} expected, {len(self.items):,} found")
        for label, expected in self._expected_counts.items():
            actual = Counter(item.labels.get(label, "") for item in self.items)
            faults += _count_faults(label, expected, actual)
        return "; ".join(faults) or None

    @property
    def inputs(self) -> list[Path]:
        """The local files and folders that are read; of a folder with `files`, these files only."""
        rows = [Path(self._path)]
        if rows[0].is_dir() and self._files:
            rows = []
            for pattern in self._files:
                rows += find_files(self._path, pattern)
        # A store without a folder of its own has the empty path, which exists as the working directory.
        images = [self.store.root] if self.store.root != Path() else []
        paths = [*rows, *map(Path, self.store.archives), *images]
        return [path for path in paths if path.exists()]

    @cached_property
    def fingerprint(self) -> dict[str, str | None]:
        """Hashes of the `items` (ids, prompts, responses, which are right, labels) and of the content of the
        `pictures`, which is None if some are not available."""
        pictures = pictures_fingerprint(self.items, self.store)
        return {"items": items_fingerprint(self.items), "pictures": pictures}

    @cached_property
    def digest(self) -> str:
        """A hash of everything that decides on a score or a number: version, items, images, arguments of the protocol.

        If images are not available, their names and places stand for them.
        """
        pictures = self.fingerprint["pictures"] or repr(
            (self.store.root, self.store.archives, [item.images for item in self.items])
        )
        content = (self.version, self._node, self.fingerprint["items"], pictures)
        return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()

    def _item(self, row: object, *, number: int, mapped: MappedColumns) -> Item:
        if not isinstance(row, Mapping):
            raise RowRejected("wrong_type", "the row is not an object with named columns.")
        mapped.see(row)
        renamed = {name: row.get(stored_name) for name, stored_name in self._columns.items()}
        cells: dict[str, Any] = {**row, **renamed}
        missing = [name for name in self.protocol.columns if cells.get(name) is None]
        if missing:
            raise self._missing_columns(missing, row)
        item = self.protocol.item(cells, number=number, images=self.store)
        _check_item(item)
        return item

    def _name_in_data(self, name: str) -> str:
        """A column as it is called in the data, with the mapping that says so."""
        return f"{self._columns[name]} (columns.{name})" if name in self._columns else name

    def _missing_columns(self, missing: Sequence[str], row: Mapping[Any, Any]) -> RowRejected:
        advice: Mapping[str, str] = getattr(self.protocol, "missing_column_advice", Protocol.missing_column_advice)
        sentences = [
            f"missing or empty: {', '.join(self._name_in_data(name) for name in missing)}.",
            f"Columns found: {', '.join(map(str, row)) or 'none'}.",
            *(advice[name] for name in missing if name in advice),
            f"If the data set has them under other names, map them: columns.{missing[0]}=...",
        ]
        return RowRejected("missing_column", " ".join(sentences))


def _count_faults(label: str, expected: Mapping[str, int | None], actual: Mapping[str, int]) -> list[str]:
    """The values of a label that another number of items has than expected."""
    faults = []
    for value in dict.fromkeys([*expected, *actual]):
        wanted, number = expected.get(value, 0), actual.get(value, 0)
        # None stands for at least one.
        differs = number == 0 if wanted is None else wanted != number
        if differs:
            amount = "some" if wanted is None else f"{wanted:,}"
            faults.append(f"{label} {value or 'without a name'}: {amount} expected, {number:,} found")
    return faults


def _check_item(item: Item) -> None:
    """Check what no protocol needs to check itself.

    Raises:
        RowRejected: the prompt is empty or of a wrong type, or a response is not text.
    """
    if isinstance(item.prompt, str) and not item.prompt.strip():
        raise RowRejected("empty_prompt", f"the prompt of '{item.id}' is empty; nothing was asked.")
    for response in item.responses:
        if not isinstance(response, str):
            raise RowRejected("wrong_type", f"an answer is {shown(response)}; text is needed")
    if not isinstance(item.prompt, str | list):
        raise RowRejected("wrong_type", f"the prompt is {shown(item.prompt)}; text or a list of messages is needed.")
