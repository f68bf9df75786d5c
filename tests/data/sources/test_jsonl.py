"""JSON Lines files: errors with their lines, splits without common prompts, and rows that are read on access."""

from __future__ import annotations

import itertools
import json
import logging
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from basereward.data.schema.group import SPLITS, RejectedRow
from basereward.data.schema.rejections import summary
from basereward.data.sources.jsonl import Jsonl, read_rows
from basereward.errors import DataError


def _write(path: Path, rows: list[Any]) -> Path:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _pair(prompt: str, **cells: object) -> dict[str, object]:
    """Return a row with two responses."""
    return {"prompt": prompt, "chosen": "yes", "rejected": "no", **cells}


def _ids(source: Jsonl) -> dict[str, list[str]]:
    """Return the group ids of each split."""
    return {split: [group.id for group in source.groups(split)] for split in SPLITS}


def test_splits_have_every_row_once_and_no_common_prompt(tmp_path: Path) -> None:
    """400 rows of 100 prompts: rows of a prompt stay together, and the fractions are about as requested."""
    path = _write(tmp_path / "a.jsonl", [_pair(f"Q{i % 100}", id=str(i)) for i in range(400)])
    source = Jsonl("a", path=str(path), val=0.2, test=0.1)
    ids = _ids(source)
    assert sorted((i for part in ids.values() for i in part), key=int) == [str(i) for i in range(400)]
    prompts = {split: {int(i) % 100 for i in ids[split]} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not prompts[one] & prompts[other]
    assert 60 <= len(prompts["train"]) <= 80  # 70, give or take two standard deviations
    assert len(prompts["val"]) > len(prompts["test"]) > 2


def test_same_question_with_another_image_is_another_prompt(tmp_path: Path) -> None:
    """Otherwise a data set with one question for all images would be in one split."""
    rows = [_pair("What is this?", images=[f"{i}.png"]) for i in range(200)]
    sizes = [len(part) for part in _ids(Jsonl("a", path=str(_write(tmp_path / "a.jsonl", rows)), val=0.3)).values()]
    assert min(sizes) > 0
    assert sum(sizes) == 200


def test_splits_do_not_depend_on_the_file(tmp_path: Path) -> None:
    """The split of a row depends on its prompt, images and the seed, not on other rows or the folder."""
    rows = [_pair(f"Q{i}", id=str(i), images=[f"{i}.png"]) for i in range(200)]
    before = _ids(Jsonl("a", path=str(_write(tmp_path / "a.jsonl", rows))))
    (tmp_path / "elsewhere").mkdir()
    moved = _write(tmp_path / "elsewhere" / "b.jsonl", [_pair("new", id="new"), *rows[::-1]])
    after = _ids(Jsonl("a", path=str(moved)))
    for split in SPLITS:
        assert set(before[split]) == set(after[split]) - {"new"}
    assert _ids(Jsonl("a", path=str(tmp_path / "a.jsonl"), seed=1))["val"] != before["val"]


def test_splits_can_be_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the order of the file; a warning names prompts that are also trained on."""
    train = _write(tmp_path / "train.jsonl", [_pair(f"Q{i}") for i in range(30)])
    val = _write(tmp_path / "val.jsonl", [_pair("Q5"), _pair("new")])
    source = Jsonl("a", path=str(train), val=str(val), test=0)
    with caplog.at_level(logging.WARNING):
        ids = _ids(source)
    assert ids["train"] == [f"train.jsonl:{i}" for i in range(1, 31)]
    assert (ids["val"], ids["test"]) == (["val.jsonl:1", "val.jsonl:2"], [])
    assert "1 of 2 rows of the val split have a prompt" in caplog.text


def test_blank_response_rejects_the_row(tmp_path: Path) -> None:
    """It counts in the split of the row, and not as malformed."""
    rows = [_pair(f"Q{i}", rejected=" \n" if i == 3 else "no") for i in range(40)]
    path = _write(tmp_path / "a.jsonl", rows)
    source = Jsonl("a", path=str(path), val=0.3, test=0.3)
    rejected = [row for split in SPLITS for row in source.rejected(split)]
    assert rejected == [
        RejectedRow("a", rejected[0].split, "a.jsonl:4", "empty_response", f"{path}:4: response 1 of 2 is blank")
    ]  # fmt: skip
    assert sum(len(part) for part in _ids(source).values()) == 39


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        (b'{"prompt": "Q", "chosen": "a"', "malformed_json", "not JSON: Expecting ',' delimiter at column 30"),
        (b'["prompt"]', "not_an_object", "the row is ['prompt'] (list); an object with named columns is needed"),
        (b'[{"prompt": "Q"},', "malformed_json", "an array of rows"),
        (b'"Q"', "not_an_object", "the row is 'Q' (str)"),
        (b'{"prompt": "\xff"}', "not_utf8", "not UTF-8: byte 13 of the line is 0xff"),
        (
            b'{"prompt": "Q \\ud83d", "chosen": "a", "rejected": "b"}',
            "half_surrogate",
            "half of a surrogate pair",
        ),
        (b"[" * 100_000, "malformed_json", "not usable"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "malformed_json", "not usable"),
        (b'{"prompt": "Q", "chosen": "a"}', "missing_column", "missing: 'rejected'"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_bad_line_is_rejected_with_its_number(tmp_path: Path, line: bytes, reason: str, message: str) -> None:
    """Rejected under its reason, with file and line; blank lines count. For scoring, it is an error."""
    path = tmp_path / "a.jsonl"
    valid = json.dumps(_pair("Q")).encode()
    path.write_bytes(valid + b"\n\n" + line + b"\n" + valid + b"\n")
    source = Jsonl("a", path=str(path))
    assert [group.id for split in SPLITS for group in source.groups(split)] == ["a.jsonl:1", "a.jsonl:4"]
    [rejected] = [row for split in SPLITS for row in source.rejected(split)]
    assert (rejected.id, rejected.reason) == ("a.jsonl:3", reason)
    assert rejected.detail.startswith(f"{path}:3: ")
    assert message in rejected.detail
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert str(caught.value) == rejected.detail


def test_error_lists_all_bad_lines(tmp_path: Path) -> None:
    """For scoring, up to twenty lines; a fault that several share is listed once."""
    path = _write(tmp_path / "a.jsonl", [_pair("Q"), {"prompt": 1}, _pair("Q"), 7])
    with pytest.raises(DataError, match="2 malformed rows") as caught:
        read_rows(path)
    assert f"{path}:2: " in str(caught.value)
    assert f"{path}:4: " in str(caught.value)
    _write(path, [{}] * 50)
    with pytest.raises(DataError, match="20 or more malformed rows") as caught:
        read_rows(path)
    assert len(str(caught.value).splitlines()) == 2
    assert "19 more" in str(caught.value)
    _write(path, [{f"column {i}": 1} for i in range(50)])
    with pytest.raises(DataError, match="20 or more malformed rows") as caught:
        read_rows(path)
    assert len(str(caught.value).splitlines()) == 21


def test_file_of_malformed_rows_stops_at_once(tmp_path: Path) -> None:
    """If the first hundred rows are malformed, reading stops; with one good row among them, it continues."""
    path = _write(tmp_path / "a.jsonl", [*[{"question": "Q"}] * 100, _pair("Q")])
    with pytest.raises(DataError, match="20 or more malformed rows") as caught:
        Jsonl("a", path=str(path)).groups("train")
    assert f"{path}:1: missing: 'chosen' and 'rejected', or `responses`. Columns found: question." in str(caught.value)
    for valid in (_pair("Q"), _pair("Q", chosen=" ")):  # a blank response is not malformed
        _write(path, [*[{"question": "Q"}] * 99, valid, *[{"question": "Q"}] * 99])
        source = Jsonl("a", path=str(path), val=0, test=0)
        assert summary(source.rejected("train"))["a"]["missing_column"] == 198


def test_rejected_rows_do_not_stay_in_memory(tmp_path: Path) -> None:
    """A hundred rejected rows of a megabyte each leave less than a megabyte in memory."""
    path = tmp_path / "a.jsonl"
    long_text = "x" * 1_000_000
    with path.open("w") as file:
        file.write(json.dumps(_pair("Q")) + "\n")
        for index in range(100):
            row = (
                _pair(f"Q{index}", rejected="yes", notes=long_text)
                if index % 2
                else {"prompt": "Q", "notes": long_text}
            )
            file.write(json.dumps(row) + "\n")
    source = Jsonl("a", path=str(path), val=0, test=0)
    tracemalloc.start()
    rejected = source.rejected("train")
    num_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert summary(rejected) == {"a": {"missing_column": 50, "identical_responses": 50}}
    assert num_bytes < 1_000_000


def test_surrogate_pair_is_text(tmp_path: Path) -> None:
    """`json.dumps` writes an emoji as such a pair. A byte-order mark and Windows line ends are accepted."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(_pair("Q \N{GRINNING FACE}")).encode() + b"\r\n")
    [group] = read_rows(path)
    assert group.prompt[0].parts[0].text == "Q \N{GRINNING FACE}"


def test_missing_and_empty_files_are_errors(tmp_path: Path) -> None:
    """A folder without a file of rows is an error too."""
    with pytest.raises(DataError, match=r"cannot read .*no\.jsonl: No such file"):
        Jsonl("a", path=str(tmp_path / "no.jsonl")).groups("train")
    with pytest.raises(DataError, match="data files"):
        Jsonl("a", path=str(tmp_path)).groups("train")
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(DataError, match=r"empty\.jsonl has no rows"):
        Jsonl("a", path=str(tmp_path / "empty.jsonl")).groups("train")


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.5, 0.5), (1.0, 0.0), (float("nan"), 0.1)])
def test_shares_out_of_range_are_an_error(val: float, test: float) -> None:
    """The error is raised before a file is read."""
    with pytest.raises(DataError, match=f"source 'mine': val={val}, test={test}"):
        Jsonl("mine", path="no.jsonl", val=val, test=test)


