"""Sources read from beginning to end: their shares, their order, and what is told of rows that cannot be used."""

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
    """A stream of the given number of groups, after each of the places in `lost` a row that is none."""

    def __init__(self, name: str, number: int, *, lost: tuple[int, ...] = ()) -> None:
        self.name = name
        self.number = number
        self.lost_after = lost

    def stream(self, split: Split) -> Iterator[StreamItem]:
        for i in range(self.number if split == "train" else 0):
            yield group(name=f"{self.name}-{i}")
            if i in self.lost_after:
                yield RejectedRow(self.name, split, f"lost-{i}", "not_rated", "no rating")


def groups_of(stream: GroupStream, number: int) -> list[str]:
    """The ids of the first groups."""
    return [item.id for item in islice((item for item in stream if isinstance(item, Group)), number)]


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
def test_at_every_moment_each_source_has_its_share(weights: Mapping[str, float]) -> None:
    """Of the first N groups, for every N, each source has its part to within less than one group."""
    stream = GroupStream({name: Listed(name, 7) for name in weights}, weights=weights, buffer=3)
    seen: Counter[str] = Counter()
    for number, name in enumerate(groups_of(stream, 500), start=1):
        seen[name.rpartition("-")[0]] += 1
        for source, weight in weights.items():
            assert abs(seen[source] - number * weight / sum(weights.values())) < 1 + 1e-9
    assert set(seen) == {name for name, weight in weights.items() if weight}


def test_weights_of_which_all_are_zero_are_refused() -> None:
    """There would be nothing to draw."""
    with pytest.raises(DataError, match="all 0"):
        GroupStream({"a": Listed("a", 3)}, weights={"a": 0.0})


@pytest.mark.parametrize("buffer", [1, 4, 100])
def test_a_source_that_ends_begins_anew_and_loses_nothing(buffer: int) -> None:
    """Every turn has every group once, and with a buffer each in another order; another seed draws otherwise."""
    stream = GroupStream({"a": Listed("a", 20)}, buffer=buffer)
    ids = groups_of(stream, 60)
    turns = [ids[i : i + 20] for i in (0, 20, 40)]
    everything = [f"a-{i}" for i in range(20)]
    assert all(sorted(turn) == sorted(everything) for turn in turns)
    if buffer == 1:
        assert turns == [everything] * 3
    else:
        assert turns[0] != turns[1] != turns[2] != everything
        assert groups_of(GroupStream({"a": Listed("a", 20)}, buffer=buffer, seed=1), 20) != turns[0]
    assert groups_of(stream, 60) == ids


def test_lost_rows_are_told_once_and_met_rows_counted_once() -> None:
    """In three turns of two sources of 5 groups and 2 lost rows each."""
    sources = {name: Listed(name, 5, lost=(0, 3)) for name in "ab"}
    met = StreamPosition()
    items = list(islice(GroupStream(sources, buffer=2).items(met), 34))
    assert Counter(item.source for item in items if isinstance(item, RejectedRow)) == {"a": 2, "b": 2}
    assert met.rows == {"a": 7, "b": 7}
    assert met.ended == {"a", "b"}


def test_a_source_without_a_group_to_train_on_is_an_error() -> None:
    """Rather than being read for ever; it is found when the held-out groups are read."""
    with pytest.raises(DataError, match="source 'a' has no group that can be trained on"):
        next(iter(GroupStream({"a": Listed("a", 0)})))
    with pytest.raises(DataError, match="source 'a' has no group that can be trained on"):
        StreamHead(Listed("a", 0), rows=3)


def rows_with_faults(folder: Path, number: int, *, faulty: int) -> Path:
    """Pairs with pictures; from the eleventh on every third of so many is blank, not JSON, or lacks its picture."""
    rows: list[Any] = pair_rows(number, folder=folder)
    for fault in range(faulty):
        place = 10 + 3 * fault
        if fault % 3 == 0:
            rows[place]["chosen"][0]["content"] = " "
        elif fault % 3 == 1:
            rows[place] = "not JSON"
        else:
            (folder / f"{place}.png").unlink()
    return write_rows(folder / "pairs.jsonl", rows)


def streamed(source: Any, encoder: Encoder, folder: Path, **settings: Any) -> StreamedData:
    """Thirty steps of two passes of two groups."""
    given = {"steps": 30, "groups": 4, "groups_per_forward": 2, "buffer": 10, "held_out": 5, "max_lost": 0.5}
    sources = source if isinstance(source, dict) else {"mine": source}
    return StreamedData(sources, encoder=encoder, rejections_file=folder / "lost.jsonl", **(given | settings))


