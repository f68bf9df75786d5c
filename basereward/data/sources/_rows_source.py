"""What the sources `hub` and `jsonl` have in common: how rows are split, mapped and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from basereward.data.adapters import RowAdapter
from basereward.data.images.image_store import ImageStore
from basereward.data.readers import Table
from basereward.data.schema.rows import RowFormat
from basereward.data.sources._partition import Partition, open_splits


class RowsSource(Partition):
    """Rows of a table, in a known format or converted by an adapter; a derived class says where they are.

    A derived class hands its further arguments on by `super().__init__(..., **options)`, which the check of recipes and
    the schemas follow: a recipe may give them to the derived class.

    Args:
        name: the name of the source.
        open_table: opens the table of a file or split, with the mapping of columns as the keyword `columns`.
        train: the file or split to train on.
        images: where the images of the rows are.
        adapter: converts rows; None: they are in a known format.
        val: another file or split for the val split, or the fraction of the rows to train on that is held out for it;
            no prompt is in two splits.
        test: the same for the test split.
        columns: our column name, or that of the adapter -> the name in the data; a name -> null leaves that column
            unread.
        image_mark: the text in a prompt that stands for the next image; null: no text does.
        rating_range: the lowest and the highest rating of the data, which become 0 and 1; null: ratings are from 0 to 1
            already, or not used.
        seed: determines which rows are held out.

    Raises:
        DataError: an argument is out of range.

    >>> from basereward.data.open_rows import open_images, open_table
    >>> place = {"train": "data/pairs.jsonl", "images": open_images("data/pairs.jsonl")}
    >>> RowsSource("mine", open_table=open_table, adapter=None, val=0.1, **place).split_fractions
    {'val': 0.1, 'test': 0.05}
    """

    def __init__(
        self,
        name: str,
        *,
        open_table: Callable[..., Table],
        train: str,
        images: ImageStore,
        adapter: RowAdapter | None,
        val: float | str = 0.05,
        test: float | str = 0.05,
        columns: Mapping[str, str | None] | None = None,
        image_mark: str | None = "<image>",
        rating_range: list[float] | None = None,
        seed: int = 0,
    ) -> None:
        opener = partial(open_table, columns=columns)
        tables, fractions = open_splits(opener, train=train, held_out={"val": val, "test": test})
        # With an adapter, `columns` maps the columns that it reads, and the rows that it returns have our own names.
        own_columns, adapter_columns = (columns, None) if adapter is None else (None, columns)
        row_format = RowFormat(
            columns=own_columns, images=images, of_table=True, image_mark=image_mark, rating_range=rating_range
        )
        super().__init__(
            name,
            tables=tables,
            split_fractions=fractions,
            row_format=row_format,
            adapter=adapter,
            columns=adapter_columns,
            seed=seed,
        )
