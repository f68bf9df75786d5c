"""Data sets through the `datasets` library: Parquet with embedded images, folders, splits and errors."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest

from basereward.data.images.open_images import open_image
from basereward.data.schema.group import IMAGE, SPLITS, Part, Preference
from basereward.data.sources.hub import Hub
from basereward.errors import DataError


def _image(i: int) -> PIL.Image.Image:
    """Return a small image of one colour."""
    return PIL.Image.new("RGB", (3, 2), (i, 0, 255 - i))


def _image_rows(rows: int) -> datasets.Dataset:
    """Return rows with an embedded image each, with the column names of RLAIF-V and unknown columns."""
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "good": datasets.Value("string"),
         "bad": datasets.Value("string"), "ds_name": datasets.Value("string")}
    )  # fmt: skip
    return datasets.Dataset.from_dict(
        {"image": [_image(i) for i in range(rows)], "question": ["What colour?"] * rows,
         "good": [f"good {i}" for i in range(rows)], "bad": ["bad"] * rows, "ds_name": ["x"] * rows},
        features=features,
    )  # fmt: skip


COLUMNS = {"prompt": "question", "chosen": "good", "rejected": "bad"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the library's cache into a folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_embedded_images_are_passed_as_stored(tmp_path: Path) -> None:
    """As the stored bytes; every row once, with its own image and answers."""
    path = tmp_path / "rows.parquet"
    _image_rows(20).to_parquet(path)
    source = Hub("h", path=str(path), columns=COLUMNS, val=0.2, test=0.2)
    groups = [group for split in SPLITS for group in source.groups(split)]
    assert sorted(int(group.id.removeprefix("train:")) for group in groups) == list(range(20))
    for group in groups:
        i = int(group.id.removeprefix("train:"))
        assert group.prompt[0].parts == (IMAGE, Part("What colour?"))
        assert group.responses == (f"good {i}", "bad")
        assert group.preferences == (Preference(0, 1),)
        [image] = group.images
        assert isinstance(image, bytes)
        assert open_image(image).tobytes() == _image(i).tobytes()


def test_rows_with_one_question_are_split_by_image(tmp_path: Path) -> None:
    """Rows with the same bytes are in one split, and different images are not all in one."""
    repeated_rows = datasets.concatenate_datasets([_image_rows(60), _image_rows(60)])
    repeated_rows.to_parquet(tmp_path / "rows.parquet")
    source = Hub("h", path=str(tmp_path / "rows.parquet"), columns=COLUMNS, val=0.3, test=0.3)
    images_by_split = {split: [group.images[0] for group in source.groups(split)] for split in SPLITS}
    assert sum(len(part) for part in images_by_split.values()) == 120
    for one, other in itertools.combinations(SPLITS, 2):
        assert images_by_split[one]
        assert not set(images_by_split[one]) & set(images_by_split[other])


def test_messages_with_several_images_are_read(tmp_path: Path) -> None:
    """TRL's multimodal form: messages with typed parts, which Parquet fills with nulls, and a list of images."""
    prompt = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Same?"}]},
    ]
    rows: list[dict[str, Any]] = [
        {"prompt": prompt, "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}],
         "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "No."}]}],
         "images": [_image(1), _image(2)]}
    ]  # fmt: skip
    data = datasets.Dataset.from_list(rows)
    data = data.cast_column("images", datasets.List(datasets.Image()))
    data.to_parquet(tmp_path / "rows.parquet")
    [group] = Hub("h", path=str(tmp_path / "rows.parquet"), val=0, test=0).groups("train")
    assert [turn.role for turn in group.prompt] == ["system", "user"]
    assert group.prompt[1].parts == (IMAGE, IMAGE, Part("Same?"))
    assert group.responses == ("Yes.", "No.")
    assert [open_image(image).tobytes() for image in group.images] == [_image(i).tobytes() for i in (1, 2)]