def test_mapped_column_without_rows_is_an_error(tmp_path: Path) -> None:
    """Otherwise a typing error would drop all images; a column that only some rows have is fine."""
    path = _write(tmp_path / "a.jsonl", [_pair("Q", pics=["x.png"]), _pair("P")])
    with pytest.raises(DataError, match="no row has the column pix, which `columns` names"):
        Jsonl("a", path=str(path), columns={"images": "pix"}).groups("train")
    groups = list(Jsonl("a", path=str(path), columns={"images": "pics"}, val=0, test=0).groups("train"))
    assert [group.images for group in groups] == [(tmp_path / "x.png",), ()]


def test_relative_images_start_from_the_file_or_the_given_folder(tmp_path: Path) -> None:
    """Absolute paths stay as they are."""
    path = _write(tmp_path / "a.jsonl", [_pair("Q", images=["x.png"]), _pair("P", images=["/y.png"])])
    assert [group.images for group in read_rows(path)] == [(tmp_path / "x.png",), (Path("/y.png"),)]
    assert [group.images for group in read_rows(path, images_root="/pics")] == [
        (Path("/pics/x.png"),),
        (Path("/y.png"),),
    ]


def test_rows_to_score_are_all_read_in_order(tmp_path: Path) -> None:
    """One response is enough, blank responses are kept, and no row is held out."""
    rows = [{"id": i, "prompt": "Q", "responses": ["a", ""][: 1 + i % 2]} for i in range(50)]
    groups = read_rows(_write(tmp_path / "a.jsonl", rows))
    assert [group.id for group in groups] == [str(i) for i in range(50)]
    assert [len(group.responses) for group in groups] == [1, 2] * 25
    assert groups[-1].source == "a.jsonl"


