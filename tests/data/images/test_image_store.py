"""Where images are looked for: below the root folder by any path, and in archives through links."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pytest

from basereward.data.images import image_store
from basereward.data.images import open_images as images
from basereward.data.images.image_store import ImageError, ImageStore, read_archived
from basereward.data.images.open_images import open_image
from basereward.data.schema.group import ArchivedImage
from basereward.data.sources.hub import Hub
from basereward.errors import DataError
from tests.helpers.support import picture, write_rows


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the cache of the `datasets` library into a temporary folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def _rows(num_rows: int, *, column: str = "file_name", folder: str = "") -> list[dict[str, str]]:
    """Return rows that name their images in `column`."""
    return [
        {column: f"{folder}{i}.png", "prompt": f"Q{i}?", "chosen": "red", "rejected": "grey"} for i in range(num_rows)
    ]


def _folder(tmp_path: Path, *, below: str = ".", num_images: int = 3) -> Path:
    """Write images into a folder, and return the root folder."""
    folder = tmp_path / "data"
    (folder / below).mkdir(parents=True)
    for i in range(num_images):
        picture(i).save(folder / below / f"{i}.png")
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_imagefolder_layout_is_read(kind: str, tmp_path: Path) -> None:
    """The `datasets` library makes `file_name` absolute; the paths are below the folder, and every row has its
    image."""
    folder = _folder(tmp_path, below="train")
    rows = _rows(3)
    if kind == "jsonl":
        write_rows(folder / "train" / "metadata.jsonl", rows)
    else:
        with (folder / "train" / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    source = Hub("h", path=str(folder), val=0, test=0)
    pixels_by_prompt = {
        group.prompt[0].parts[1].text: open_image(group.images[0]).tobytes() for group in source.groups("train")
    }
    assert pixels_by_prompt == {f"Q{i}?": picture(i).tobytes() for i in range(3)}
    assert not source.rejected("train")


def test_absolute_paths_in_parquet_are_found_below_the_folder(tmp_path: Path) -> None:
    """Also through a symbolic link to the folder; a path outside of the folder rejects its row."""
    folder = _folder(tmp_path)
    rows = _rows(3, column="image", folder=f"{folder}/")
    rows[2]["image"] = str(tmp_path / "outside.png")
    picture(0).save(tmp_path / "outside.png")
    datasets.Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, tmp_path / "link"):
        source = Hub("h", path=str(path / "rows.parquet"), val=0, test=0)
        assert [open_image(group.images[0]).tobytes() for group in source.groups("train")] == [
            picture(i).tobytes() for i in range(2)
        ]
        assert [row.reason for row in source.rejected("train")] == ["image_outside_root"]


def test_linked_path_below_the_root_is_accepted(tmp_path: Path) -> None:
    """It equals the relative path; a path that only starts with the same characters is rejected."""
    root = tmp_path / "a"
    root.mkdir()
    (tmp_path / "other").symlink_to(root)
    store = ImageStore(root, closed=True)
    assert store.find(tmp_path / "other" / "x.png") == root / "x.png"
    for name in (f"{tmp_path}/ab/x.png", f"{root}/../x.png", "/", str(tmp_path)):
        with pytest.raises(ImageError) as caught:
            store.find(name)
        assert caught.value.reason == "image_outside_root"


def test_images_in_the_cache_of_a_library_are_found(tmp_path: Path) -> None:
    """Data sets of the hub name them by absolute paths in the cache."""
    store = ImageStore(closed=True, caches=[tmp_path])
    assert store.find(f"{tmp_path}/x.png") == tmp_path / "x.png"
    with pytest.raises(ImageError):
        store.find(f"{tmp_path}/../x.png")


def _add_member(file: tarfile.TarFile, name: str, member_type: bytes, *, link: str = "", content: bytes = b"") -> None:
    """Add a member to a tar file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = member_type, link, len(content)
    file.addfile(info, io.BytesIO(content))


