"""The layout of token rows, against rows written by hand."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import PADDING
from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.images.pixels import Pixels
from basereward.data.schema.group import Preference
from tests.helpers.support import encoded_group


def two_groups() -> list[EncodedGroup]:
    """Return a group of tokens 1 2 3 | 4 5 | 6 and one of 1 2 | 3 | 4 5 | 6 7 8."""
    first = encoded_group(3, [2, 1], (Preference(1, 0, weight=2.0, margin=0.5),), name="one", source="a")
    second = encoded_group(2, [1, 2, 3], (Preference(2, 0), Preference(0, 1, tie=True)), name="two", source="b")
    return [first, second]


def with_images(group: EncodedGroup, *, images: int, fill: float) -> EncodedGroup:
    """Return the group with three axes of positions and `images` images of four patches each."""
    return replace(
        group,
        positions=torch.stack([group.positions, group.positions + 10, group.positions + 20]),
        pixels=Pixels(torch.full((4 * images, 6), fill)),
        images_thw=torch.tensor([[1, 2, 2]] * images),
    )


def test_tree_layout_has_one_row_without_padding() -> None:
    """The prefixes of all groups come first, then the branches of all; `trees` has the lengths of both."""
    batch = collate(two_groups(), layout="tree", pad_id=99)
    assert batch.rows.input_ids.tolist() == [[1, 2, 3, 1, 2, 4, 5, 6, 3, 4, 5, 6, 7, 8]]
    assert batch.rows.branch.tolist() == [[0, 0, 0, 0, 0, 1, 1, 2, 1, 2, 2, 3, 3, 3]]
    assert batch.rows.group.tolist() == [[0] * 3 + [1] * 2 + [0] * 3 + [1] * 6]
    assert batch.rows.trees == [(3, 2, 1), (2, 1, 2, 3)]


def test_positions_of_a_branch_follow_the_prefix() -> None:
    """The first token of each branch has the position after the prefix; the next group starts at zero."""
    batch = collate(two_groups(), layout="tree", pad_id=99)
    assert batch.rows.position_ids.tolist() == [[0, 1, 2, 0, 1, 3, 4, 3, 2, 2, 3, 2, 3, 4]]


def test_the_pooled_token_is_the_last_of_its_branch() -> None:
    """`ends` has row and column of each response's end-of-turn token, in the order of the responses."""
    batch = collate(two_groups(), layout="tree", pad_id=99)
    assert batch.rows.ends.tolist() == [[0, 6], [0, 7], [0, 8], [0, 10], [0, 13]]
    assert batch.lengths.tolist() == [1, 0, 0, 1, 2]


def test_plain_layout_has_one_row_per_response() -> None:
    """Each response is one sequence after the prefix of its group."""
    batch = collate(two_groups(), layout="plain", pad_id=99)
    assert batch.rows.input_ids.tolist() == [
        [1, 2, 3, 4, 5],
        [1, 2, 3, 6, 99],
        [1, 2, 3, 99, 99],
        [1, 2, 4, 5, 99],
        [1, 2, 6, 7, 8],
    ]
    assert batch.rows.branch.tolist()[1:3] == [[0, 0, 0, 1, PADDING], [0, 0, 1, PADDING, PADDING]]
    assert batch.rows.group[:, 0].tolist() == [0, 0, 1, 1, 1]
    assert batch.rows.position_ids.tolist() == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 0],
        [0, 1, 2, 0, 0],
        [0, 1, 2, 3, 0],
        [0, 1, 2, 3, 4],
    ]
    assert batch.rows.ends.tolist() == [[0, 4], [1, 3], [2, 2], [3, 3], [4, 4]]
    assert batch.lengths.tolist() == [1, 0, 0, 1, 2]
    assert batch.rows.trees == [(3, 2), (3, 1), (2, 1), (2, 2), (2, 3)]


def test_preferences_index_the_responses_of_the_batch() -> None:
    """Indices count the responses of all groups; weight, margin and tie are kept."""
    for layout in ("tree", "plain"):
        batch = collate(two_groups(), layout=layout, pad_id=99)
        assert batch.preferences.winner.tolist() == [1, 4, 2]
        assert batch.preferences.loser.tolist() == [0, 2, 3]
        assert batch.preferences.group.tolist() == [0, 1, 1]
        assert batch.preferences.weight.tolist() == [2.0, 1.0, 1.0]
        assert batch.preferences.margin[0] == 0.5
        assert all(math.isnan(margin) for margin in batch.preferences.margin[1:].tolist())
        assert batch.preferences.tie.tolist() == [False, False, True]
        assert (batch.ids, batch.sources, batch.num_groups) == (["one", "two"], ["a", "b"], 2)


