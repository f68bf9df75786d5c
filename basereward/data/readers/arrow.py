"""One split of a data set that the `datasets` library reads: of the hub, a folder, a file (Parquet, Arrow)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.data.readers.features import Decoder, row_decoders
from basereward.data.readers.parquet_size import check_parquet
from basereward.errors import DataError

if TYPE_CHECKING:
    import datasets

FILES = {".parquet": "parquet", ".arrow": "arrow"}


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


class ArrowTable:
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
        decoders = self._decoders
        if not decoders:
            return raw
        return {column: decoders[column](cell) if column in decoders else cell for column, cell in raw.items()}

    def where(self, number: int) -> str:
        return f"{self.label}, row {number}"

    def row_id(self, number: int) -> str:
        return f"{self.split}:{number}"

    @cached_property
    def _decoders(self) -> dict[str, Decoder]:
        return row_decoders(self._dataset.features)

    @cached_property
    def _dataset(self) -> datasets.Dataset:
        """The split as Arrow tables: images stay the bytes or paths that they are stored as, until we open them."""
        from datasets.exceptions import DatasetsError

        try:
            return self._load().with_format("arrow")
        except (DatasetsError, OSError, ValueError) as error:  # as the library raises for a wrong name, split or file
            what = f"{self.path} (subset {self.subset}, revision {self.revision}, split {self.split})"
            raise DataError(f"cannot load the data set {what}: {_explained(error)}") from error

    def _load(self) -> datasets.Dataset:
        import datasets

        local = Path(self.path)
        if local.is_dir() and is_saved(local):
            loaded = datasets.load_from_disk(self.path)
            if not isinstance(loaded, datasets.DatasetDict):
                loaded = datasets.DatasetDict(train=loaded)
            if self.split not in loaded:
                raise ValueError(f"unknown split '{self.split}'; there are {', '.join(map(str, loaded))}")
            return loaded[self.split]
        if local.suffix.lower() == ".parquet":
            check_parquet(local)
        elif local.is_dir():
            for file in sorted(local.rglob("*.parquet")):
                check_parquet(file)
        if local.is_file():
            kind = FILES[local.suffix.lower()]
            return datasets.load_dataset(kind, data_files=self.path, split=self.split)
        return datasets.load_dataset(self.path, self.subset, revision=self.revision, split=self.split)


def _explained(error: BaseException) -> str:
    """An error of the library with its cause, since its own words may be only that one occurred.

    >>> try:
    ...     raise ValueError("An error occurred") from OSError("row 3 has 4 fields")
    ... except ValueError as error:
    ...     _explained(error)
    'An error occurred: row 3 has 4 fields'
    """
    said, cause = str(error), str(error.__cause__ or "")
    return said if not cause or cause in said else f"{said}: {cause}"