def test_splits_of_a_folder_are_read(tmp_path: Path) -> None:
    """By the naming rules of the hub; slices of a split are supported."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, rows in (("train", 10), ("test", 4)):
        _image_rows(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    source = Hub("h", path=str(folder), columns=COLUMNS, split="train[:6]", val="train[6:]", test="test")
    assert [len(source.groups(split)) for split in SPLITS] == [6, 4, 4]
    assert source.groups("test")[3].id == "test:3"


@pytest.mark.parametrize("split", ["train", "test"])
def test_saved_data_sets_are_read(tmp_path: Path, split: str) -> None:
    """A dictionary of splits, or a single data set, which counts as `train`."""
    datasets.DatasetDict({"train": _image_rows(3), "test": _image_rows(2)}).save_to_disk(tmp_path / "both")
    groups = Hub("h", path=str(tmp_path / "both"), split=split, columns=COLUMNS, val=0, test=0).groups("train")
    assert len(groups) == {"train": 3, "test": 2}[split]
    _image_rows(3).save_to_disk(tmp_path / "one")
    assert len(Hub("h", path=str(tmp_path / "one"), columns=COLUMNS, val=0, test=0).groups("train")) == 3
    with pytest.raises(DataError, match="unknown split 'tset'; there are train, test"):
        Hub("h", path=str(tmp_path / "both"), split="tset", columns=COLUMNS).groups("train")


def test_relative_paths_start_from_the_folder(tmp_path: Path) -> None:
    """If rows name files instead of embedding them."""
    data = datasets.Dataset.from_dict({"prompt": ["Q"], "chosen": ["a"], "rejected": ["b"], "images": [["x.png"]]})
    data.to_parquet(tmp_path / "rows.parquet")
    [group] = Hub("h", path=str(tmp_path / "rows.parquet"), val=0, test=0).groups("train")
    assert group.images == (tmp_path / "x.png",)


def test_groups_can_be_pickled(tmp_path: Path) -> None:
    """A worker process of the data loader gets a copy of the source and reads the same rows."""
    _image_rows(5).to_parquet(tmp_path / "rows.parquet")
    groups = Hub("h", path=str(tmp_path / "rows.parquet"), columns=COLUMNS, val=0, test=0).groups("train")
    unpickled = pickle.loads(pickle.dumps(groups))  # noqa: S301
    assert [unpickled[i] for i in (4, 0)] == [groups[4], groups[0]]


def test_faults_name_the_row(tmp_path: Path) -> None:
    """Each bad row is rejected under its reason; if all rows are malformed, one error lists them."""
    data = datasets.Dataset.from_dict(
        {"prompt": ["Q1", "Q2", None, "Q4"], "chosen": ["a", None, "a", "a"], "rejected": ["b", "b", "b", " "]}
    )
    path = tmp_path / "rows.parquet"
    data.to_parquet(path)
    source = Hub("h", path=str(path), val=0, test=0)
    assert [group.id for group in source.groups("train")] == ["train:0"]
    assert [(row.id, row.reason) for row in source.rejected("train")] == [
        ("train:1", "null_response"), ("train:2", "no_prompt"), ("train:3", "empty_response")
    ]  # fmt: skip
    assert source.rejected("train")[0].detail == f"{path} [train], row 1: 'chosen' is null; a response must be a text"
    data.select([1, 2]).to_parquet(path)
    with pytest.raises(DataError, match="2 malformed rows") as caught:
        Hub("h", path=str(path)).groups("train")
    assert f"{path} [train], row 0: 'chosen' is null" in str(caught.value)
    assert f"{path} [train], row 1: there is no prompt" in str(caught.value)


def test_load_failures_name_the_cause(tmp_path: Path) -> None:
    """An unknown split, a broken file, an unknown kind of file, and a hub id without a network."""
    _image_rows(2).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet has no split 'tset'.*split=train"):
        Hub("h", path=str(tmp_path / "rows.parquet"), split="tset").groups("train")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"bad\.parquet"):
        Hub("h", path=str(tmp_path / "bad.parquet")).groups("train")
    (tmp_path / "rows.xls").touch()
    with pytest.raises(DataError, match=r"'\.xls' files.*Allowed: \.jsonl, .*\.parquet"):
        Hub("h", path=str(tmp_path / "rows.xls")).groups("train")
    with pytest.raises(DataError, match=r"cannot load the data set nobody/nothing \(subset None, revision abc"):
        Hub("h", path="nobody/nothing", revision="abc").groups("train")
