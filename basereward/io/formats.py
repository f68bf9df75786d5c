"""File formats of rows, recognised by the suffix of a file's name."""

from __future__ import annotations

from pathlib import Path

LINES = (".jsonl", ".ndjson")
JSON = (*LINES, ".json")
SEPARATED = (".csv", ".tsv")
ARROW = (".parquet", ".arrow")
TAR = (".tar",)
ROWS = (*JSON, *SEPARATED, *ARROW, *TAR)
# A file may have both suffixes, as `pairs.csv.gz`; it is unpacked into the cache before its rows are read.
COMPRESSED = (".gz", ".zst")


def rows_kind(path: str | Path) -> str | None:
    """The format of a file with rows, one of `ROWS`; None for any other suffix.

    >>> rows_kind("a/pairs.JSONL"), rows_kind("pairs.csv.gz"), rows_kind("pairs.yaml")
    ('.jsonl', '.csv', None)
    """
    kind = Path(_unpacked_name(path)).suffix.lower()
    return kind if kind in ROWS else None


def compression(path: str | Path) -> str | None:
    """The compression of a file, one of `COMPRESSED`; None for an uncompressed file.

    >>> compression("pairs.csv.gz"), compression("pairs.csv")
    ('.gz', None)
    """
    suffix = Path(path).suffix.lower()
    return suffix if suffix in COMPRESSED else None


def known_rows() -> str:
    """All formats and compressions, for a message.

    >>> known_rows()
    '.jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .tar, and these with .gz or .zst'
    """
    return f"{', '.join(ROWS)}, and these with {' or '.join(COMPRESSED)}"


def _unpacked_name(path: str | Path) -> str:
    name = Path(path).name
    return name if compression(name) is None else name[: -len(Path(name).suffix)]
