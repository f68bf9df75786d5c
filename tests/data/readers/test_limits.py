"""Limits on reading: endless files, and files whose content is far larger than the file, are rejected before they use
much memory."""

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
def test_fifo_is_an_error(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("name", ["a.jsonl", "a"])
@pytest.mark.parametrize(
    "command",
    [
        "look {}",
        "convert {} --out rows.jsonl",
        "annotate {} --model m --endpoint http://localhost:9/v1 --out rows.jsonl",
        "score m {}",
        "eval longer --data {}",
        "eval longer --benchmark vl_rewardbench data={}",
    ],
)
def test_every_command_says_that_rows_are_a_pipe(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With or without the suffix of a file with rows, as of `<(cat rows.jsonl)` in a shell; and what to do instead."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo(name)
    assert main(command.format(name).split()) == 2
    answer = capsys.readouterr().err
    assert f"'{name}' is a pipe" in answer
    assert "rows.jsonl), and give that file" in answer


@pytest.mark.parametrize("form", ["one cell", "one value in every row", "compressed"])
def test_parquet_that_decompresses_too_large_is_an_error(form: str, tmp_path: Path) -> None:
    """By compression, or by a value that is stored once for many rows; memory use stays low."""
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


def test_file_that_decompresses_too_large_is_an_error(tmp_path: Path) -> None:
    """Nothing of it stays in the cache; a file with a usual compression ratio is read, a truncated one is an error."""
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


def test_compressed_file_is_read_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unpacked into the system's temporary folder."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BASEREWARD_CACHE", str(tmp_path / "file" / "cache"))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(pair_rows(1)[0]).encode()))
    assert len(read_rows(path)) == 1
    assert stat.S_ISREG(unpacking.unpacked(path).stat().st_mode)


def test_too_large_row_rejects_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept in memory, and the rows after it are read."""
    monkeypatch.setattr(json_lines, "MAX_ROW_BYTES", 1000)
    rows = pair_rows(3)
    rows[1]["chosen"] = "x" * 5000
    source = Jsonl("s", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    assert [group.id for group in source.groups("train")] == ["row-0", "row-2"]
    assert [(row.id, row.reason) for row in source.rejected("train")] == [("rows.jsonl:2", "row_too_large")]


def test_unclosed_quotation_mark_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the line where it opens; the rest of the file is not read into memory."""
    monkeypatch.setattr(separated, "MAX_ROW_BYTES", 1000)
    (tmp_path / "rows.csv").write_text('prompt,chosen,rejected\nQ,a,b\nQ,"a,b\n' + "Q,a,b\n" * 1000)
    with pytest.raises(DataError, match=r"rows\.csv:3: .*quotation mark"):
        Jsonl("s", path=str(tmp_path / "rows.csv")).groups("train")


def test_json_array_has_a_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error proposes JSON Lines."""
    monkeypatch.setattr(json_array, "MAX_FILE_BYTES", 100)
    (tmp_path / "rows.json").write_text(json.dumps(pair_rows(3)))
    with pytest.raises(DataError, match=r"rows\.json.*JSON Lines"):
        Jsonl("s", path=str(tmp_path / "rows.json")).groups("train")


def test_deeply_nested_row_is_rejected(tmp_path: Path) -> None:
    """In JSON Lines and in an array."""
    nested: list[object] = []
    for _ in range(150):
        nested = [nested]
    rows = [{"prompt": "Q", "chosen": "a", "rejected": "b"}, {"prompt": nested, "chosen": "a", "rejected": "b"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for name in ("rows.jsonl", "rows.json"):
        source = Jsonl("s", path=str(tmp_path / name), val=0, test=0)
        assert [row.reason for row in source.rejected("train")] == ["malformed_json"]
