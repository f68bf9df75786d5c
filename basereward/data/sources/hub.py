"""A data set of the Hugging Face hub, or a local one that the `datasets` library reads (Parquet, Arrow, CSV, JSON)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.data.group import Group, Lost, Split
from basereward.data.partition import Partition, Table
from basereward.data.rows import RowFormat
from basereward.errors import DataError

if TYPE_CHECKING:
    import datasets

FILES = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"}


class Hub:
    """Rows of a data set, in pair form or general form (the columns are described in `basereward/data/rows.py`).

    Args:
        path: a hub id, a folder with data files or one that `save_to_disk` wrote, or one data file.
        subset: the configuration of the data set, where it has several.
        revision: branch, tag or commit of the hub repository.
        split: the split to train on; the slices of the library, such as `train[:1000]`, are understood.
        val: another split for the val part, or the share of `split` that is held out for it; no prompt is in two parts.
        test: the same for the test part.
        columns: our column name -> the data set's own.
        images_root: the folder that relative image paths start from; null: a local data set's own, or the current one.
        seed: chooses what is held out.

    Raises:
        DataError: an argument is out of range, or (from `groups` and `lost`) the data set cannot be loaded or rows are
            malformed; every fault is named with its row.
    """

    def __init__(
        self,
        name: str,
        *,
        path: str,
        subset: str | None = None,
        revision: str | None = None,
        split: str = "train",
        val: float | str = 0.05,
        test: float | str = 0.05,
        columns: Mapping[str, str] | None = None,
        images_root: str | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        tables: dict[Split, Table] = {"train": HubTable(path, subset=subset, revision=revision, split=split)}
        shares: dict[Split, float] = {}
        held_out: dict[Split, float | str] = {"val": val, "test": test}
        for part, where in held_out.items():
            if isinstance(where, str):
                tables[part] = HubTable(path, subset=subset, revision=revision, split=where)
            else:
                shares[part] = where
        local = Path(path)
        folder = local if local.is_dir() else local.parent if local.is_file() else None
        form = RowFormat(columns=columns, images_root=folder if images_root is None else images_root)
        self._partition = Partition(name, tables=tables, shares=shares, form=form, seed=seed)

    def groups(self, split: Split) -> Sequence[Group]:
        return self._partition.groups(split)

    def lost(self, split: Split) -> list[Lost]:
        """The rows with a blank response."""
        return self._partition.lost(split)


class HubTable:
    """One split of a data set; a row's place is its index, and so is its number."""

    def __init__(self, path: str, *, subset: str | None, revision: str | None, split: str) -> None:
        self.path = path
        self.subset = subset
        self.revision = revision
        self.split = split

    @property
    def label(self) -> str:
        return f"{self.path} [{self.split}]"

    def scan(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        place = 0
        for table in self._dataset.iter(batch_size=100):
            for row in table.to_pylist():
                yield place, place, row
                place += 1

    def read(self, place: int) -> dict[str, Any]:
        row: dict[str, Any] = self._dataset[place].to_pylist()[0]
        return row

    def decode(self, raw: dict[str, Any]) -> object:
        return raw

    def where(self, number: int) -> str:
        return f"{self.label}, row {number}"

    def row_id(self, number: int) -> str:
        return f"{self.split}:{number}"

    @cached_property
    def _dataset(self) -> datasets.Dataset:
        """The split as Arrow tables: images stay the bytes or paths that they are stored as, until we open them."""
        from datasets.exceptions import DatasetsError

        try:
            return self._load().with_format("arrow")
        except (DatasetsError, OSError, ValueError) as error:  # as the library raises for a wrong name, split or file
            what = f"{self.path} (subset {self.subset}, revision {self.revision}, split {self.split})"
            raise DataError(f"cannot load the data set {what}: {error}") from error

    def _load(self) -> datasets.Dataset:
        import datasets

        local = Path(self.path)
        if local.is_dir() and any((local / name).is_file() for name in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(self.path)
            if not isinstance(loaded, datasets.DatasetDict):
                loaded = datasets.DatasetDict(train=loaded)
            if self.split not in loaded:
                raise ValueError(f"unknown split '{self.split}'; there are {', '.join(map(str, loaded))}")
            return loaded[self.split]
        if local.is_file():
            kind = FILES.get(local.suffix)
            if kind is None:
                raise ValueError(f"unknown kind of file '{local.suffix}'; known are {', '.join(FILES)}")
            return datasets.load_dataset(kind, data_files=self.path, split=self.split)
        return datasets.load_dataset(self.path, self.subset, revision=self.revision, split=self.split)
