"""A published benchmark: rows of a data set on the hub, or local rows of the same layout, read by a protocol."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from basereward.data.readers import Table
from basereward.data.readers.find import find_files, find_table
from basereward.data.schema.group import Group, Split
from basereward.data.schema.messages import shown
from basereward.data.schema.missing_columns import MappedColumns
from basereward.data.schema.rejections import RowRejected
from basereward.data.sources.hub import find_images
from basereward.errors import DataError, RecipeError, sentence, unknown
from basereward.evaluation.item_identity import items_fingerprint, partial_pictures, pictures_fingerprint
from basereward.evaluation.items import Item
from basereward.evaluation.protocols import Protocol, check_protocol
from basereward.evaluation.scoring import prompt_groups
from basereward.evaluation.statistics.measures import Variant
from basereward.recipe import make
from basereward.recipe.schema import Node

# What a layout may replace, and what a part may.
LAYOUT_KEYS = ("files", "subset", "split", "columns", "images", "parts")
PART_KEYS = ("files", "subset", "split")
# The column that tells a protocol of which part a row is.
PART = "part"


class Annotated:
    """All rows of a benchmark, in their stored order. No row is ever left out.

    Args:
        name: of the benchmark.
        path: a hub id, a folder with data files or one that `save_to_disk` wrote, or one data file.
        protocol: how rows are read and counted.
        version: of this reading of the benchmark; a change that moves a number raises it.
        files: names or patterns of data files in `path`, or one; null: those that the `datasets` library finds.
        subset: the configuration of the data set, if it has several.
        revision: branch, tag or commit of the hub repository.
        split: of the data set.
        columns: the protocol's name of a column -> its name in the data set.
        images: zip or tar files in the data set, or a folder, that hold the images; null: paths start from the folder
            of a local data set.
        parts: name of a part -> its `files`, `subset` and `split`, where they differ from those above. The rows of the
            parts follow one another, and each has the name of its part in the column `part`. A `path` to one data file
            holds all parts: its rows have this column themselves.
        layouts: name of a layout -> the arguments that are different in it, for copies whose files differ.
        layout: the layout of `path`; null: the arguments as they are above.
        unscored: what the rows hold that models and judges cannot read here, such as videos as answers; null: nothing.
            Outcomes of other programs are counted all the same.
        suite: the suite of `basereward eval --suite` that the benchmark belongs to; null: none.
        headline: `variant/metric` that stands for the benchmark in the table of the suite; of several, the first one
            that is counted.
        expected_items: the number of items of the whole benchmark in this version; null: unknown.
        expected_counts: label of the protocol -> its values -> the number of items that have each; null: some, in an
            unknown number.

    Raises:
        RecipeError: the protocol lacks a required member, or a layout or a part is wrong.

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
        files: str | list[str] | None = None,
        subset: str | None = None,
        revision: str | None = None,
        split: str = "test",
        columns: Mapping[str, str] | None = None,
        images: str | list[str] | None = None,
        parts: dict[str, dict[str, Any]] | None = None,
        layouts: dict[str, dict[str, Any]] | None = None,
        layout: str | None = None,
        unscored: str | None = None,
        suite: str | None = None,
        headline: list[str] | None = None,
        expected_items: int | None = None,
        expected_counts: dict[str, dict[str, int | None]] | None = None,
    ) -> None:
        self.name, self.version, self.unscored = name, version, unscored
        self.suite, self.headline = suite, tuple(headline or ())
        self.expected_items, self._expected_counts = expected_items, expected_counts or {}
        self.protocol: Protocol = check_protocol(make(protocol, "protocols"))
        self._node = protocol
        changed = {"columns": columns, "images": images, "parts": parts, **_layout_arguments(layouts, layout)}
        self._columns: dict[str, str] = dict(changed.pop("columns") or {})
        self.store = find_images(path, changed.pop("images"), revision=revision)
        parts = changed.pop("parts")
        location = replace(_RowsPlace(path, files, subset, split, revision), **changed)
        self._places = _places(location, parts)

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
        items: list[Item] = []
        mapped = MappedColumns(set(self._columns.values()))
        labels: list[str] = []
        for part, place in self._places.items():
            table = place.table()
            labels.append(table.label)
            self._read(table, part, items, mapped)
        label = " and ".join(labels)
        if not items:
            raise DataError(f"{label} has no rows; benchmark '{self.name}' has nothing to count")
        mapped.check(label)
        # Known only now, when all rows are read.
        prompt_items = Counter(item.prompt_id for item in items)
        return [replace(item, prompt_items=prompt_items[item.prompt_id]) for item in items]

    def _read(self, table: Table, part: str | None, items: list[Item], mapped: MappedColumns) -> None:
        """Append the items of a table."""
        for _, number, raw in table.scan():
            try:
                items.append(self._item(table.decode(raw), part, number=len(items), mapped=mapped))
            except RowRejected as rejection:
                raise DataError(
                    f"{table.where(number)}: {rejection.reason}: {sentence(rejection.detail)} "
                    f"A benchmark is never counted in part, so nothing of '{self.name}' is counted."
                ) from rejection

    def groups(self, split: Split) -> Sequence[Group]:
        """As a source whose test split is the whole benchmark: its prompts, without preferences.

        Raises:
            DataError: the rows cannot be read.
        """
        return prompt_groups(self.items, self.store) if split == "test" else ()

    @cached_property
    def partial(self) -> str | None:
        """How the items differ in number from those of the whole benchmark; None if they do not."""
        faults = []
        if self.expected_items not in (None, len(self.items)):
            faults.append(f"items: {self.expected_items:,} expected, {len(self.items):,} found")
        for label, expected in self._expected_counts.items():
            actual = Counter(item.labels.get(label, "") for item in self.items)
            faults += count_faults(label, expected, actual)
        return "; ".join(faults) or None

    @property
    def inputs(self) -> list[Path]:
        """The local files and folders that are read; of a folder with `files`, these files only."""
        rows: list[Path] = []
        for place in self._places.values():
            rows += place.inputs()
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

        If images are not available, their names and places stand for them, with the content of those that are.
        """
        pictures = self.fingerprint["pictures"] or repr(
            (self.store.root, self.store.archives, *partial_pictures(self.items, self.store))
        )
        content = (self.version, self._node, self.fingerprint["items"], pictures)
        return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()

    def _item(self, row: object, part: str | None, *, number: int, mapped: MappedColumns) -> Item:
        if not isinstance(row, Mapping):
            raise RowRejected("wrong_type", "the row is not an object with named columns.")
        mapped.see(row)
        renamed = {name: row.get(stored_name) for name, stored_name in self._columns.items()}
        cells: dict[str, Any] = {**row, **renamed, **({} if part is None else {PART: part})}
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
        mapping = " ".join(f"columns.{name}=NAME" for name in missing)
        advice: Mapping[str, str] = getattr(self.protocol, "missing_column_advice", Protocol.missing_column_advice)
        sentences = [
            f"missing or empty: {', '.join(self._name_in_data(name) for name in missing)}.",
            f"Columns found: {', '.join(map(str, row)) or 'none'}.",
            *(advice[name] for name in missing if name in advice),
            f"If the data set has them under other names, map them: {mapping}",
        ]
        return RowRejected("missing_column", " ".join(sentences))


@dataclass(frozen=True)
class _RowsPlace:
    """Where rows are; the arguments of `Annotated` with the same names."""

    path: str
    files: str | list[str] | None
    subset: str | None
    split: str
    revision: str | None

    @property
    def patterns(self) -> list[str]:
        """The names or patterns of the files."""
        return [self.files] if isinstance(self.files, str) else self.files or []

    def table(self) -> Table:
        files = self.patterns
        return find_table(self.path, files=files, subset=self.subset, revision=self.revision, split=self.split)

    def inputs(self) -> list[Path]:
        """The local files that are read; the folder, if they are not named."""
        if not self.patterns or not Path(self.path).is_dir():
            return [Path(self.path)]
        found: list[Path] = []
        for pattern in self.patterns:
            found += find_files(self.path, pattern)
        return found


def _places(place: _RowsPlace, parts: Mapping[str, Mapping[str, Any]] | None) -> dict[str | None, _RowsPlace]:
    """Where the rows of each part are; one place without a name if there are no parts.

    Raises:
        RecipeError: a part has an unknown key.
    """
    # The rows of a single file name their parts themselves.
    if not parts or Path(place.path).is_file():
        return {None: place}
    places: dict[str | None, _RowsPlace] = {}
    for name, arguments in parts.items():
        _check_keys(arguments, PART_KEYS, where=f"parts.{name}")
        places[name] = replace(place, **arguments)
    return places


def _layout_arguments(layouts: Mapping[str, Mapping[str, Any]] | None, name: str | None) -> dict[str, Any]:
    """The arguments that a layout replaces; empty for the layout of the hub.

    Raises:
        RecipeError: there is no such layout, or one has an unknown key.
    """
    known = layouts or {}
    for layout, arguments in known.items():
        _check_keys(arguments, LAYOUT_KEYS, where=f"layouts.{layout}")
    if name is None:
        return {}
    if name not in known:
        raise RecipeError(f"layout: {unknown('layout', name, known)} Without one, the rows are read as on the hub")
    return dict(known[name])


def _check_keys(arguments: Mapping[str, Any], allowed: Sequence[str], *, where: str) -> None:
    for key in arguments:
        if key not in allowed:
            raise RecipeError(f"{where}: {unknown('key', key, allowed)}")


def count_faults(label: str, expected: Mapping[str, int | None], actual: Mapping[str, int]) -> list[str]:
    """The values of a label that another number of items has than expected, in words.

    Args:
        label: of the items.
        expected: the number of items of each value; None: some.
        actual: the number of items of each value.

    >>> count_faults("source", {"a": 2, "b": None}, {"a": 1, "b": 5})
    ['source a: 2 expected, 1 found']
    """
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