def passes_of(data: StreamedData, **where: Any) -> list[TreeBatch]:
    """Those of the first stage."""
    return list(data.stage_loader(0, **where))


@pytest.fixture
def faulty(tmp_path: Path) -> Jsonl:
    """60 rows of which nine cannot be used."""
    return Jsonl("mine", path=str(rows_with_faults(tmp_path, 60, faulty=9)), val=0.1, test=0.1)


def test_workers_do_not_change_the_passes(faulty: Jsonl, small_encoder: Encoder, tmp_path: Path) -> None:
    """With 0, 1, 2 and 3 processes: the same groups, tokens and lost rows, pass by pass."""
    data = streamed(faulty, small_encoder, tmp_path)
    data.setup()
    found = []
    for workers in range(4):
        data.workers = workers
        batches = passes_of(data, done=3)
        found.append(
            [
                (b.ids, b.rows.input_ids.tolist(), [row.id for row in b.stream.rejected], b.stream.position)
                for b in batches
            ]
        )
    assert len(found[0]) == 57
    assert found[1] == found[2] == found[3] == found[0]


def test_a_stage_that_goes_on_is_counted_whole(faulty: Jsonl, small_encoder: Encoder, tmp_path: Path) -> None:
    """As Lightning counts: the loader is as long as the stage, and gives what is left of it."""
    data = streamed(faulty, small_encoder, tmp_path, stages=3)
    data.setup()
    whole = [batch.ids for stage in range(3) for batch in data.stage_loader(stage)]
    assert len(whole) == 60
    loader = data.stage_loader(1, done=26)
    assert len(loader) == 20
    assert [batch.ids for batch in loader] == whole[26:40]


def test_ranks_share_the_passes(faulty: Jsonl, small_encoder: Encoder, tmp_path: Path) -> None:
    """Two ranks together have the groups of one that trains alone, in its order, and each lost row once."""
    alone = streamed(faulty, small_encoder, tmp_path)
    both = streamed(faulty, small_encoder, tmp_path, ranks=2)
    whole, first, second = passes_of(alone), passes_of(both, rank=0), passes_of(both, rank=1)
    assert len(first) == len(second) == 30
    assert [each.ids for pair in zip(first, second, strict=True) for each in pair] == [each.ids for each in whole]
    told = [row.id for batch in [*first, *second] for row in batch.stream.rejected if row.reason != "image_missing"]
    assert sorted(told) == sorted(
        {row.id for batch in whole for row in batch.stream.rejected if row.reason != "image_missing"}
    )
    assert len(told) == len(set(told)) > 0


def test_lost_rows_are_listed_once(faulty: Jsonl, small_encoder: Encoder, tmp_path: Path) -> None:
    """In three turns through the rows; those of the held-out parts too; and again by a run that goes on, even when the
    last line was being written when it was killed."""
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
    again = streamed(faulty, small_encoder, tmp_path, held_out=100)
    again.setup()
    for batch in again.stage_loader(0, done=30):
        again.count(batch)
    assert {row.id for row in again.rejected} <= {row.id for row in listed}
    assert len(again.rejected) >= 8
    assert len(file.read_text().splitlines()) == len(again.rejected)


def test_held_out_groups_are_never_trained_on(small_encoder: Encoder, tmp_path: Path) -> None:
    """The parts are those of a source that is not streamed, also where fewer are validated than there are."""
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", pair_rows(120))), val=0.2, test=0.2)
    data = streamed(source, small_encoder, tmp_path, steps=60)
    data.setup()
    trained = {name for batch in data.stage_loader(0) for name in batch.ids}
    assert trained == {each.id for each in source.groups("train")}
    for split in ("val", "test"):
        held_out = [data.parts[split][place].id for place in data.parts[split].places]
        assert held_out == [each.id for each in source.groups(split)][:5]


def test_a_stream_without_a_held_out_part_is_not_read_for_one(small_encoder: Encoder, tmp_path: Path) -> None:
    """Of a share of 0 only the first row is looked at, not the whole table."""
    rows = [*pair_rows(10), "not JSON"]
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    assert list(source.stream("val")) == []
    data = streamed(source, small_encoder, tmp_path)
    data.setup()
    assert len(data.parts["val"]) == len(data.parts["test"]) == 0
    assert data.rejected == []


@pytest.mark.parametrize("held_out", [0.0, 0.1])
def test_a_table_of_malformed_rows_stops_at_once(held_out: float, small_encoder: Encoder, tmp_path: Path) -> None:
    """After the first hundred, before anything is trained, whatever `max_lost` allows; the faults are listed."""
    rows = ["not JSON"] * 100 + pair_rows(10)
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=held_out, test=0)
    with pytest.raises(DataError, match=r"20 or more malformed rows:\n.*rows\.jsonl:1"):
        streamed(source, small_encoder, tmp_path, max_lost=1.0).setup()


