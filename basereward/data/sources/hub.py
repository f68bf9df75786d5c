"""A preference data set on the Hugging Face hub, or a folder or file with the same layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from basereward.data.adapters import RowAdapter
from basereward.data.adapters.frames import ListsImages
from basereward.data.images.image_store import ARCHIVES, ImageStore
from basereward.data.readers import Table
from basereward.data.readers.find import find_files, find_table
from basereward.data.readers.gathered import Gathered, JoinsRows
from basereward.data.readers.listed import find_listed
from basereward.data.readers.separated import number_columns
from basereward.data.schema.columns import split_mapping
from basereward.data.sources._rows_source import RowsSource
from basereward.recipe import make
from basereward.recipe.schema import Node


class Hub(RowsSource):
    """Rows of a data set, in our row format (see `basereward/data/schema/rows.py`) or converted by an adapter.

    Args:
        name: the name of the source.
        path: a hub id, a folder with data files or one that `save_to_disk` wrote, or one data file.
        files: names or patterns of data files in it, or one; null: those that the `datasets` library finds.
        listing: a JSON file in it that lists data files (`annotation`) and the folders of their images (`root`).
        subset: the subset (configuration) of the data set, if it has several.
        revision: branch, tag or commit of the hub repository.
        split: the split to train on; slices of the `datasets` library, such as `train[:1000]`, are allowed.
        shape: the adapter that converts rows, if they are not in our row format.
        images: zip or tar files in the data set, or a folder, with the images; null: image paths start from the folder
            of a local data set.
        options: `val`, `test`, `columns`, `image_mark`, `rating_range` and `seed` of `RowsSource`.

    Raises:
        DataError: an argument is out of range, or (from `groups` and `rejected`) the data set cannot be loaded or its
            first rows are all malformed; the message lists every fault with its row.

    >>> source = Hub("chats", path="trl-lib/rlaif-v", split="train[:1000]", columns={"prompt": "question"})
    >>> source.tables["train"].label, source.split_fractions
    ('trl-lib/rlaif-v [train[:1000]]', {'val': 0.05, 'test': 0.05})
    """

    def __init__(
        self,
        name: str,
        *,
        path: str,
        files: str | list[str] | None = None,
        listing: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        split: str = "train",
        shape: Node | None = None,
        images: str | list[str] | None = None,
        **options: Any,
    ) -> None:
        store = find_images(path, images, revision=revision)
        adapter = _make_adapter(shape, store) if shape else None
        location = _RowsLocation(
            path,
            files=(files,) if isinstance(files, str) else tuple(files or ()),
            listing=listing,
            subset=subset,
            revision=revision,
        )
        opener = partial(_open_table, location, adapter=adapter)
        super().__init__(name, open_table=opener, train=split, images=store, adapter=adapter, **options)


@dataclass(frozen=True)
class _RowsLocation:
    """Where the rows of a data set are; the arguments of `Hub` with the same names."""

    path: str
    files: Sequence[str]
    listing: str | None
    subset: str | None
    revision: str | None


def _open_table(
    location: _RowsLocation, split: str, *, adapter: RowAdapter | None, columns: Mapping[str, str | None] | None
) -> Table:
    """Open the table of a split; its rows are joined if the adapter makes one group of several rows."""
    mapped, _ = split_mapping(columns)
    if location.listing:
        table = find_listed(location.path, location.listing)
    else:
        table = find_table(
            location.path,
            files=location.files,
            subset=location.subset,
            revision=location.revision,
            split=split,
            numbers=number_columns(mapped),
        )
    return Gathered(table, key=adapter.key, columns=mapped) if isinstance(adapter, JoinsRows) else table


def _make_adapter(shape: Node, images: ImageStore) -> RowAdapter:
    """Make the adapter that a recipe names, and give it the image store if it lists images."""
    adapter: RowAdapter = make(shape, "adapters")
    return adapter.with_images(images) if isinstance(adapter, ListsImages) else adapter


def _hub_caches() -> list[str]:
    """List the folders in which the libraries of the hub keep the images that they download."""
    import datasets
    import huggingface_hub

    return [
        str(datasets.config.HF_DATASETS_CACHE),
        str(datasets.config.DOWNLOADED_DATASETS_PATH),
        str(huggingface_hub.constants.HF_HUB_CACHE),
    ]


def find_images(path: str, images: str | Sequence[str] | None, *, revision: str | None = None) -> ImageStore:
    """Find the images of a data set: in a folder, in archives, or next to its files.

    Args:
        path: the data set, as for `Hub`.
        images: a folder, or names or patterns of archives; None: image paths start from the folder of the data set.
        revision: branch, tag or commit of the hub repository.

    Raises:
        DataError: there is no such archive.

    >>> find_images("trl-lib/rlaif-v", "images").closed
    True
    """
    folder = _local_folder(path)
    # closed=True: rows of a published data set must not refer to files outside of its folder.
    if images is None:
        # Libraries write the images of data sets on the hub into their caches, and rows contain these paths.
        return ImageStore(folder, closed=True, caches=() if folder is not None else _hub_caches())
    names = [images] if isinstance(images, str) else list(images)
    if len(names) == 1 and not names[0].endswith(ARCHIVES):
        within = folder / names[0] if folder is not None else Path(names[0])
        return ImageStore(within if within.is_dir() else names[0], closed=True)
    archives = _find_archives(names, data_set=str(folder or path), revision=revision)
    return ImageStore(folder, archives=archives, closed=True)


def _find_archives(names: Sequence[str], *, data_set: str, revision: str | None) -> list[Path]:
    """Find archives by their names or patterns: local files, or files of the data set."""
    archives = []
    for name in names:
        if Path(name).is_file():
            archives.append(Path(name))
        else:
            archives += find_files(data_set, name, revision=revision)
    return archives


def _local_folder(path: str) -> Path | None:
    """Return the folder of a local data set; None for a data set on the hub."""
    local = Path(path)
    if local.is_dir():
        return local
    return local.parent if local.is_file() else None