def test_positions_of_three_axes_follow_the_largest() -> None:
    """After a prefix with images, a branch starts after the largest position of any axis, equally on all three."""
    group = with_images(encoded_group(2, [2, 1]), images=1, fill=0.0)
    other = with_images(encoded_group(1, [1]), images=0, fill=0.0)
    batch = collate([group, other], layout="tree", pad_id=99)
    assert batch.rows.position_ids.shape == (3, 1, 7)
    assert batch.rows.position_ids[:, 0].tolist() == [
        [0, 1, 0, 22, 23, 22, 21],
        [10, 11, 10, 22, 23, 22, 21],
        [20, 21, 20, 22, 23, 22, 21],
    ]


def test_equal_images_are_stored_once() -> None:
    """`places` has the index of the image at each place: a tree row has the images of a group once, plain rows have
    them once per response."""
    groups = [with_images(encoded_group(2, [2, 1]), images=1, fill=1.0), encoded_group(2, [1])]
    groups[1] = replace(groups[1], positions=groups[1].positions.expand(3, -1))
    groups.append(with_images(encoded_group(2, [1, 1, 1]), images=2, fill=2.0))
    batches = {layout: collate(groups, layout=layout, pad_id=99) for layout in ("tree", "plain")}
    for batch, places in ((batches["tree"], (0, 1, 1)), (batches["plain"], (0, 0, 1, 1, 1, 1, 1, 1))):
        assert batch.images.pixels is not None
        assert batch.images.pixels.values[::4, 0].tolist() == [1, 2]
        assert batch.images.grids == ((1, 2, 2),) * 2
        assert batch.images.places == places


def test_text_batch_has_no_images() -> None:
    """Pixels and grids are None."""
    batch = collate(two_groups(), layout="tree", pad_id=99)
    assert batch.images.pixels is None
    assert batch.images.grids == ()


def test_batch_without_preferences_has_empty_tensors() -> None:
    """Scoring needs no preferences: the tensors are empty and have their dtypes."""
    batch = collate([encoded_group(2, [1, 2], ())], layout="tree", pad_id=99)
    pairs = batch.preferences
    assert {pairs.winner.dtype, pairs.loser.dtype, pairs.group.dtype} == {torch.int64}
    assert (pairs.weight.dtype, pairs.margin.dtype, pairs.tie.dtype) == (torch.float32, torch.float32, torch.bool)
    assert {len(pairs.winner), len(pairs.weight), len(pairs.margin), len(pairs.tie)} == {0}


def leaves(record: Any) -> Iterator[Any]:
    """Yield the values of a batch and of the dataclasses in it."""
    for entry in fields(record):
        value = getattr(record, entry.name)
        if is_dataclass(value):
            yield from leaves(value)
        else:
            yield value


def test_batch_moves_to_a_device() -> None:
    """All tensors are on the device, and all other values are unchanged."""
    groups = [with_images(group, images=1, fill=1.0) for group in two_groups()]
    batch = collate(groups, layout="plain", pad_id=99)
    moved = batch.to("meta")
    pairs = list(zip(leaves(batch), leaves(moved), strict=True))
    assert sum(isinstance(before, Tensor) for before, _ in pairs) == 16
    for before, after in pairs:
        if isinstance(before, Tensor):
            assert (before.device.type, after.device.type, after.shape) == ("cpu", "meta", before.shape)
        else:
            assert after == before


def test_batch_can_be_pickled() -> None:
    """Loader processes pickle batches; every field is equal afterwards."""
    batch = collate([with_images(group, images=1, fill=1.0) for group in two_groups()], layout="tree", pad_id=99)
    unpickled = pickle.loads(pickle.dumps(batch))  # noqa: S301 (our own bytes)
    for before, after in zip(leaves(batch), leaves(unpickled), strict=True):
        if isinstance(before, Tensor):
            torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
        else:
            assert after == before
