"""A file that never ends, or whose content is far larger than the file, is refused before it fills the machine."""

from __future__ import annotations

import gzip
import json
import os
import resource
import stat
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from basereward.cli import main
from basereward.data.readers import json_array, json_lines, separated
from basereward.data.sources.hub import Hub
from basereward.data.sources.jsonl import Jsonl, read_rows
from basereward.errors import DataError
from basereward.io import unpacking
from tests.helpers.support import pair_rows, write_rows

LARGE = 100_000_000  # bytes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the library's cache into a folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.tar", "a.jsonl.gz"])
def test_a_fifo_is_not_waited_for(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every way to read rows refuses pipes and devices, whatever their suffix."""
    os.mkfifo(tmp_path / name)
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for path, kind in ((tmp_path / name, "FIFO"), (tmp_path / "zero.jsonl", "character device")):
        for read in (read_rows, lambda path: Jsonl("s", path=str(path)).groups("train")):
            with pytest.raises(DataError, match=kind):
                read(path)
        with pytest.raises(DataError, match=kind):
            Hub("s", path=str(path)).groups("train")
        assert main(["score", "nothing", str(path)]) == 2
        assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("form", ["one cell", "one value in every row", "compressed"])
def test_parquet_that_grows_is_refused(form: str, tmp_path: Path) -> None:
    """By compression, or by a value that is stored once for every row; the memory does not grow."""
    cells = {"one cell": ["a" * LARGE], "one value in every row": ["a" * 300_000] * 400}
    answers = cells.get(form, ["a" * 300_000 + str(i) for i in range(1000)])
    table = pyarrow.table({"prompt": ["Q"] * len(answers), "chosen": answers, "rejected": ["b"] * len(answers)})
    path = tmp_path / "rows.parquet"
    parquet.write_table(table, path, compression="zstd", use_dictionary=form != "compressed")
    del table, answers, cells
    assert path.stat().st_size < LARGE / 100
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for source in (str(path), str(tmp_path)):
        with pytest.raises(DataError, match=r"rows\.parquet.*is larger than"):
            Hub("s", path=source, val=0, test=0).groups("train")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_a_compressed_file_that_grows_is_refused(tmp_path: Path) -> None:
    """Nothing of it stays in the cache; a file with a usual compression ratio is read."""
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(LARGE), compresslevel=1))
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz.*becomes larger"):
        read_rows(path)
    assert list((Path(os.environ["BASEREWARD_CACHE"]) / "unpacked").iterdir()) == []
    path.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in pair_rows(50))))
    assert len(read_rows(path)) == 50
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        read_rows(path)


def test_a_compressed_file_is_read_where_the_cache_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is unpacked into the system's temporary folder."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BASEREWARD_CACHE", str(tmp_path / "file" / "cache"))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(pair_rows(1)[0]).encode()))
    assert len(read_rows(path)) == 1
    assert stat.S_ISREG(unpacking.unpacked(path).stat().st_mode)


def test_a_row_beyond_the_limit_is_lost_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept in memory, and the rows after it are read."""
    monkeypatch.setattr(json_lines, "MAX_ROW_BYTES", 1000)
    rows = pair_rows(3)
    rows[1]["chosen"] = "x" * 5000
    source = Jsonl("s", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    assert [group.id for group in source.groups("train")] == ["row-0", "row-2"]
    assert [(row.id, row.reason) for row in source.rejected("train")] == [("rows.jsonl:2", "row_too_large")]


def test_a_quotation_mark_that_is_not_closed_does_not_read_the_file_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the row in which it opens."""
    monkeypatch.setattr(separated, "MAX_ROW_BYTES", 1000)
    (tmp_path / "rows.csv").write_text('prompt,chosen,rejected\nQ,a,b\nQ,"a,b\n' + "Q,a,b\n" * 1000)
    with pytest.raises(DataError, match=r"rows\.csv:3: .*quotation mark"):
        Jsonl("s", path=str(tmp_path / "rows.csv")).groups("train")


def test_json_that_is_read_whole_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error proposes JSON Lines."""
    monkeypatch.setattr(json_array, "MAX_FILE_BYTES", 100)
    (tmp_path / "rows.json").write_text(json.dumps(pair_rows(3)))
    with pytest.raises(DataError, match=r"rows\.json.*JSON Lines"):
        Jsonl("s", path=str(tmp_path / "rows.json")).groups("train")


def test_rows_nested_deep_are_lost(tmp_path: Path) -> None:
    """In JSON Lines and in an array."""
    deep: list[object] = []
    for _ in range(150):
        deep = [deep]
    rows = [{"prompt": "Q", "chosen": "a", "rejected": "b"}, {"prompt": deep, "chosen": "a", "rejected": "b"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for name in ("rows.jsonl", "rows.json"):
        source = Jsonl("s", path=str(tmp_path / name), val=0, test=0)
        assert [row.reason for row in source.rejected("train")] == ["malformed_json"]
