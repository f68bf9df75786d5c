"""Token lengths: measured without encoding, and cached."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from basereward.data.batching.collate import collate
from basereward.data.encoding.encoder import Encoder
from basereward.data.encoding.lengths import Lengths, measure
from basereward.data.schema.group import Group, RejectedRow, Split
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.model.families.processing import load_encoder
from tests.helpers.support import TEXT, VISION, checkpoint, group, mixed_groups


class Listed:
    """A source of the given groups."""

    name = "listed"

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups

    def groups(self, split: Split) -> Sequence[Group]:
        return self._groups

    def rejected(self, split: Split) -> list[RejectedRow]:
        return [RejectedRow(self.name, split, "0", "malformed_json", "listed:1: not JSON")]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The encoder of a small Qwen2.5-VL."""
    return load_encoder(checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("lengths")), max_tokens=200)


@pytest.mark.parametrize("family", [*VISION, *TEXT])
def test_measured_lengths_equal_the_encoded_group(family: str, tmp_path: Path) -> None:
    """For every family: prefix, branches, images and the tokens of a tree row, measured without making patches."""
    encoder = load_encoder(checkpoint(family, tmp_path / family))
    for sample_group in mixed_groups(vision=family in VISION):
        measured, encoded = encoder.measure(sample_group), encoder(sample_group)
        assert measured.prefix == len(encoded.prefix)
        assert measured.branches == tuple(len(branch) for branch in encoded.branches)
        assert measured.images == (0 if encoded.images_thw is None else len(encoded.images_thw))
        assert measured.tokens == collate([encoded], layout="tree", pad_id=encoder.pad_id).rows.input_ids.numel()


BAD = [
    group(responses=("", "b"), name="blank"),
    group(responses=("long " * 300, "b"), name="long"),
    Group("gone", "test", group().prompt, ("a", "b"), images=()),
]


def test_encoding_and_measuring_reject_the_same_groups(encoder: Encoder) -> None:
    """A group that is too long has the same error in both."""
    for encode_or_measure in (encoder, encoder.measure):
        with pytest.raises(RowRejected, match=r"data\.encoding\.max_tokens allows 200") as caught:
            encode_or_measure(BAD[1])
        assert caught.value.reason == "too_long"


@pytest.mark.parametrize("workers", [0, 2])
def test_every_group_is_measured_or_rejected(encoder: Encoder, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Usable groups have index, tokens and images. Rejected ones follow the source's own, each with its reason. Worker
    processes change nothing."""
    monkeypatch.setattr("basereward.data.encoding.lengths.MANY", 1)
    usable = mixed_groups(vision=True)
    groups = [*usable[:2], BAD[0], BAD[1], *usable[2:]]
    lengths, rejected = measure(Listed(groups), "train", encoder=encoder, workers=workers)
    assert lengths.index.tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert lengths.tokens.tolist() == [encoder.measure(sample_group).tokens for sample_group in usable]
    assert lengths.images.tolist() == [0, 0, 0, 1, 2, 2, 4]
    assert [(row.id, row.reason) for row in rejected] == [
        ("0", "malformed_json"),
        ("blank", "empty_response"),
        ("long", "too_long"),
    ]


def test_other_errors_pass_through(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed data set is an error, not a rejected row."""

    def raise_data_error(group: Group, **options: object) -> None:
        raise DataError("file:3: malformed")

    monkeypatch.setattr(encoder, "measure", raise_data_error)
    with pytest.raises(DataError, match="file:3: malformed"):
        measure(Listed([group()]), "train", encoder=encoder)


class Refusing(Encoder):
    """An encoder that must not measure anything."""

    def measure(self, group: Group, *, with_targets: bool = False) -> object:  # type: ignore[override]
        raise AssertionError("measured again")


def refusing(encoder: Encoder, *, max_tokens: int = 200) -> Refusing:
    """Return an encoder with the same settings that must not measure anything."""
    return Refusing(
        encoder.tokenizer,
        positions=encoder.positions,
        image_processor=encoder.image_processor,
        image_token_id=encoder.image_token_id,
        merge_size=encoder.merge_size,
        videos=encoder.videos,
        max_tokens=max_tokens,
    )


def test_lengths_are_cached(encoder: Encoder, tmp_path: Path) -> None:
    """The second call reads lengths and rejected rows from disk; changed groups or settings are measured."""
    groups = [*mixed_groups(vision=True), *BAD[:2]]
    first = measure(Listed(groups), "train", encoder=encoder, cache=tmp_path)
    cached = measure(Listed(groups), "train", encoder=refusing(encoder), cache=tmp_path)
    for measured, from_cache in ((first[0].index, cached[0].index), (first[0].tokens, cached[0].tokens)):
        np.testing.assert_array_equal(measured, from_cache)
    assert cached[1] == first[1]
    for changed_groups in ([*groups, group("Another?")], [group(images=2), *groups[1:]]):
        with pytest.raises(AssertionError, match="measured again"):
            measure(Listed(changed_groups), "train", encoder=refusing(encoder), cache=tmp_path)
    with pytest.raises(AssertionError, match="measured again"):
        measure(Listed(groups), "train", encoder=refusing(encoder, max_tokens=199), cache=tmp_path)


@pytest.mark.parametrize("size", [0, 100])
def test_damaged_cache_is_logged_and_replaced(
    size: int, encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that a killed process or a bad disk has cut is not used."""
    groups = mixed_groups(vision=True)
    first = measure(Listed(groups), "train", encoder=encoder, cache=tmp_path)[0]
    (file,) = tmp_path.rglob("*.safetensors")
    content = file.read_bytes()[:size]
    file.unlink()  # it is mapped into memory
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        remeasured = measure(Listed(groups), "train", encoder=encoder, cache=tmp_path)[0]
    assert "cannot be read" in caplog.text
    assert remeasured.tokens.tolist() == first.tokens.tolist()
    measure(Listed(groups), "train", encoder=refusing(encoder), cache=tmp_path)


def test_unwritable_cache_is_logged(encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The lengths are measured, and a warning says that they are not cached."""
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        measured = measure(Listed(mixed_groups(vision=True)), "train", encoder=encoder, cache=tmp_path / "file")[0]
    assert isinstance(measured, Lengths)
    assert len(measured) == 7
    assert "cannot be cached" in caplog.text