def test_a_source_that_cannot_be_streamed_is_named(small_encoder: Encoder, tmp_path: Path) -> None:
    """With what to do."""
    with pytest.raises(DataError, match=r"source 'numbers' cannot be streamed; .* data\.streaming"):
        streamed({"numbers": Numbers("numbers")}, small_encoder, tmp_path)


def count_all(data: StreamedData, *, done: int = 0) -> None:
    """What a training would do about lost rows."""
    data.setup()
    for batch in data.stage_loader(0, done=done):
        data.count(batch)


def test_too_many_lost_rows_of_a_short_stream_stop_it(faulty: Jsonl, small_encoder: Encoder, tmp_path: Path) -> None:
    """9 of 60: when the stream has ended for the first time their share is judged, and not thinned by later turns."""
    with pytest.raises(TooManyRowsLost, match=r"9 of 60 rows \(15\.00%\)"):
        count_all(streamed(faulty, small_encoder, tmp_path, held_out=100, max_lost=0.14))
    (tmp_path / "lost.jsonl").unlink()
    count_all(streamed(faulty, small_encoder, tmp_path, held_out=100, max_lost=0.15))


def test_more_than_the_first_thousand_rows_may_lose_stop_at_once(small_encoder: Encoder, tmp_path: Path) -> None:
    """Three of the first rows, where 0.002 allows two of a thousand."""
    rows: list[Any] = pair_rows(1200)
    rows[4] = rows[6] = rows[9] = "not JSON"
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    data = streamed(source, small_encoder, tmp_path, max_lost=0.002, buffer=1)
    with pytest.raises(TooManyRowsLost, match=r"3 of 1[0-9] rows"):
        count_all(data)


def test_a_run_that_goes_on_does_not_count_its_lost_rows_against_few(small_encoder: Encoder, tmp_path: Path) -> None:
    """Losses from the beginning are set against all rows since the beginning, not against those since the resume."""
    rows: list[Any] = pair_rows(1500)
    for place in range(5, 1500, 150):
        rows[place] = "not JSON"
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    settings = {"steps": 310, "max_lost": 0.01, "buffer": 1, "groups_per_forward": 4}
    count_all(streamed(source, small_encoder, tmp_path, **settings))
    again = streamed(source, small_encoder, tmp_path, **settings)
    count_all(again, done=300)
    assert again.skipped == {"mine": {"malformed_json": 9}}
    assert again.stream_position.rows["mine"] > 1200


def test_a_pass_of_one_group_that_cannot_be_used_takes_the_next(small_encoder: Encoder, tmp_path: Path) -> None:
    """So that one missing picture does not stop a run; the row is listed, and the next passes are as they were."""
    rows = pair_rows(12, folder=tmp_path)
    for gone in (0, 5, 6):
        (tmp_path / f"{gone}.png").unlink()
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    data = streamed(source, small_encoder, tmp_path, groups=1, groups_per_forward=1, steps=12, buffer=1)
    data.setup()
    batches = passes_of(data)
    order = [1, 1, 2, 3, 4, 7, 7, 7, 8, 9, 10, 11]
    assert [batch.ids for batch in batches] == [[f"row-{i}"] for i in order]
    assert [row.id for batch in batches for row in batch.stream.rejected] == ["row-0", "row-5", "row-6"]


def test_when_no_picture_is_there_the_run_stops(small_encoder: Encoder, tmp_path: Path) -> None:
    """With the first rows and their reasons."""
    rows = [row | {"images": ["gone.png"]} for row in pair_rows(150)]
    source = Jsonl("mine", path=str(write_rows(tmp_path / "rows.jsonl", rows)), val=0, test=0)
    data = streamed(source, small_encoder, tmp_path)
    data.setup()
    with pytest.raises(
        DataError, match=r"none of 100 consecutive groups can be used; the first ones:\n  row-.*image_missing"
    ):
        passes_of(data)


def test_passes_of_two_sources_have_both_in_their_shares(small_encoder: Encoder) -> None:
    """Eight groups a pass, three quarters of one source."""
    sources = {name: Listed(name, 11) for name in "ab"}
    stream = GroupStream(sources, weights={"a": 3.0, "b": 1.0}, buffer=4)
    passes = StreamedMicroBatches(stream, encoder=small_encoder, layout="tree", groups=8, forwards=range(6))
    for batch in passes:
        assert Counter(name[0] for name in batch.ids) == {"a": 6, "b": 2}
