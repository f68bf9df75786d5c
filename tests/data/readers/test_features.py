"""Every feature of the `datasets` library is decoded as the library does, or rejected."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.features.features import _FEATURE_TYPES

from basereward.data.readers.features import DECODED, NESTED, STORED_AS_SHOWN, row_decoders
from basereward.data.readers.find import find_table
from basereward.data.schema.group import IMAGE, Group, Part
from basereward.data.schema.rejections import RowRejected
from basereward.data.sources.hub import Hub
from basereward.errors import DataError
from basereward.evaluation.benchmark import load_benchmark
from tests.helpers.support import write_rows

SUPPORTED = {*STORED_AS_SHOWN, *NESTED, *DECODED}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the library's cache into a folder of the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


EXAMPLES: dict[str, tuple[Any, list[Any]]] = {
    "Value": (datasets.Value("string"), ["a", None]),
    "ClassLabel": (datasets.ClassLabel(names=["grey", "red"]), [1, 0, -1, None]),
    "Translation": (datasets.Translation(["en", "fr"]), [{"en": "a", "fr": "b"}, None]),
    "TranslationVariableLanguages": (datasets.TranslationVariableLanguages(["en"]), [{"en": ["a", "b"]}, None]),
    "List": (datasets.List({"a": datasets.Json()}), [[{"a": [1, "x"]}, {"a": None}], None]),
    "LargeList": (datasets.LargeList(datasets.ClassLabel(names=["x", "y"])), [[1, 0], None]),
    "Array2D": (datasets.Array2D((2, 2), "int32"), [[[1, 2], [3, 4]], None]),
    "Array3D": (datasets.Array3D((1, 1, 2), "int32"), [[[[1, 2]]], None]),
    "Array4D": (datasets.Array4D((1, 1, 1, 2), "int32"), [[[[[1, 2]]]], None]),
    "Array5D": (datasets.Array5D((1, 1, 1, 1, 2), "int32"), [[[[[[1, 2]]]]], None]),
    "Image": (datasets.Image(decode=False), [{"bytes": b"\x89PNG", "path": None}, None]),
    "Json": (datasets.Json(), ["text", 7, [{"a": None}], None]),
}

# The library returns the number of a class; we return its name.
NAMES: dict[str, list[Any]] = {"ClassLabel": ["red", "grey", None, None], "LargeList": [["y", "x"], None]}


@pytest.mark.parametrize("name", sorted(_FEATURE_TYPES))
def test_every_feature_is_decoded_or_rejected(name: str, tmp_path: Path) -> None:
    """From `save_to_disk` and from Parquet; a rejection has the names of the feature and the column."""
    if name not in SUPPORTED:
        [decoder] = row_decoders(datasets.Features({"clip": _FEATURE_TYPES[name]()})).values()
        with pytest.raises(RowRejected, match=rf"(?s)'clip'.* {name} ") as caught:
            decoder({"bytes": b"1", "path": None})
        assert caught.value.reason == "unsupported_feature"
        assert decoder(None) is None
        return
    feature, values = EXAMPLES[name]
    encoded = [None if value is None else json.dumps(value) for value in values] if name == "Json" else values
    data = datasets.Dataset.from_dict({"cell": encoded}, features=datasets.Features({"cell": feature}))
    expected = NAMES.get(name, list(data["cell"]))
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "rows.parquet")
    for path in (tmp_path / "saved", tmp_path / "rows.parquet"):
        table = pickle.loads(pickle.dumps(find_table(str(path))))  # noqa: S301
        assert [table.decode(raw)["cell"] for _, _, raw in table.scan()] == expected
        assert [table.decode(table.read(place))["cell"] for place in range(len(values))] == expected


def _json_parts(content: object) -> list[dict[str, Any]]:
    """Return 40 rows whose user turn has parts and whose answer is text: a column of mixed types."""
    turns = [{"role": "user", "content": content}]
    return [
        {
            "images": ["1.png"],
            "chosen": [*turns, {"role": "assistant", "content": "red"}],
            "rejected": [*turns, {"role": "assistant", "content": "blue"}],
        }
    ] * 40


def _stored(rows: list[dict[str, Any]], folder: Path, *, saved: bool = False) -> Path:
    """Return a folder with the rows as the library stores them: columns of mixed types as JSON."""
    folder.mkdir()
    file = write_rows(folder.with_suffix(".jsonl"), rows)
    data = datasets.load_dataset("json", data_files=str(file), split="train")
    assert "Json" in str(data.features)
    if saved:
        data.save_to_disk(folder)
    else:
        data.to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.parametrize("stored", ["rows", "parquet", "saved"])
def test_messages_of_mixed_types_are_read_as_messages(stored: str, tmp_path: Path) -> None:
    """The library stores parts next to plain texts as JSON; the prompt must not be the text of that JSON."""
    rows = _json_parts([{"type": "image"}, {"type": "text", "text": "What colour?"}])
    if stored == "rows":
        folder = tmp_path / "data"
        folder.mkdir()
        write_rows(folder / "a.jsonl", rows)
    else:
        folder = _stored(rows, tmp_path / "data", saved=stored == "saved")
    groups = Hub("h", path=str(folder), val=0, test=0).groups("train")
    assert len(groups) == 40
    assert groups[39].prompt[0].parts == (IMAGE, Part("What colour?"))
    assert groups[39].responses == ("red", "blue")


def test_number_among_the_answers_rejects_only_its_row(tmp_path: Path) -> None:
    """The number is rejected; quotation marks around the other answers would reveal the label."""
    rows = [{"prompt": f"Q{i}", "chosen": "yes", "rejected": "no"} for i in range(39)]
    folder = _stored([*rows, {"prompt": "Q", "chosen": 7, "rejected": "no"}], tmp_path / "data")
    source = Hub("h", path=str(folder), val=0, test=0)
    assert {group.responses for group in source.groups("train")} == {("yes", "no")}
    assert [(row.id, row.reason) for row in source.rejected("train")] == [("train:39", "wrong_type")]


def test_prompts_can_be_texts_and_messages(tmp_path: Path) -> None:
    """Both kinds in one column."""
    rows: list[dict[str, Any]] = [{"prompt": "Why?", "chosen": "a", "rejected": "b"}]
    rows += [{**rows[0], "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Why?"}]}]
    folder = _stored(rows, tmp_path / "data")
    groups: list[Group] = list(Hub("h", path=str(folder), val=0, test=0).groups("train"))
    assert [[turn.role for turn in group.prompt] for group in groups] == [["user"], ["system", "user"]]
    assert {group.prompt[-1].parts for group in groups} == {(Part("Why?"),)}


def test_benchmark_row_of_another_type_is_an_error(tmp_path: Path) -> None:
    """Its JSON text would be longer than the answer, which changes the baseline "longer answer wins"."""
    rows = [
        {"pair_id": f"p{i}", "source": "mmlu-pro-law", "question": f"Q{i}", "response_model": "m",
         "response_A": "short", "response_B": "longer one", "label": "A>B"}
        for i in range(40)
    ]  # fmt: skip
    folder = _stored([*rows[:-1], {**rows[-1], "response_A": 7}], tmp_path / "data")
    overrides = [f"data={folder}", "subset=null", "split=train", "files=null"]
    with pytest.raises(DataError, match=r"row 39: wrong_type.*7 \(int\)"):
        _ = load_benchmark("judgebench", overrides=overrides).items


def test_labels_are_names(tmp_path: Path) -> None:
    """A class becomes its name, never its number."""
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "chosen": datasets.ClassLabel(names=["cat", "dog"]),
         "rejected": datasets.ClassLabel(names=["cat", "dog"])}
    )  # fmt: skip
    data = datasets.Dataset.from_dict({"prompt": ["Which?"], "chosen": [1], "rejected": [0]}, features=features)
    data.to_parquet(tmp_path / "rows.parquet")
    [group] = Hub("h", path=str(tmp_path / "rows.parquet"), val=0, test=0).groups("train")
    assert group.responses == ("dog", "cat")


def test_row_with_audio_is_rejected(tmp_path: Path) -> None:
    """The text of such a row is only a part of its prompt."""
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    audio = str(tmp_path / "x.wav")
    columns = {"prompt": ["Q", "R"], "chosen": ["a", "a"], "rejected": ["b", "b"], "sound": [audio, None]}
    data = datasets.Dataset.from_dict(columns).cast_column("sound", datasets.Audio(decode=False))
    data.to_parquet(tmp_path / "rows.parquet")
    source = Hub("h", path=str(tmp_path / "rows.parquet"), val=0, test=0)
    assert [group.id for group in source.groups("train")] == ["train:1"]
    assert [(row.id, row.reason) for row in source.rejected("train")] == [("train:0", "unsupported_feature")]
