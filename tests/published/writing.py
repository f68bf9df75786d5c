"""Writes rows and pictures as data sets are published: JSON Lines, Parquet with embedded pictures, zip files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import PIL.Image


def picture(shade: int, *, kind: str = "PNG") -> bytes:
    """A small picture; each shade (0 to 255) is another one."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (6, 4), (shade, 40, 255 - shade)).save(file, kind)
    return file.getvalue()


def embedded(shade: int) -> dict[str, Any]:
    """A picture in a row, as Parquet holds it."""
    return {"bytes": picture(shade), "path": f"{shade}.png"}


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], *, images: Sequence[str] = ()) -> None:
    """All rows have the keys of the first; the columns `images` hold pictures (`embedded`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_list([dict(row) for row in rows])
    for name in images:
        data = data.cast_column(name, datasets.Image())
    data.to_parquet(path)


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """An archive of files by their names in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_files(folder: Path, members: Mapping[str, bytes]) -> None:
    """The same files in a folder."""
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