def test_links_in_a_tar_are_followed(tmp_path: Path) -> None:
    """GNU tar writes a second name as a hard link; a symbolic link is relative to its own folder."""
    folder = tmp_path / "a"
    (folder / "b").mkdir(parents=True)
    picture(1).save(folder / "0.png")
    os.link(folder / "0.png", folder / "1.png")
    (folder / "b" / "2.png").symlink_to("../1.png")
    subprocess.run(["tar", "-cf", "a.tar", "-C", "a", "."], cwd=tmp_path, check=True)
    store = ImageStore(tmp_path, archives=[tmp_path / "a.tar"])
    for name in ("0.png", "1.png", "b/2.png"):
        assert open_image(store.find(name)).tobytes() == picture(1).tobytes()


def test_tar_members_that_are_no_files_are_rejected(tmp_path: Path) -> None:
    """The last member of a name counts. Devices, pipes, folders, and links to nothing, to each other or out of the
    archive are rejected; other members are read."""
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name in ("good.png", "device.png", "pipe.png", "folder.png", "replaced.png"):
            _add_member(file, name, tarfile.REGTYPE, content=b"1")
        _add_member(file, "device.png", tarfile.CHRTYPE)
        _add_member(file, "pipe.png", tarfile.FIFOTYPE)
        _add_member(file, "folder.png", tarfile.DIRTYPE)
        _add_member(file, "replaced.png", tarfile.REGTYPE, content=b"2")
        _add_member(file, "nothing.png", tarfile.LNKTYPE, link="gone.png")
        _add_member(file, "out.png", tarfile.SYMTYPE, link="../../etc/hostname")
        _add_member(file, "root.png", tarfile.SYMTYPE, link="/etc/hostname")
        _add_member(file, "here.png", tarfile.SYMTYPE, link="there.png")
        _add_member(file, "there.png", tarfile.SYMTYPE, link="here.png")
    store = ImageStore(tmp_path, archives=[tmp_path / "a.tar"])

    def read(name: str) -> bytes | str:
        try:
            reference = store.find(name)
            assert not isinstance(reference, Path)
            return read_archived(reference)
        except ImageError as error:
            return error.reason

    assert [read(name) for name in ("good.png", "replaced.png")] == [b"1", b"2"]
    missing = ("device.png", "pipe.png", "folder.png", "nothing.png", "out.png", "root.png")
    assert {read(name) for name in missing} == {"image_missing"}
    assert {read(name) for name in ("here.png", "there.png")} == {"image_unreadable"}


def test_endless_archive_is_an_error(tmp_path: Path) -> None:
    """A FIFO, and a compressed tar with the suffix of a plain one, which would be unpacked whole."""
    os.mkfifo(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "b.tar", "w:gz") as file:
        _add_member(file, "0.png", tarfile.REGTYPE, content=b"1")
    for name in ("a.tar", "b.tar"):
        with pytest.raises(DataError, match=name):
            ImageStore(tmp_path, archives=[tmp_path / name]).find("0.png")


def test_file_above_the_size_limit_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is checked before the file is read."""
    picture(0).save(tmp_path / "0.png")
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    for read in (images.open_image, images.read_image):
        with pytest.raises(ImageError) as caught:
            read(tmp_path / "0.png")
        assert caught.value.reason == "image_too_large"


class _SlowFile:
    """A file in which other threads get their turn after every change of the position."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def seek(self, *arguments: int) -> int:
        position: int = self._file.seek(*arguments)
        time.sleep(0.001)
        return position

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_threads_read_one_tar_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members share the position in the file of the archive; each thread gets the content of its own."""
    contents = [bytes([index]) * (5_000 + index) for index in range(8)]
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for index, content in enumerate(contents):
            _add_member(file, f"{index}.png", tarfile.REGTYPE, content=content)
    archive = image_store._opened(str(tmp_path / "a.tar"), os.getpid())
    monkeypatch.setattr(archive._file, "fileobj", _SlowFile(archive._file.fileobj))

    def read(index: int) -> bool:
        image = ArchivedImage(str(tmp_path / "a.tar"), f"{index}.png")
        return all(read_archived(image) == contents[index] for _ in range(5))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))
