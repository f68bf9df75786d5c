"""A local file with preference rows; `basereward/data/schema/rows.py` describes the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from basereward.data.images.image_store import ImageStore
from basereward.data.readers import Table
from basereward.data.readers.rows_file import RowsFile
from basereward.data.readers.separated import number_columns
from basereward.data.schema.group import Group, Split
from basereward.data.schema.rows import RowFormat
from basereward.data.sources._partition import Partition, open_splits


class Jsonl(Partition):
    """Rows of a file, in pair form or general form.

    Args:
        name: the name of the source.
        path: the file: JSON Lines, JSON, CSV, TSV, Parquet, Arrow or a WebDataset tar; all but Parquet and Arrow also
            with `.gz` or `.zst`.
        val: another file for the val split, or the fraction of `path` that is held out for it; no prompt is in two
            splits.
        test: the same for the test split.
        images_root: the folder that relative image paths start from; null: the folder of the file.
        columns: our column name -> the name in the file; a name -> null leaves that column unread.
        image_mark: the text in a prompt that stands for the next image; null: no text does.
        rating_range: the lowest and the highest rating of the data, which become 0 and 1; null: ratings are from 0 to 1
            already, or not used.
        seed: determines which rows are held out.

    Raises:
        DataError: an argument is out of range, or (from `groups` and `rejected`) a file is missing or rows are
            malformed; the message lists every fault with file and line.

    >>> source = Jsonl("mine", path="data/pairs.jsonl", val="data/val.jsonl", test=0.1)
    >>> source.tables["val"].label, source.split_fractions
    ('data/val.jsonl', {'test': 0.1})
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
        open_table = partial(_open_table, columns=columns)
        tables, fractions = open_splits(open_table, train=path, held_out={"val": val, "test": test})
        row_format = RowFormat(
            columns=columns,
            images=ImageStore(Path(path).parent if images_root is None else images_root),
            of_table=True,
            image_mark=image_mark,
            rating_range=rating_range,
        )
        super().__init__(name, tables=tables, split_fractions=fractions, row_format=row_format, seed=seed)


def _open_table(path: str | Path, *, columns: Mapping[str, str | None] | None) -> Table:
    # Any other suffix counts as JSON Lines, which text files often are.
    return RowsFile(path, numbers=number_columns(columns), otherwise=".jsonl")


def read_rows(
    path: str | Path, *, images_root: str | Path | None = None, columns: Mapping[str, str | None] | None = None
) -> Sequence[Group]:
    """Read all rows of a file for scoring, in the order of the file.

    A row needs at least one response and no preferences. Every row is checked before this function returns; each group
    is read when it is accessed. Blank responses are kept, so that every row gets its scores.

    Raises:
        DataError: the file is missing or rows are malformed; the message lists every fault with file and line.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "prompts.jsonl"
    ...     _ = file.write_text('{"prompt": "2 + 2?", "responses": ["4", "5", "22"]}\\n')
    ...     [group.responses for group in read_rows(file)]
    [('4', '5', '22')]
    """
    root = Path(path).parent if images_root is None else images_root
    row_format = RowFormat(columns=columns, images=ImageStore(root), for_training=False, of_table=True)
    tables: dict[Split, Table] = {"train": _open_table(path, columns=columns)}
    return Partition(Path(path).name, tables=tables, split_fractions={}, row_format=row_format).groups("train")
