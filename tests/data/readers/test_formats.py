"""Every kind of file gives the same groups, for every command that reads rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from basereward.data.images.open_images import open_image
from basereward.data.readers.find import find_table
from basereward.data.schema.group import SPLITS
from basereward.data.sources.hub import Hub
from basereward.data.sources.jsonl import Jsonl, read_rows
from basereward.errors import DataError, RecipeError
from basereward.evaluation.benchmark import load_benchmark
from basereward.io import unpacking
from basereward.io.formats import ROWS, rows_kind
from basereward.recipe import make
from tests.helpers.support import picture, write_rows


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the library's cache into a folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


ANSWERS = [("None", "N/A"), ("7", "null"), ("1.0", "nan"), ("a, b", 'say "no"'), ("two\nlines", "\ttab")]
PAIRS = [
    {"id": f"r{i}", "prompt": f"Q{i}?", "chosen": chosen, "rejected": rejected}
    for i, (chosen, rejected) in enumerate(ANSWERS)
]
LINES = "".join(json.dumps(row) + "\n" for row in PAIRS)


def _separated(delimiter: str) -> str:
    """Return the pairs as text of a CSV or TSV file."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(PAIRS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(PAIRS)
    return out.getvalue()


def _tar(path: Path, members: dict[str, bytes]) -> None:
    """Write a tar file with these members."""
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def _write_arrow(path: Path) -> None:
    """Write the pairs as an Arrow file."""
    data = datasets.Dataset.from_list(PAIRS)
    data.save_to_disk(path.with_suffix(""))
    next(path.with_suffix("").glob("*.arrow")).rename(path)


def _web(path: Path) -> None:
    """Write the pairs as a WebDataset tar."""
    members = {f"{row['id']}.json": json.dumps({k: v for k, v in row.items() if k != "prompt"}) for row in PAIRS}
    members |= {f"{row['id']}.prompt.txt": row["prompt"] for row in PAIRS}
    _tar(path, {name: members[name].encode() for name in sorted(members)})


FILES: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_text(LINES),
    "rows.JSONL": lambda path: path.write_text(LINES),
    "rows.ndjson": lambda path: path.write_text(LINES),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "rows.json": lambda path: path.write_text(json.dumps(PAIRS)),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(PAIRS).encode())),
    "pretty.json": lambda path: path.write_text(json.dumps(PAIRS, indent=2)),
    "data.json": lambda path: path.write_text(json.dumps({"version": "1", "data": PAIRS})),
    "pairs.json": lambda path: path.write_text(json.dumps({"pairs": PAIRS}, indent=2)),
    "lines.json": lambda path: path.write_text(LINES),
    "array.jsonl": lambda path: path.write_text(json.dumps(PAIRS)),
    "pretty.jsonl": lambda path: path.write_text(json.dumps({"pairs": PAIRS}, indent=4)),
    "object.jsonl": lambda path: path.write_text("\ufeff" + json.dumps({"rows": PAIRS})),
    "rows.csv": lambda path: path.write_text(_separated(","), newline=""),
    "bom.csv": lambda path: path.write_text("\ufeff" + _separated(","), newline=""),
    "rows.tsv": lambda path: path.write_text(_separated("\t"), newline=""),
    "rows.csv.gz": lambda path: path.write_bytes(gzip.compress(_separated(",").encode())),
    "rows.parquet": lambda path: datasets.Dataset.from_list(PAIRS).to_parquet(path),
    "rows.arrow": _write_arrow,
    "rows.tar": _web,
}


