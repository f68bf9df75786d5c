"""Reads one split of a data set with the `datasets` library: from the hub, a folder, or a Parquet or Arrow file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.data.readers.features import Decoder, row_decoders
from basereward.errors import DataError
from basereward.io.files import files_below
from basereward.io.limits import check_regular_file
from basereward.io.unpacking import MAX_GROWTH, growth_limit

if TYPE_CHECKING:
    import datasets

# Rows whose size is measured together. A value that the file stores once is expanded in memory for each of them, so a
# larger number could exceed the memory before the limit is checked.
ROWS_PER_BATCH = 64
FILES = {".parquet": "parquet", ".arrow": "arrow"}


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the `datasets` library.

    >>> is_saved(Path("no/such/folder"))
    False
    """
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


class ArrowTable:
    """One split of a data set. Places and numbers are indices.

    Nothing is opened or downloaded before the first row is read.

    Args:
        path: a hub id, a folder, or a Parquet or Arrow file.
        subset: the subset (configuration) of a data set on the hub.
        revision: the branch, tag or commit of a data set on the hub.
        split: the split, or slices of it.

    >>> table = ArrowTable("trl-lib/rlaif-v", subset=None, revision=None, split="train[:100]")
    >>> table.where(7), table.row_id(7)
    ('trl-lib/rlaif-v [train[:100]], row 7', 'train[:100]:7')
    """

    def __init__(self, path: str, *, subset: str | None, revision: str | None, split: str) -> None:
        self.path = path
        self.subset = subset
        self.revision = revision
        self.split = split

    @property
    def label(self) -> str:
        """The data set and the split."""
        return f"{self.path} [{self.split}]"

    def scan(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield all rows; images are not decoded."""
        place = 0
        # In batches, because the library's overhead per access is much larger than the time to convert a row.
        for table in self._dataset.iter(batch_size=100):
            for row in table.to_pylist():
                yield place, place, row
                place += 1

    def read(self, place: int) -> dict[str, Any]:
        """Return the cells of the row with index `place` as Arrow stores them."""
        row: dict[str, Any] = self._dataset[place].to_pylist()[0]
        return row

    def decode(self, raw: dict[str, Any]) -> object:
        """Decode the cells that Arrow stores in another form, such as JSON and classes."""
        decoders = self._decoders
        if not decoders:
            return raw
        return {column: decoders[column](cell) if column in decoders else cell for column, cell in raw.items()}

    def where(self, number: int) -> str:
        """Return the data set, the split and the index."""
        return f"{self.label}, row {number}"

    def row_id(self, number: int) -> str:
        """Return the split and the index, without the path, which differs between machines."""
        return f"{self.split}:{number}"

    @cached_property
    def _decoders(self) -> dict[str, Decoder]:
        return row_decoders(self._dataset.features)

    @cached_property
    def _dataset(self) -> datasets.Dataset:
        """The split as Arrow tables, in which images stay undecoded bytes or paths."""
        from datasets.exceptions import DatasetsError

        try:
            return self._load().with_format("arrow")
        except (DatasetsError, OSError, ValueError) as error:
            # The library raises ValueError for an unknown split, OSError for a file that cannot be read.
            what = f"{self.path} (subset {self.subset}, revision {self.revision}, split {self.split})"
            raise DataError(f"cannot load the data set {what}: {_explained(error)}") from error

    def _load(self) -> datasets.Dataset:
        import datasets

        local = Path(self.path)
        if local.is_dir() and is_saved(local):
            # `load_dataset` refuses such a folder.
            loaded = datasets.load_from_disk(self.path)
            if not isinstance(loaded, datasets.DatasetDict):
                loaded = datasets.DatasetDict(train=loaded)
            if self.split not in loaded:
                raise ValueError(f"unknown split '{self.split}'; there are {', '.join(map(str, loaded))}")
            return loaded[self.split]
        if local.suffix.lower() == ".parquet":
            check_parquet(local)
        elif local.is_dir():
            for file in files_below(local):
                if file.name.endswith(".parquet"):
                    check_parquet(file)
        if local.is_file():
            kind = FILES[local.suffix.lower()]
            return datasets.load_dataset(kind, data_files=self.path, split=self.split)
        return datasets.load_dataset(self.path, self.subset, revision=self.revision, split=self.split)


def _explained(error: BaseException) -> str:
    """Format an error with its cause, since the library's own message may only say that an error occurred.

    >>> try:
    ...     raise ValueError("An error occurred") from OSError("row 3 has 4 fields")
    ... except ValueError as error:
    ...     _explained(error)
    'An error occurred: row 3 has 4 fields'
    """
    message, cause = str(error), str(error.__cause__ or "")
    return message if not cause or cause in message else f"{message}: {cause}"


def check_parquet(path: Path) -> None:
    """Check that the content of a Parquet file is not far larger than the file.

    It can be, by compression or by dictionary encoding, which stores a repeated value once. The `datasets` library
    would write the whole content to the disk.

    Raises:
        DataError: the content is larger than `io.unpacking.growth_limit` allows, or the file cannot be read.
    """
    status = path.stat() if check_regular_file(path) else None
    if status is not None:
        _check_growth(path, status.st_size, status.st_mtime_ns)


# Cached by size and time, because every split of a data set checks all files of the folder again.
@lru_cache(maxsize=4096)
def _check_growth(path: Path, size: int, time_ns: int) -> None:
    import pyarrow
    from pyarrow import parquet

    limit = growth_limit(size)
    try:
        file = parquet.ParquetFile(path)
        if not file.metadata.num_rows:
            # The `datasets` library fails on such a file with an unrelated error.
            raise DataError(f"'{path}' holds no rows; remove it from the data set, or give another file")
        stored, repeated = _stored(file.metadata)
        total = stored
        # A dictionary value may be repeated any number of times, so such columns are counted a few rows at a time.
        batches = file.iter_batches(batch_size=ROWS_PER_BATCH, columns=repeated) if repeated and stored <= limit else ()
        for batch in batches:
            total += batch.nbytes
            if total > limit:
                break
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"cannot load the data set {path}: {error}") from error
    if total > limit:
        raise DataError(
            f"'{path}' has {size:,} bytes and its content is larger than {limit:,}, more than {MAX_GROWTH} times "
            "that; if this is intended, give the rows as JSON Lines"
        )


def _stored(metadata: Any) -> tuple[int, list[str]]:
    """Return the uncompressed bytes of all columns, and the columns whose dictionaries may expand to far more."""
    stored, repeated = 0, set[str]()
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            # The metadata do not contain the expanded size. At most, every value is as long as the whole dictionary.
            stored += chunk.total_uncompressed_size
            if chunk.has_dictionary_page and chunk.num_values * chunk.total_uncompressed_size > growth_limit(0):
                repeated.add(chunk.path_in_schema)
    return stored, sorted(repeated)
