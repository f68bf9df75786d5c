"""A local JSON Lines file of preference rows (the columns are described in `basereward/data/rows.py`).

The `datasets` library could read such files too, but it copies them into a cache, forces one schema on all rows, and
does not say in which line a fault is. A small reader that keeps the byte offset of each line does without all three.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from basereward.data.group import Group, Lost, Split
from basereward.data.partition import Partition, Table
from basereward.data.rows import RowFormat
from basereward.errors import DataError


class Jsonl:
    """Rows of a JSON Lines file, in pair form or general form.

    Args:
        path: the file.
        val: another file for the val part, or the share of `path` that is held out for it; no prompt is in two parts.
        test: the same for the test part.
        images_root: the folder that relative image paths start from; null: the file's own folder.
        columns: our column name -> the file's own.
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
        columns: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        tables: dict[Split, Table] = {"train": JsonlFile(path)}
        shares: dict[Split, float] = {}
        held_out: dict[Split, float | str] = {"val": val, "test": test}
        for split, where in held_out.items():
            if isinstance(where, str):
                tables[split] = JsonlFile(where)
            else:
                shares[split] = where
        form = RowFormat(columns=columns, images_root=Path(path).parent if images_root is None else images_root)
        self._partition = Partition(name, tables=tables, shares=shares, form=form, seed=seed)

    def groups(self, split: Split) -> Sequence[Group]:
        return self._partition.groups(split)

    def lost(self, split: Split) -> list[Lost]:
        """The rows with a blank response."""
        return self._partition.lost(split)


def read_rows(
    path: str | Path, *, images_root: str | Path | None = None, columns: Mapping[str, str] | None = None
) -> Sequence[Group]:
    """The rows of a file to be scored, all of them, in its order: one response will do, preferences are not needed.

    Every row is checked before this returns; the groups are then read one by one as they are asked for. A blank
    response is a response like others here, so that every row gets its scores.

    Raises:
        DataError: the file is missing or rows are malformed; every fault is named with file and line.
    """
    root = Path(path).parent if images_root is None else images_root
    form = RowFormat(columns=columns, images_root=root, for_training=False)
    return Partition(Path(path).name, tables={"train": JsonlFile(path)}, shares={}, form=form).groups("train")


class JsonlFile:
    """The lines of a JSON Lines file: a place is a byte offset, a number counts lines. Blank lines are skipped."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def label(self) -> str:
        return str(self.path)

    def scan(self) -> Iterator[tuple[int, int, bytes]]:
        try:
            with self.path.open("rb") as file:
                offset = 0
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield offset, number, line
                    offset += len(line)
        except OSError as error:
            raise DataError(
                f"cannot read {self.path}: {error.strerror or error}. Give the path of a JSON Lines file; "
                f"a relative one starts from {Path.cwd()}"
            ) from error

    def read(self, place: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(place)
                return file.readline()
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error

    def decode(self, raw: bytes) -> object:
        try:
            text = raw.decode("utf-8-sig").rstrip()  # a byte-order mark at the start of the file is let pass
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: byte {error.start + 1} of the line is 0x{raw[error.start]:02x}") from None
        try:
            row: object = json.loads(text)
            if "\\ud" in text.lower():
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text: no tokenizer takes it
            return row
        except UnicodeEncodeError:
            raise DataError(
                "not usable: a text holds half of a surrogate pair (an escape from \\ud800 to \\udfff)"
            ) from None
        except json.JSONDecodeError as error:
            hint = ""
            if text.lstrip().startswith("["):
                hint = "; the file looks like one JSON array: write its objects one a line, as `jq -c '.[]'` does"
            raise DataError(f"not JSON: {error.msg} at column {error.colno}{hint}") from None
        except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
            raise DataError(f"not usable: {error}") from None

    def where(self, number: int) -> str:
        return f"{self.path}:{number}"

    def row_id(self, number: int) -> str:
        return f"{self.path.name}:{number}"
