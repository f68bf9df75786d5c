"""A local file of preference rows (the columns are described in `basereward/data/schema/rows.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from basereward.data.images.image_store import ImageStore
from basereward.data.readers import Table
from basereward.data.readers.rows_file import RowsFile
from basereward.data.readers.separated import number_columns
from basereward.data.schema.columns import ColumnsRead
from basereward.data.schema.group import Group, RejectedRow, Split
from basereward.data.schema.rows import RowFormat
from basereward.data.sources._partition import Partition


class Jsonl:
    """Rows of a file, in pair form or general form.

    Args:
        path: the file: JSON Lines, JSON, CSV, TSV, Parquet, Arrow or a tar in the manner of WebDataset, all but Parquet
            and Arrow also with `.gz` or `.zst`.
        val: another file for the val part, or the share of `path` that is held out for it; no prompt is in two parts.
        test: the same for the test part.
        images_root: the folder that relative image paths start from; null: the file's own folder.
        columns: our column name -> the file's own; a name -> null leaves that column unread.
        image_mark: the text in a prompt that stands for the next image; null: no text does.
        rating_range: the lowest and the highest rating of the data, which become 0 and 1; null: they are 0 and 1, or
            not used.
        seed: chooses what is held out.

    Raises:
        DataError: an argument is out of range, or (from `groups` and `lost`) a file is missing or rows are malformed;
            every fault is named with file and line.
    """

    def __init__(
        self,
        name: str,
        *,
        path: str,
        val: float | str = 0.05,
        test: float | str = 0.05,
        images_root: str | None = None,
        columns: Mapping[str, str | None] | None = None,
        image_mark: str | None = "<image>",
        rating_range: list[float] | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        tables: dict[Split, Table] = {"train": _table(path, columns)}
        shares: dict[Split, float] = {}
        held_out: dict[Split, float | str] = {"val": val, "test": test}
        for split, where in held_out.items():
            if isinstance(where, str):
                tables[split] = _table(where, columns)
            else:
                shares[split] = where
        form = RowFormat(
            columns=columns,
            images=ImageStore(Path(path).parent if images_root is None else images_root),
            of_table=True,
            image_mark=image_mark,
            rating_range=rating_range,
        )
        self._partition = Partition(name, tables=tables, shares=shares, form=form, seed=seed)

    def groups(self, split: Split) -> Sequence[Group]:
        return self._partition.groups(split)

    def stream(self, split: Split) -> Iterator[Group | RejectedRow]:
        return self._partition.stream(split)

    def columns_read(self) -> ColumnsRead:
        """Which columns were read, and which were not."""
        return self._partition.columns_read()

    def lost(self, split: Split) -> list[RejectedRow]:
        """The rows with a blank response."""
        return self._partition.lost(split)


def _table(path: str | Path, columns: Mapping[str, str | None] | None) -> Table:
    return RowsFile(path, numbers=number_columns(columns), otherwise=".jsonl")


def read_rows(
    path: str | Path, *, images_root: str | Path | None = None, columns: Mapping[str, str | None] | None = None
) -> Sequence[Group]:
    """The rows of a file to be scored, all of them, in its order: one response will do, preferences are not needed.

    Every row is checked before this returns; the groups are then read one by one as they are asked for. A blank
    response is a response like others here, so that every row gets its scores.

    Raises:
        DataError: the file is missing or rows are malformed; every fault is named with file and line.
    """
    root = Path(path).parent if images_root is None else images_root
    form = RowFormat(columns=columns, images=ImageStore(root), for_training=False, of_table=True)
    return Partition(Path(path).name, tables={"train": _table(path, columns)}, shares={}, form=form).groups("train")