def test_all_kinds_of_files_are_tested() -> None:
    """The files of this test include every kind of `io.formats`."""
    assert {rows_kind(name) for name in FILES} == set(ROWS)


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_groups(name: str, tmp_path: Path) -> None:
    """With both sources, for scoring, in a folder, pickled and out of order. Answers such as "None" and numbers stay
    texts."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / name
    FILES[name](path)
    expected = [(row["id"], row["prompt"], (row["chosen"], row["rejected"])) for row in PAIRS]
    sources = {
        "jsonl": Jsonl("s", path=str(path), val=0, test=0).groups("train"),
        "hub": Hub("s", path=str(path), val=0, test=0).groups("train"),
        "files": Hub("s", path=str(folder), files=[f"{path.stem}*"], val=0, test=0).groups("train"),
        "folder": Hub("s", path=str(folder), val=0, test=0).groups("train"),
        "score": read_rows(path),
    }
    for reader, groups in sources.items():
        unpickled = pickle.loads(pickle.dumps(groups))  # noqa: S301
        for indexed in (groups, unpickled):
            order = [3, 0, 2, 1, 4]
            by_index = {i: indexed[i] for i in order}
            assert [(g.id, g.prompt[0].parts[0].text, g.responses) for _, g in sorted(by_index.items())] == expected, (
                reader
            )


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.tar"])
def test_splits_can_be_slices_of_a_file(name: str, tmp_path: Path) -> None:
    """With the syntax of the `datasets` library, by number and by percentage."""
    FILES[name](tmp_path / name)
    source = Hub("s", path=str(tmp_path / name), split="train[:2]", val="train[2:3]", test="train[60%:]")
    assert [[group.id for group in source.groups(split)] for split in SPLITS] == [["r0", "r1"], ["r2"], ["r3", "r4"]]


@pytest.mark.parametrize("name", ["rows.json", "rows.parquet"])
def test_file_has_only_the_split_train(name: str, tmp_path: Path) -> None:
    """The error proposes `split=train`, not fractions, which are set already."""
    FILES[name](tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} has no split 'test'.*split=train"):
        Hub("s", path=str(tmp_path / name), split="test", val=0, test=0)


@pytest.mark.parametrize("arguments", [{"split": "test"}, {"val": 0.9, "test": 0.5}, {"columns": {"promt": "Q"}}])
def test_error_has_the_name_of_the_source(arguments: dict[str, Any], tmp_path: Path) -> None:
    """The message has the name once, and not the name of the class."""
    with pytest.raises(RecipeError) as caught:
        make({"_target_": "hub", "path": str(tmp_path / "rows.json"), **arguments}, "sources", "mine")
    assert str(caught.value).count("source 'mine'") == 1
    assert "source 'hub'" not in str(caught.value)


def test_rows_are_read_from_a_folder_with_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would read the more frequent images and ignore the rows; splits are derived from names."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for i in range(4):
        picture(i).save(folder / "images" / f"{i}.png")
    rows = [{**PAIRS[0], "id": f"p{i}", "image": f"images/{i}.png"} for i in range(4)]
    write_rows(folder / "train.jsonl", rows[:3])
    write_rows(folder / "test.jsonl", rows[3:])
    source = Hub("s", path=str(folder), val=0, test="test")
    assert [group.id for group in source.groups("train")] == ["p0", "p1", "p2"]
    [group] = source.groups("test")
    assert open_image(group.images[0]).tobytes() == picture(3).tobytes()
    with pytest.raises(DataError, match=r"unknown split 'val'.*test, train"):
        Hub("s", path=str(folder), val="val", test=0)
    (folder / "more.csv").write_text(_separated(","))
    assert len(Hub("s", path=str(folder), val=0, test=0).groups("train")) == 3
    assert "more.csv" in caplog.text
    (folder / "more.csv").rename(folder / "train.csv")
    monkeypatch.chdir(tmp_path)
    for path in (str(folder), "data", "./data/../data"):
        with pytest.raises(DataError, match=r"several kinds.*`files`"):
            Hub("s", path=path, val=0, test=0)


def test_samples_of_a_tar_have_their_images(tmp_path: Path) -> None:
    """One image, several in numeric order, and images that the JSON names."""

    def png(i: int) -> bytes:
        out = io.BytesIO()
        picture(i).save(out, "PNG")
        return out.getvalue()

    row = {"prompt": "Which?", "chosen": "a", "rejected": "b"}
    members = {"a/0.json": json.dumps(row).encode(), "a/0.PNG": png(0), "a/1.json": json.dumps(row).encode()}
    members |= {f"a/1.{i}.png": png(i) for i in (2, 10, 1)}
    members |= {"a/2.json": json.dumps({**row, "images": ["2.b.png", "2.a.png"]}).encode()}
    members |= {"a/2.a.png": png(3), "a/2.b.png": png(4)}
    _tar(tmp_path / "rows.tar", members)
    groups = Jsonl("s", path=str(tmp_path / "rows.tar"), val=0, test=0).groups("train")
    pixels = [[open_image(image).tobytes() for image in group.images] for group in groups]
    assert pixels == [[picture(i).tobytes() for i in order] for order in ([0], [1, 2, 10], [4, 3])]


def test_unreadable_sample_rejects_only_its_row(tmp_path: Path) -> None:
    """A video, invalid JSON, a repeated column, and images that do not match the JSON."""
    row = json.dumps({"prompt": "Which?", "chosen": "a", "rejected": "b"}).encode()
    extra_members: dict[str, dict[str, bytes]] = {
        "unsupported_feature": {"mp4": b"1"},
        "malformed_json": {"json": b"{"},
        "conflicting_columns": {"prompt.txt": b"Q"},
        "not_utf8": {"txt": b"\xff"},
        "not_an_object": {"json": b"[]"},
    }
    members = {"good.json": row}
    for reason, extra in extra_members.items():
        members |= {f"{reason}.{ext}": content for ext, content in ({"json": row} | extra).items()}
    _tar(tmp_path / "rows.tar", members)
    source = Jsonl("s", path=str(tmp_path / "rows.tar"), val=0, test=0)
    assert [group.id for group in source.groups("train")] == ["rows.tar:0"]
    assert [rejected.reason for rejected in source.rejected("train")] == list(extra_members)


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ", "), ("tsv", "\t ")])
def test_blanks_around_names_of_a_header_are_dropped(suffix: str, delimiter: str, tmp_path: Path) -> None:
    """Those of cells are kept, and numbers are found by the name without blanks."""
    path = tmp_path / f"rows.{suffix}"
    path.write_text("\n".join(delimiter.join(line) for line in (["prompt", "chosen ", "rejected", "margin"], "Qab2")))
    [group] = Jsonl("s", path=str(path), val=0, test=0).groups("train")
    assert (group.prompt[0].parts[0].text, group.responses, group.preferences[0].margin) == ("Q", (" a", " b"), 2)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz"])
@pytest.mark.parametrize(
    "content",
    [
        '{"prompt":"Q","chosen":"a","rejected":"b"}\n',
        '\ufeff{"prompt": "Q", "chosen": "a"}\n',
        '[\n {"prompt": "Q"}]',
    ],
)
def test_json_under_the_name_of_csv_is_said(content: str, suffix: str, tmp_path: Path) -> None:
    """Its first row was taken for the header, and a mapping of parts of it was proposed."""
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(gzip.compress(content.encode()) if suffix.endswith("gz") else content.encode())
    with pytest.raises(DataError, match=r"JSON and not CSV.*\.jsonl"):
        Jsonl("s", path=str(path), val=0, test=0).groups("train")


BAD_CSV = b'prompt,chosen,rejected\nQ,a,b\nQ,a,b,c\nQ,a\n\xff,a,b\n\nR,,b\nS,"a"x,b\nT,a,b\n'


def test_bad_csv_row_is_rejected_with_its_line(tmp_path: Path) -> None:
    """Too many or too few fields, invalid UTF-8, an empty answer, a stray quotation mark; other rows are used."""
    path = tmp_path / "rows.csv"
    path.write_bytes(BAD_CSV)
    source = Jsonl("s", path=str(path), val=0, test=0)
    assert [group.id for group in source.groups("train")] == ["rows.csv:2", "rows.csv:9"]
    assert [(rejected.id, rejected.reason) for rejected in source.rejected("train")] == [
        ("rows.csv:3", "wrong_field_count"), ("rows.csv:4", "wrong_field_count"), ("rows.csv:5", "not_utf8"),
        ("rows.csv:7", "null_response"), ("rows.csv:8", "malformed_csv"),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"rows\.csv:3: the row has 4 fields and the header 3"):
        read_rows(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"), (b"prompt;chosen;rejected\nQ;a;b\n", "';'"), (b"prompt,chosen,chosen\nQ,a,b\n", "chosen"),
        (b"prompt,chosen, chosen\nQ,a,b\n", "chosen more than once"),
        ("prompt,chosen,rejected\nQ,a,b\n".encode("utf-16"), "UTF-8"),
    ],
)  # fmt: skip
def test_invalid_csv_header_is_an_error(content: bytes, message: str, tmp_path: Path) -> None:
    """An empty one, one with another delimiter, a repeated name, or another encoding."""
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        Jsonl("s", path=str(tmp_path / "rows.csv")).groups("train")


def test_margins_of_csv_are_numbers(tmp_path: Path) -> None:
    """Under our name and under the name in the file; answers in the same row are text."""
    (tmp_path / "rows.csv").write_text("prompt,chosen,rejected,gap\nQ,1,2,0.5\n")
    columns = {"margin": "gap"}
    for source in (Jsonl, Hub):
        [group] = source("s", path=str(tmp_path / "rows.csv"), columns=columns, val=0, test=0).groups("train")
        assert group.responses == ("1", "2")
        assert group.preferences[0].margin == 0.5


def test_commas_after_rows_are_reported_once(tmp_path: Path) -> None:
    """The error says what to do, and has the number of rows."""
    rows = "".join(json.dumps(row) + ",\n" for row in PAIRS * 5)
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "rows.jsonl")
    assert str(caught.value).count("comma") <= 2
    assert "rows.jsonl:1: not JSON" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n  "prompt": "Q",\n  "chosen": "a"\n}\n{\n  "prompt": "R"\n}\n', "several JSON values"),
        ('[\n  {"prompt": "Q"},\n]\n', "line 3|trailing comma|line 2"),
        ('{"train": [{"prompt": "Q"}], "test": [{"prompt": "R"}]}', "several lists of rows: train, test"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_invalid_multi_line_json_is_one_error(content: str, message: str, name: str, tmp_path: Path) -> None:
    """Not one error per line."""
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_one_row_over_several_lines_is_read(tmp_path: Path) -> None:
    """Lists of messages are not lists of rows; a truncated first row is rejected alone."""
    row: dict[str, Any] = {"prompt": [{"role": "user", "content": "Q"}], "responses": ["a"]}
    (tmp_path / "rows.json").write_text(json.dumps(row, indent=2))
    assert [group.responses for group in read_rows(tmp_path / "rows.json")] == [("a",)]
    (tmp_path / "rows.jsonl").write_text(LINES[:40] + "\n" + LINES)
    source = Jsonl("s", path=str(tmp_path / "rows.jsonl"), val=0, test=0)
    assert [rejected.reason for rejected in source.rejected("train")] == ["malformed_json"]
    assert len(source.groups("train")) == len(PAIRS)


@pytest.mark.parametrize("inner", [False, True], ids=["row", "message"])
def test_key_that_occurs_twice_rejects_the_row(inner: bool, tmp_path: Path) -> None:
    """Python keeps the last value of a repeated key; here neither is dropped without being named."""
    row = '{"prompt": "Q", "chosen": "a", "rejected": "b", "chosen": "c"}'
    if inner:
        row = '{"prompt": [{"role": "user", "content": "Q", "content": "R"}], "chosen": "a", "rejected": "b"}'
    (tmp_path / "rows.jsonl").write_text(f"{row}\n{LINES}")
    source = Jsonl("s", path=str(tmp_path / "rows.jsonl"), val=0, test=0)
    (rejected,) = source.rejected("train")
    assert rejected.reason == "malformed_json"
    assert ("content" if inner else "chosen") in rejected.detail
    assert len(source.groups("train")) == len(PAIRS)
    (tmp_path / "rows.json").write_text(f"[{row}]")
    with pytest.raises(DataError, match="occurs twice"):
        Jsonl("s", path=str(tmp_path / "rows.json"), val=0, test=0).groups("train")[0]


def test_zstd_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, and what to do without it."""
    (tmp_path / "rows.jsonl.zst").write_bytes(b"(\xb5/\xfd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(DataError, match=r"zstandard.*zstd -d rows\.jsonl\.zst"):
        Jsonl("s", path=str(tmp_path / "rows.jsonl.zst")).groups("train")


def test_zstd_is_read_with_its_package(tmp_path: Path) -> None:
    """All rows are read."""
    zstandard = pytest.importorskip("zstandard", reason="an optional package")
    (tmp_path / "rows.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(LINES.encode()))
    assert len(read_rows(tmp_path / "rows.jsonl.zst")) == len(PAIRS)


def test_benchmark_uses_the_same_reader(tmp_path: Path) -> None:
    """From CSV, with answers that data frame libraries take for missing cells."""
    header = ["pair_id", "source", "question", "response_model", "response_A", "response_B", "label"]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, ["p", "mmlu-pro-law", "Q", "m", "N/A", "12", "A>B"]])
    [item] = load_benchmark("judgebench", overrides=[f"data={tmp_path / 'rows.csv'}"]).items
    assert item.responses == ("N/A", "12")


