"""File formats of rows, recognised by the suffix of a file's name."""

from __future__ import annotations

import re
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
LINES = (".jsonl", ".ndjson")
JSON = (*LINES, ".json")
SEPARATED = (".csv", ".tsv")
ARROW = (".parquet", ".arrow")
TAR = (".tar",)
ROWS = (*JSON, *SEPARATED, *ARROW, *TAR)
# A file may have both suffixes, as `pairs.csv.gz`; it is unpacked into the cache before its rows are read.
COMPRESSED = (".gz", ".zst")

# What to do with a file of another kind, by its suffix.
ADVICE = {
    ".zip": "it is an archive: unpack it and give the folder, or name it as `images` if it holds the images alone",
    ".7z": "it is an archive: unpack it and give the folder",
    ".rar": "it is an archive: unpack it and give the folder",
    ".tgz": "name it .tar.gz if it is a WebDataset, or unpack it and give the folder",
    ".xz": "unpack it with `xz -d`, or compress it with gzip",
    ".bz2": "unpack it with `bzip2 -d`, or compress it with gzip",
    ".xlsx": "it is a spreadsheet: save it as CSV in UTF-8",
    ".xls": "it is a spreadsheet: save it as CSV in UTF-8",
    ".ods": "it is a spreadsheet: save it as CSV in UTF-8",
    ".pkl": "pickles are not read, since they can run code: write it with `to_parquet` or as JSON Lines",
    ".pickle": "pickles are not read, since they can run code: write it with `to_parquet` or as JSON Lines",
    ".sqlite": "it is a database: export the table as CSV",
    ".db": "it is a database: export the table as CSV",
}
# The first bytes of files -> the suffix that they should have.
SIGNATURES = {
    b"PK\x03\x04": ".zip",
    b"7z\xbc\xaf\x27\x1c": ".7z",
    b"Rar!\x1a\x07": ".rar",
    b"\xfd7zXZ\x00": ".xz",
    b"BZh": ".bz2",
    b"\x1f\x8b": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
    b"SQLite format 3\x00": ".sqlite",
    b"\xd0\xcf\x11\xe0": ".xls",
}
# Name of a member that only spreadsheets have; it is among the first ones of the archive.
SHEET = (b"[Content_Types].xml", b"xl/")


def content_advice(head: bytes) -> str | None:
    """What to do with a file whose content is not text, by its first bytes; None for any other content.

    Args:
        head: the first bytes, a few hundred.

    >>> content_advice(b"BZh91AY..."), content_advice(b'{"prompt": "Hi"}')
    ('its content is that of a .bz2 file: unpack it with `bzip2 -d`, or compress it with gzip', None)
    """
    for signature, suffix in SIGNATURES.items():
        if head.startswith(signature):
            if suffix == ".zip" and any(name in head for name in SHEET):
                suffix = ".xlsx"
            advice = ADVICE.get(suffix, f"add {suffix} to its name")
            return f"its content is that of a {suffix} file: {advice}"
    return None


def suffix_advice(path: str | Path) -> str | None:
    """What to do with a file of a known kind that has no rows for us; None for any other suffix.

    >>> suffix_advice("pairs.xlsx"), suffix_advice("pairs.jsonl")
    ('it is a spreadsheet: save it as CSV in UTF-8', None)
    """
    return ADVICE.get(Path(path).suffix.lower())


def is_pattern(path: str | Path) -> bool:
    """Whether a path is a pattern of several files, such as `data/*.jsonl`.

    >>> is_pattern("data/*.jsonl"), is_pattern("pairs.jsonl")
    (True, False)
    """
    return any(mark in str(path) for mark in "*?[") and not Path(path).exists()


def is_hub_id(path: str | Path) -> bool:
    """Whether a path can be the id of a data set on the hub: an owner and a name, and no such file or folder.

    >>> is_hub_id("trl-lib/rlaif-v"), is_hub_id("data/pairs.jsonl"), is_hub_id("pairs")
    (True, False, False)
    """
    text = str(path)
    return HUB_ID.fullmatch(text) is not None and rows_kind(text) is None and not Path(text).exists()


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