def test_file_is_not_kept_in_memory(tmp_path: Path) -> None:
    """20 MB of rows are indexed in less than 2 MB, and the groups pickle in kilobytes."""
    path = tmp_path / "a.jsonl"
    filler = "x" * 10_000
    _write(path, [_pair(f"Q{i} {filler}") for i in range(2000)])
    assert path.stat().st_size > 20_000_000
    tracemalloc.start()
    groups = Jsonl("a", path=str(path)).groups("train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(groups) > 1500
    assert peak < 2_000_000
    pickled = pickle.dumps(groups)
    assert len(pickled) < 100_000
    assert pickle.loads(pickled)[1234] == groups[1234]  # noqa: S301


def test_changed_file_is_an_error(tmp_path: Path) -> None:
    """Longer lines move the byte offsets; lines of equal length may have another prompt."""
    path = _write(tmp_path / "a.jsonl", [_pair(f"Q{i}") for i in range(10)])
    groups = read_rows(path)
    _write(path, [_pair(f"a longer prompt {i}") for i in range(10)])
    with pytest.raises(DataError, match=r"a\.jsonl:6: "):
        groups[5]
    _write(path, [_pair(f"P{i}") for i in range(10)])
    with pytest.raises(DataError, match=r"a\.jsonl:6: the row has changed since the run began"):
        groups[5]
