"""A published benchmark: rows on the hub or of the same layout, read by its protocol."""

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
from basereward.data.schema.rejections import RowRejected
from basereward.data.sources.hub import find_images
from basereward.errors import DataError
from basereward.evaluation.item_identity import items_fingerprint, pictures_fingerprint
from basereward.evaluation.items import Item
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.statistics.measures import Variant
from basereward.recipe import make
from basereward.recipe.schema import Node


class Annotated:
    """All rows of a benchmark, in their stored order; none is ever left out.

    Args:
        path: a hub id, a folder with data files or one that `save_to_disk` wrote, or one data file.
        protocol: how rows are read and counted.
        version: of this reading of the benchmark; a change that moves a number raises it.
        files: names or patterns of data files in it; null: those that the `datasets` library finds.
        subset: the configuration of the data set, where it has several.
        revision: branch, tag or commit of the hub repository.
        split: of the data set.
        columns: the protocol's column name -> the data set's own.
        images: zip or tar files in the data set, or a folder, that hold the pictures; null: paths start from the folder
            of a local data set.
        expected_items: how many items the whole benchmark has in this version; null: that is not known.
        expected_counts: label of the protocol -> its values -> how many items have each; null: some, it is not known
            how many.
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
        self.protocol: Protocol = make(protocol, "protocols")
        self.store = find_images(path, images, revision=revision)
        self._columns = dict(columns or {})
        self._node = protocol
        self._path = path
        self._files = list(files or ())
        self._table = partial(find_table, path, files=files or (), subset=subset, revision=revision, split=split)

    @property
    def judges_only(self) -> bool:
        """Whether the answers hold what a model that scores text cannot see; few protocols say so."""
        return bool(getattr(self.protocol, "judges_only", False))

    @property
    def variants(self) -> Mapping[str, Variant]:
        return self.protocol.variants

    @cached_property
    def items(self) -> Sequence[Item]:
        """
        Raises:
            DataError: the data set cannot be loaded, or a row is malformed; the message names it.
        """
        table = self._table()
        found: list[Item] = []
        for _, number, raw in table.scan():
            try:
                found.append(self._item(table.decode(raw), number=len(found)))
            except RowRejected as loss:
                raise DataError(
                    f"{table.where(number)}: {loss.reason}: {loss.detail} "
                    f"Benchmark '{self.name}' is counted whole or not at all."
                ) from loss
        if not found:
            raise DataError(f"{table.label} has no rows; benchmark '{self.name}' has nothing to count")
        rows = Counter(item.prompt_id for item in found)
        return [replace(item, prompt_items=rows[item.prompt_id]) for item in found]

    def _item(self, row: object, *, number: int) -> Item:
        if not isinstance(row, Mapping):
            raise RowRejected("wrong_type", "the row is no object with named columns.")
        named: dict[str, Any] = {**row, **{ours: row.get(theirs) for ours, theirs in self._columns.items()}}
        missing = [name for name in self.protocol.columns if named.get(name) is None]
        if missing:
            advice = getattr(self.protocol, "missing", {})
            remedies = [advice[name] for name in missing if name in advice]
            raise RowRejected(
                "missing_column",
                f"missing or empty: {', '.join(missing)}. Columns found: {', '.join(map(str, row)) or 'none'}. "
                + " ".join([*remedies, f"If they are these under other names, map them: columns.{missing[0]}=..."]),
            )
        item = self.protocol.item(named, number=number, images=self.store)
        if isinstance(item.prompt, str) and not item.prompt.strip():
            raise RowRejected("empty_prompt", f"the prompt of '{item.id}' is empty; nothing was asked.")
        for text in item.responses:
            if not isinstance(text, str):
                raise RowRejected("wrong_type", f"an answer is {shown(text)}; text is needed.")
        if not isinstance(item.prompt, str | list):
            raise RowRejected(
                "wrong_type", f"the prompt is {shown(item.prompt)}; text or a list of messages is needed."
            )
        return item

    @cached_property
    def partial(self) -> str | None:
        """In what the items differ from those of the whole benchmark, by numbers; None where they do not."""
        faults = []
        if self.expected_items not in (None, len(self.items)):
            faults.append(f"items: {self.expected_items:,} expected, {len(self.items):,} found")
        for label, expected in self._expected_counts.items():
            found = Counter(item.labels.get(label, "") for item in self.items)
            for value in dict.fromkeys([*expected, *found]):
                wanted = expected.get(value, 0)
                if (wanted is None and not found[value]) or (wanted is not None and wanted != found[value]):
                    number = "some" if wanted is None else f"{wanted:,}"
                    faults.append(f"{label} {value or 'without a name'}: {number} expected, {found[value]:,} found")
        return "; ".join(faults) or None

    @property
    def inputs(self) -> list[Path]:
        """The local files and folders that are read: of a folder with `files` these alone."""
        images = [self.store.root] if self.store.root != Path() else []
        rows = [Path(self._path)]
        if rows[0].is_dir() and self._files:
            rows = [file for pattern in self._files for file in find_files(self._path, pattern)]
        return [each for each in (*rows, *map(Path, self.store.archives), *images) if each.exists()]

    @cached_property
    def fingerprint(self) -> dict[str, str | None]:
        """Of the `items` (ids, prompts, answers, which are right, labels) and of the `pictures` by their content, which
        is None where some are not at hand."""
        pictures = pictures_fingerprint(self.items, self.store)
        return {"items": items_fingerprint(self.items), "pictures": pictures}

    @cached_property
    def digest(self) -> str:
        """A hash of all that decides on a score or a number: version, items, pictures and the protocol's arguments.
        Where pictures are not at hand, of their names and where they are looked for."""
        pictures = self.fingerprint["pictures"] or repr(
            (self.store.root, self.store.archives, [item.images for item in self.items])
        )
        told = (self.version, self._node, self.fingerprint["items"], pictures)
        return hashlib.sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest()
