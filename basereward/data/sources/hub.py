"""A preference data set: on the Hugging Face hub, or a folder or file of the same layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from basereward.data.adapters import RowAdapter
from basereward.data.adapters.frames import ListsImages
from basereward.data.images.image_store import ARCHIVES, ImageStore
from basereward.data.readers import Table
from basereward.data.readers.find import find_files, find_table
from basereward.data.readers.gathered import Gathered, JoinsRows
from basereward.data.readers.listed import find_listed
from basereward.data.readers.separated import number_columns
from basereward.data.schema.columns import ColumnsRead
from basereward.data.schema.group import Group, RejectedRow, Split
from basereward.data.schema.rows import RowFormat
from basereward.data.sources._partition import Partition
from basereward.recipe import make
from basereward.recipe.schema import Node


class Hub:
    """Rows of a data set, in a form of ours (see `basereward/data/schema/rows.py` for the columns) or in a shape of its
    own.

    Args:
        path: a hub id, a folder with data files or one that `save_to_disk` wrote, or one data file.
        files: names or patterns of data files in it; null: those that the `datasets` library finds.
        listing: a JSON file in it that lists data files (`annotation`) and the folders of their pictures (`root`).
        subset: the configuration of the data set, where it has several.
        revision: branch, tag or commit of the hub repository.
        split: the split to train on; the slices of the library, such as `train[:1000]`, are understood.
        val: another split for the val part, or the share of `split` that is held out for it; no prompt is in two parts.
        test: the same for the test part.
        columns: our column name, or the shape's -> the data set's own; a name -> null leaves that column unread.
        shape: how the data set writes its rows, where they are not in a form of ours.
        images: zip or tar files in the data set, or a folder, that hold the pictures; null: paths start from the folder
            of a local data set.
        image_mark: the text in a prompt that stands for the next image; null: no text does.
        rating_range: the lowest and the highest rating of the data, which become 0 and 1; null: they are 0 and 1, or
            not used.
        seed: chooses what is held out.

    Raises:
        DataError: an argument is out of range, or (from `groups` and `lost`) the data set cannot be loaded or its first
            rows are all malformed; every fault is named with its row.
    """

    def __init__(
        self,
        name: str,
        *,
        path: str,
        files: list[str] | None = None,
        listing: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        split: str = "train",
        val: float | str = 0.05,
        test: float | str = 0.05,
        columns: Mapping[str, str | None] | None = None,
        shape: Node | None = None,
        images: str | list[str] | None = None,
        image_mark: str | None = "<image>",
        rating_range: list[float] | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        store = find_images(path, images, revision=revision)
        made = _make_shape(shape, store) if shape else None
        mapped = {ours: own for ours, own in (columns or {}).items() if own is not None}

        def table(part: str) -> Table:
            if listing:
                found = find_listed(path, listing)
            else:
                numbers = number_columns(mapped)
                found = find_table(
                    path, files=files or (), subset=subset, revision=revision, split=part, numbers=numbers
                )
            return Gathered(found, key=made.key, columns=mapped) if isinstance(made, JoinsRows) else found

        tables, shares = _parts(table, split=split, held_out={"val": val, "test": test})
        self._partition = Partition(
            name,
            tables=tables,
            shares=shares,
            form=RowFormat(
                columns=None if shape else columns,
                images=store,
                of_table=True,
                image_mark=image_mark,
                rating_range=rating_range,
            ),
            shape=made,
            columns=columns if shape else None,
            seed=seed,
        )

    def groups(self, split: Split) -> Sequence[Group]:
        return self._partition.groups(split)

    def stream(self, split: Split) -> Iterator[Group | RejectedRow]:
        return self._partition.stream(split)

    def columns_read(self) -> ColumnsRead:
        """Which columns were read, and which were not."""
        return self._partition.columns_read()

    def lost(self, split: Split) -> list[RejectedRow]:
        return self._partition.lost(split)


def _parts(
    table: Callable[[str], Table], *, split: str, held_out: Mapping[Split, float | str]
) -> tuple[dict[Split, Table], dict[Split, float]]:
    """The table of each part that has its own, and the shares of the others."""
    tables: dict[Split, Table] = {"train": table(split)}
    tables |= {part: table(where) for part, where in held_out.items() if isinstance(where, str)}
    return tables, {part: where for part, where in held_out.items() if not isinstance(where, str)}


def _make_shape(shape: Node, images: ImageStore) -> RowAdapter:
    made: RowAdapter = make(shape, "shapes")
    if isinstance(made, ListsImages):
        made.use_images(images)
    return made


def _hub_caches() -> list[str]:
    """Where the libraries of the hub keep the pictures that they download."""
    import datasets
    import huggingface_hub

    return [
        str(datasets.config.HF_DATASETS_CACHE),
        str(datasets.config.DOWNLOADED_DATASETS_PATH),
        str(huggingface_hub.constants.HF_HUB_CACHE),
    ]


def find_images(path: str, images: str | Sequence[str] | None, *, revision: str | None = None) -> ImageStore:
    """Where the pictures of a data set lie: a folder, archives in it, or beside its files.

    Raises:
        DataError: an archive is not there.
    """
    local = Path(path)
    folder = local if local.is_dir() else local.parent if local.is_file() else None
    if images is None:
        return ImageStore(folder, closed=True, caches=() if folder is not None else _hub_caches())
    names = [images] if isinstance(images, str) else list(images)
    if len(names) == 1 and not names[0].endswith(ARCHIVES):
        within = folder / names[0] if folder is not None else Path(names[0])
        return ImageStore(within if within.is_dir() else names[0], closed=True)
    archives = []
    for name in names:
        found = [Path(name)] if Path(name).is_file() else find_files(str(folder or path), name, revision=revision)
        archives += found
    return ImageStore(folder, archives=archives, closed=True)
