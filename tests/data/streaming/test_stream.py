"""Streamed sources: their shares, their order, and the report of rows that cannot be used."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import Encoder
from basereward.data.schema.group import Group, RejectedRow, Split
from basereward.data.sources.jsonl import Jsonl
from basereward.data.sources.numbers import Numbers
from basereward.data.streaming.micro_batches import StreamedMicroBatches
from basereward.data.streaming.stream import GroupStream, StreamHead, StreamItem, StreamPosition
from basereward.data.streaming.streamed_module import StreamedData
from basereward.errors import DataError, TooManyRowsLost
from tests.helpers.support import group, pair_rows, write_rows


class Listed:
    """A stream of `number` groups, with a rejected row after each index in `rejected_after`."""

    def __init__(self, name: str, number: int, *, rejected_after: tuple[int, ...] = ()) -> None:
        self.name = name
        self.number = number
        self.lost_after = rejected_after

    def stream(self, split: Split) -> Iterator[StreamItem]:
        for i in range(self.number if split == "train" else 0):
            yield group(name=f"{self.name}-{i}")
            if i in self.lost_after:
                yield RejectedRow(self.name, split, f"lost-{i}", "not_rated", "no rating")


def groups_of(stream: GroupStream, num_groups: int) -> list[str]:
    """Return the ids of the first groups."""
    return [item.id for item in islice((item for item in stream if isinstance(item, Group)), num_groups)]


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 0.7, "b": 0.3},
        {"a": 1.0, "b": 1.0, "c": 1.0},
        {"large": 0.9} | {f"small-{i}": 0.01 for i in range(10)},
        {"a": 5.0, "none": 0.0, "b": 2.0},
    ],
    ids=["two", "thirds", "one-and-ten-small", "one-left-out"],
)
def test_shares_hold_for_every_prefix_of_the_stream(weights: Mapping[str, float]) -> None:
    """Among the first N groups, for every N, the count of each source differs from its share by less than one group."""
    stream = GroupStream({name: Listed(name, 7) for name in weights}, weights=weights, buffer=3)
    counts: Counter[str] = Counter()
    for number, name in enumerate(groups_of(stream, 500), start=1):
        counts[name.rpartition("-")[0]] += 1
        for source, weight in weights.items():
            assert abs(counts[source] - number * weight / sum(weights.values())) < 1 + 1e-9
    assert set(counts) == {name for name, weight in weights.items() if weight}


def test_weights_must_not_all_be_zero() -> None:
    """The error says that all weights are 0."""
    with pytest.raises(DataError, match="all 0"):
        GroupStream({"a": Listed("a", 3)}, weights={"a": 0.0})


@pytest.mark.parametrize("buffer", [1, 4, 100])
def test_ended_source_starts_again(buffer: int) -> None:
    """Every pass has every group once, with a buffer in another order each time; another seed gives another order."""
    stream = GroupStream({"a": Listed("a", 20)}, buffer=buffer)
    ids = groups_of(stream, 60)
    passes = [ids[i : i + 20] for i in (0, 20, 40)]
    all_ids = [f"a-{i}" for i in range(20)]
    assert all(sorted(ids_of_pass) == sorted(all_ids) for ids_of_pass in passes)
    if buffer == 1:
        assert passes == [all_ids] * 3
    else:
        assert passes[0] != passes[1] != passes[2] != all_ids
        assert groups_of(GroupStream({"a": Listed("a", 20)}, buffer=buffer, seed=1), 20) != passes[0]
    assert groups_of(stream, 60) == ids


def test_rejected_rows_are_reported_in_the_first_pass_only() -> None:
    """Three passes over two sources of 5 groups and 2 rejected rows each; every row counts once."""
    sources = {name: Listed(name, 5, rejected_after=(0, 3)) for name in "ab"}
    position = StreamPosition()
    items = list(islice(GroupStream(sources, buffer=2).items(position), 34))
    assert Counter(item.source for item in items if isinstance(item, RejectedRow)) == {"a": 2, "b": 2}
    assert position.rows == {"a": 7, "b": 7}
    assert position.ended == {"a", "b"}


def test_source_without_groups_is_an_error() -> None:
    """Otherwise it would be read for ever. Reading the held-out groups raises it too."""
    with pytest.raises(DataError, match="source 'a' has no group that can be trained on"):
        next(iter(GroupStream({"a": Listed("a", 0)})))
    with pytest.raises(DataError, match="source 'a' has no group that can be trained on"):
        StreamHead(Listed("a", 0), rows=3)


def rows_with_faults(folder: Path, num_rows: int, *, num_faulty: int) -> Path:
    """Write pairs with images. From row 10 on, every third row is faulty: blank, not JSON, or without its image."""
    rows: list[Any] = pair_rows(num_rows, folder=folder)
    for fault in range(num_faulty):
        index = 10 + 3 * fault
        if fault % 3 == 0:
            rows[index]["chosen"][0]["content"] = " "
        elif fault % 3 == 1:
            rows[index] = "not JSON"
        else:
            (folder / f"{index}.png").unlink()
    return write_rows(folder / "pairs.jsonl", rows)


def streamed(source: Any, encoder: Encoder, folder: Path, **settings: Any) -> StreamedData:
    """Return streamed data of thirty steps, each with two micro-batches of two groups."""
    defaults = {"steps": 30, "groups": 4, "groups_per_forward": 2, "buffer": 10, "held_out": 5, "max_lost": 0.5}
    sources = source if isinstance(source, dict) else {"mine": source}
    return StreamedData(sources, encoder=encoder, rejections_file=folder / "lost.jsonl", **(defaults | settings))


def micro_batches_of(data: StreamedData, **where: Any) -> list[TreeBatch]:
    """Return the micro-batches of the first stage."""
    return list(data.stage_loader(0, **where))


@pytest.fixture
def faulty(tmp_path: Path) -> Jsonl:
    """60 rows, nine of which cannot be used."""
    return Jsonl("mine", path=str(rows_with_faults(tmp_path, 60, num_faulty=9)), val=0.1, test=0.1)


def test_workers_do_not_change_the_micro_batches(faulty: Jsonl, small_encoder: Encoder, tmp_path: Path) -> None:
    """With 0, 1, 2 and 3 worker processes, every micro-batch has the same groups, tokens and rejected rows."""
    data = streamed(faulty, small_encoder, tmp_path)
    data.setup()
    contents = []
    for workers in range(4):
        data.workers = workers
        batches = micro_batches_of(data, done=3)
        contents.append(
            [
                (b.ids, b.rows.input_ids.tolist(), [row.id for row in b.stream.rejected], b.stream.position)
                for b in batches
            ]
        )
    assert len(contents[0]) == 57
    assert contents[1] == contents[2] == contents[3] == contents[0]


def test_resumed_stage_has_the_length_of_the_whole(faulty: Jsonl, small_encoder: Encoder, tmp_path: Path) -> None:
    """Lightning counts whole stages: the loader has the length of the stage and yields the rest of it."""
    data = streamed(faulty, small_encoder, tmp_path, stages=3)
    data.setup()
    all_ids = [batch.ids for stage in range(3) for batch in data.stage_loader(stage)]
    assert len(all_ids) == 60
    loader = data.stage_loader(1, done=26)
    assert len(loader) == 20
    assert [batch.ids for batch in loader] == all_ids[26:40]


def test_ranks_share_the_micro_batches(faulty: Jsonl, small_encoder: Encoder, tmp_path: Path) -> None:
    """Two ranks together read the groups of a single one in its order, and report each rejected row once."""
    one_rank = streamed(faulty, small_encoder, tmp_path)
    two_ranks = streamed(faulty, small_encoder, tmp_path, ranks=2)
    all_batches, first, second = (
        micro_batches_of(one_rank),
        micro_batches_of(two_ranks, rank=0),
        micro_batches_of(two_ranks, rank=1),
    )
    assert len(first) == len(second) == 30
    assert [micro_batch.ids for pair in zip(first, second, strict=True) for micro_batch in pair] == [
        micro_batch.ids for micro_batch in all_batches
    ]
    reported = [row.id for batch in [*first, *second] for row in batch.stream.rejected if row.reason != "image_missing"]
    assert sorted(reported) == sorted(
        {row.id for batch in all_batches for row in batch.stream.rejected if row.reason != "image_missing"}
    )
    assert len(reported) == len(set(reported)) > 0


def test_rejections_file_lists_each_row_once(faulty: Jsonl, small_encoder: Encoder, tmp_path: Path) -> None:
    """Three passes over the rows, held-out parts included. A resumed run continues the file, even if its last line is
    incomplete because the run was killed."""
    data = streamed(faulty, small_encoder, tmp_path, held_out=100)
    data.setup()
    for batch in data.stage_loader(0):
        data.count(batch)
    assert data.skipped == {"mine": {"empty_response": 3, "malformed_json": 3, "image_missing": 3}}
    file = tmp_path / "lost.jsonl"
    listed = [RejectedRow(**json.loads(line)) for line in file.read_text().splitlines()]
    assert sorted(row.id for row in listed) == sorted(row.id for row in data.rejected)
    assert len(listed) == 9

    file.write_text(file.read_text()[:-20])
    resumed = streamed(faulty, small_encoder, tmp_path, held_out=100)
    resumed.setup()
    for batch in resumed.stage_loader(0, done=30):
        resumed.count(batch)
    assert {row.id for row in resumed.rejected} <= {row.id for row in listed}
    assert len(resumed.rejected) >= 8
    assert len(file.read_text().splitlines()) == len(resumed.rejected)


def test_held_out_groups_are_never_trained_on(small_encoder: Encoder, tmp_path: Path) -> None:
    """The splits are those of a source that is not streamed, even where fewer groups are validated than held out."""
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", pair_rows(120))), val=0.2, test=0.2)
    data = streamed(source, small_encoder, tmp_path, steps=60)
    data.setup()
    trained_ids = {group_id for batch in data.stage_loader(0) for group_id in batch.ids}
    assert trained_ids == {group.id for group in source.groups("train")}
    for split in ("val", "test"):
        held_out_ids = [data.parts[split][place].id for place in data.parts[split].places]
        assert held_out_ids == [group.id for group in source.groups(split)][:5]


def test_empty_held_out_split_is_not_searched(small_encoder: Encoder, tmp_path: Path) -> None:
    """With shares of 0, a malformed last row is not read."""
    rows = [*pair_rows(10), "not JSON"]
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    assert list(source.stream("val")) == []
    data = streamed(source, small_encoder, tmp_path)
    data.setup()
    assert len(data.parts["val"]) == len(data.parts["test"]) == 0
    assert data.rejected == []


@pytest.mark.parametrize("held_out", [0.0, 0.1])
def test_malformed_table_stops_before_training(held_out: float, small_encoder: Encoder, tmp_path: Path) -> None:
    """After the first hundred rows, whatever `max_lost` allows; the error lists the faults."""
    rows = ["not JSON"] * 100 + pair_rows(10)
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=held_out, test=0)
    with pytest.raises(DataError, match=r"20 or more malformed rows:\n.*rows\.jsonl:1"):
        streamed(source, small_encoder, tmp_path, max_lost=1.0).setup()


def test_source_without_a_stream_is_an_error(small_encoder: Encoder, tmp_path: Path) -> None:
    """The error names the source and the setting to change."""
    with pytest.raises(DataError, match=r"source 'numbers' cannot be streamed; .* data\.streaming"):
        streamed({"numbers": Numbers("numbers")}, small_encoder, tmp_path)


def count_all(data: StreamedData, *, done: int = 0) -> None:
    """Count the rejected rows of every batch, as training does."""
    data.setup()
    for batch in data.stage_loader(0, done=done):
        data.count(batch)


def test_short_stream_with_too_many_rejected_rows_stops(faulty: Jsonl, small_encoder: Encoder, tmp_path: Path) -> None:
    """9 of 60 rows: their share is checked when the stream ends for the first time. Later passes do not dilute it."""
    with pytest.raises(TooManyRowsLost, match=r"9 of 60 rows \(15\.00%\)"):
        count_all(streamed(faulty, small_encoder, tmp_path, held_out=100, max_lost=0.14))
    (tmp_path / "lost.jsonl").unlink()
    count_all(streamed(faulty, small_encoder, tmp_path, held_out=100, max_lost=0.15))


def test_too_many_rejected_rows_of_the_first_thousand_stop_at_once(small_encoder: Encoder, tmp_path: Path) -> None:
    """Three of the first rows are malformed, where 0.002 allows two of a thousand."""
    rows: list[Any] = pair_rows(1200)
    rows[4] = rows[6] = rows[9] = "not JSON"
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    data = streamed(source, small_encoder, tmp_path, max_lost=0.002, buffer=1)
    with pytest.raises(TooManyRowsLost, match=r"3 of 1[0-9] rows"):
        count_all(data)


def test_resumed_run_divides_by_all_rows(small_encoder: Encoder, tmp_path: Path) -> None:
    """The share of rejected rows is over all rows since the first step, not since the resume."""
    rows: list[Any] = pair_rows(1500)
    for index in range(5, 1500, 150):
        rows[index] = "not JSON"
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    settings = {"steps": 310, "max_lost": 0.01, "buffer": 1, "groups_per_forward": 4}
    count_all(streamed(source, small_encoder, tmp_path, **settings))
    resumed = streamed(source, small_encoder, tmp_path, **settings)
    count_all(resumed, done=300)
    assert resumed.skipped == {"mine": {"malformed_json": 9}}
    assert resumed.stream_position.rows["mine"] > 1200


def test_unusable_group_is_replaced_by_the_next(small_encoder: Encoder, tmp_path: Path) -> None:
    """One missing image does not stop a run of one group per micro-batch. The row is listed, and the next micro-batches
    do not change."""
    rows = pair_rows(12, folder=tmp_path)
    for index in (0, 5, 6):
        (tmp_path / f"{index}.png").unlink()
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    data = streamed(source, small_encoder, tmp_path, groups=1, groups_per_forward=1, steps=12, buffer=1)
    data.setup()
    batches = micro_batches_of(data)
    order = [1, 1, 2, 3, 4, 7, 7, 7, 8, 9, 10, 11]
    assert [batch.ids for batch in batches] == [[f"row-{i}"] for i in order]
    assert [row.id for batch in batches for row in batch.stream.rejected] == ["row-0", "row-5", "row-6"]


def test_run_stops_if_no_image_exists(small_encoder: Encoder, tmp_path: Path) -> None:
    """The error gives the first rows and their reasons."""
    rows = [row | {"images": ["gone.png"]} for row in pair_rows(150)]
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    data = streamed(source, small_encoder, tmp_path)
    data.setup()
    with pytest.raises(
        DataError, match=r"none of 100 consecutive groups can be used; the first ones:\n  row-.*image_missing"
    ):
        micro_batches_of(data)


def test_micro_batches_have_the_shares_of_the_sources(small_encoder: Encoder) -> None:
    """Each micro-batch has eight groups, three quarters of them of one source."""
    sources = {name: Listed(name, 11) for name in "ab"}
    stream = GroupStream(sources, weights={"a": 3.0, "b": 1.0}, buffer=4)
    micro_batches = StreamedMicroBatches(stream, encoder=small_encoder, layout="tree", groups=8, forwards=range(6))
    for batch in micro_batches:
        assert Counter(name[0] for name in batch.ids) == {"a": 6, "b": 2}