def test_unpacked_file_is_cached_until_the_file_changes(tmp_path: Path) -> None:
    """A second read does not unpack the file again."""
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(LINES.encode()))
    first = unpacking.unpacked(path)
    assert (first.read_text(), unpacking.unpacked(path)) == (LINES, first)
    path.write_bytes(gzip.compress(LINES.encode() * 2))
    assert unpacking.unpacked(path).read_text() == LINES * 2
    label = find_table(str(path)).label
    assert label == str(path)


@pytest.mark.parametrize("column", ["tools", "meta", "candidates"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_one_row_with_a_list_of_objects_is_a_row(column: str, name: str, tmp_path: Path) -> None:
    """The objects of the list are not taken for rows, even if they look like rows."""
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", column: [{"prompt": "P", "chosen": "c", "rejected": "d"}]}
    (tmp_path / name).write_text(json.dumps(row))
    columns = {column: None}
    [group] = Jsonl("s", path=str(tmp_path / name), val=0, test=0, columns=columns).groups("train")
    assert (group.prompt[0].parts[0].text, group.responses) == ("Q", ("a", "b"))


def test_parquet_without_rows_is_an_error(tmp_path: Path) -> None:
    """Alone, and next to a file with rows."""
    table = pyarrow.table({"prompt": ["Q"], "chosen": ["a"], "rejected": ["b"]})
    pyarrow.parquet.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    for path in (tmp_path, tmp_path / "empty.parquet"):
        with pytest.raises(DataError, match=r"empty\.parquet' holds no rows"):
            Hub("s", path=str(path), val=0, test=0).groups("train")
