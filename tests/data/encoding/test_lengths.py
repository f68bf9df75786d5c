"""Lengths that are found without encoding, and kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from basereward.data.batching.tree_batch import collate
from basereward.data.encoding.encoder import Encoder
from basereward.data.encoding.lengths import Lengths, measure
from basereward.data.schema.group import Group, RejectedRow, Split
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.model.families.processing import load_encoder
from tests.helpers.support import TEXT, VISION, checkpoint, group, mixed_groups


class Listed:
    """A source of the groups that it is given."""

    name = "listed"

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups

    def groups(self, split: Split) -> Sequence[Group]:
        return self._groups

    def rejected(self, split: Split) -> list[RejectedRow]:
        return [RejectedRow(self.name, split, "0", "malformed_json", "listed:1: not JSON")]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """That of a small Qwen2.5-VL."""
    return load_encoder(checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("lengths")), max_tokens=200)


@pytest.mark.parametrize("family", [*VISION, *TEXT])
def test_a_measured_length_is_that_of_the_encoded_group(family: str, tmp_path: Path) -> None:
    """Prefix, branches, images and the tokens in a tree row, for every family, without cutting pictures into
    patches."""
    encoder = load_encoder(checkpoint(family, tmp_path / family))
    for each in mixed_groups(vision=family in VISION):
        size, encoded = encoder.measure(each), encoder(each)
        assert size.prefix == len(encoded.prefix)
        assert size.branches == tuple(len(branch) for branch in encoded.branches)
        assert size.images == (0 if encoded.images_thw is None else len(encoded.images_thw))
        assert size.tokens == collate([encoded], layout="tree", pad_id=encoder.pad_id).input_ids.numel()


BAD = [
    group(responses=("", "b"), name="blank"),
    group(responses=("long " * 300, "b"), name="long"),
    Group("gone", "test", group().prompt, ("a", "b"), images=()),
]


def test_encoding_and_measuring_lose_the_same_groups(encoder: Encoder) -> None:
    """A group that is too long to be encoded is too long when it is measured, and the words are the same."""
    for attempt in (encoder, encoder.measure):
        with pytest.raises(RowRejected, match=r"data\.encoding\.max_tokens allows 200") as caught:
            attempt(BAD[1])
        assert caught.value.reason == "too_long"


@pytest.mark.parametrize("workers", [0, 2])
def test_every_group_is_measured_or_lost(encoder: Encoder, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indices, tokens and images of the usable groups, and the others with their reasons after the source's own, with
    processes and without."""
    monkeypatch.setattr("basereward.data.encoding.lengths.MANY", 1)
    good = mixed_groups(vision=True)
    groups = [*good[:2], BAD[0], BAD[1], *good[2:]]
    lengths, lost = measure(Listed(groups), "train", encoder=encoder, workers=workers)
    assert lengths.index.tolist() == [0, 1, 4, 5, 6]
    assert lengths.tokens.tolist() == [encoder.measure(each).tokens for each in good]
    assert lengths.images.tolist() == [0, 0, 0, 1, 2]
    assert [(row.id, row.reason) for row in lost] == [
        ("0", "malformed_json"),
        ("blank", "empty_response"),
        ("long", "too_long"),
    ]


def test_other_errors_pass_through(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that is malformed is no lost row."""

    def broken(group: Group, **options: object) -> None:
        raise DataError("file:3: malformed")

    monkeypatch.setattr(encoder, "measure", broken)
    with pytest.raises(DataError, match="file:3: malformed"):
        measure(Listed([group()]), "train", encoder=encoder)


class Refusing(Encoder):
    """An encoder that must not be asked."""

    def measure(self, group: Group, *, with_targets: bool = False) -> object:  # type: ignore[override]
        raise AssertionError("measured again")


def refusing(encoder: Encoder, *, max_tokens: int = 200) -> Refusing:
    """The same encoder as far as anybody can tell from its settings."""
    return Refusing(
        encoder.tokenizer,
        positions=encoder.positions,
        image_processor=encoder.image_processor,
        image_token_id=encoder.image_token_id,
        merge_size=encoder.merge_size,
        max_tokens=max_tokens,
    )


def test_lengths_are_found_once(encoder: Encoder, tmp_path: Path) -> None:
    """The second time they come from the disk, the lost rows with them; changed rows or settings are measured."""
    groups = [*mixed_groups(vision=True), *BAD[:2]]
    first = measure(Listed(groups), "train", encoder=encoder, cache=tmp_path)
    again = measure(Listed(groups), "train", encoder=refusing(encoder), cache=tmp_path)
    for one, other in ((first[0].index, again[0].index), (first[0].tokens, again[0].tokens)):
        np.testing.assert_array_equal(one, other)
    assert again[1] == first[1]
    for changed in ([*groups, group("Another?")], [group(images=2), *groups[1:]]):
        with pytest.raises(AssertionError, match="measured again"):
            measure(Listed(changed), "train", encoder=refusing(encoder), cache=tmp_path)
    with pytest.raises(AssertionError, match="measured again"):
        measure(Listed(groups), "train", encoder=refusing(encoder, max_tokens=199), cache=tmp_path)


@pytest.mark.parametrize("size", [0, 100])
def test_a_damaged_file_is_said_and_made_anew(
    size: int, encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a killed process or a bad disk left is not trusted."""
    groups = mixed_groups(vision=True)
    first = measure(Listed(groups), "train", encoder=encoder, cache=tmp_path)[0]
    (kept,) = tmp_path.rglob("*.safetensors")
    content = kept.read_bytes()[:size]
    kept.unlink()  # it is mapped into memory
    kept.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = measure(Listed(groups), "train", encoder=encoder, cache=tmp_path)[0]
    assert "cannot be read" in caplog.text
    assert again.tokens.tolist() == first.tokens.tolist()
    measure(Listed(groups), "train", encoder=refusing(encoder), cache=tmp_path)


def test_a_folder_that_cannot_be_written_costs_no_run(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The lengths are found, and the log says that they are not kept."""
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        found = measure(Listed(mixed_groups(vision=True)), "train", encoder=encoder, cache=tmp_path / "file")[0]
    assert isinstance(found, Lengths)
    assert len(found) == 5
    assert "cannot be cached" in caplog.text
