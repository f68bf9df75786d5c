"""Features of pictures on the disk: what was kept or nothing, within the limit, whatever becomes of the writers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import PIL.Image
import pytest
import torch

from basereward.data.images.vision_features import Features
from basereward.io.tensor_cache import TOTAL
from tests.helpers.kept_features import features, go, key, on_disk, process, records, said, same, size_of, store_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZE = size_of(features(0))  # bytes of every record here
LONG_AGO = 10**6  # seconds


def unused_since(file: Path, *, seconds: float) -> None:
    """Makes a record one that was used so long ago."""
    then = time.time() - seconds
    os.utime(file, (then, then))


def fill(folder: Path, numbers: range) -> None:
    """A finished run that kept pictures long ago, the first the longest."""
    store = store_of(folder)
    for number in numbers:
        assert store.keep(key(number), features(number))
        unused_since(store.file(key(number)), seconds=LONG_AGO - number)


def replace_content(file: Path, content: bytes | bytearray) -> None:
    """Puts a new file in the place of another."""
    file.unlink()
    file.write_bytes(content)


# The file of one record.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("states", [1, 4])
def test_what_is_read_is_what_was_kept(dtype: torch.dtype, states: int, tmp_path: Path) -> None:
    """To the bit, numbers that are none and infinite ones included; in every type and number of states."""
    expected = features(0, states=states, dtype=dtype)
    expected.states[0, 0, :4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0], dtype=dtype)
    store_of(tmp_path).keep(key(0), expected)
    assert same(store_of(tmp_path).find(key(0)), expected)


def test_a_slice_of_a_larger_tensor_is_kept_as_itself(tmp_path: Path) -> None:
    """Values that do not lie one after the other in memory, with a gradient."""
    wide = features(0, width=16)
    part = Features(wide.states[:, :, ::2].requires_grad_(), wide.grids, wide.tokens)
    store_of(tmp_path).keep(key(0), part)
    found = store_of(tmp_path).find(key(0))
    assert found is not None
    assert torch.equal(found.states, wide.states[:, :, ::2].detach())


def test_a_record_with_one_bit_changed_is_a_miss(tmp_path: Path) -> None:
    """Every byte of it, head and numbers, with one of its bits turned, each in turn."""
    store = store_of(tmp_path)
    store.keep(key(0), features(0, states=1, width=2))
    file = store.file(key(0))
    content = file.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        replace_content(file, changed)
        assert store.find(key(0)) is None, f"byte {place}"
    replace_content(file, content)
    assert same(store.find(key(0)), features(0, states=1, width=2))


def test_a_record_that_is_cut_or_too_long_is_a_miss(tmp_path: Path) -> None:
    """At every length from nothing to one byte less, and with a byte more."""
    store = store_of(tmp_path)
    store.keep(key(0), features(0, states=1, width=2))
    file = store.file(key(0))
    content = file.read_bytes()
    for end in range(len(content)):
        replace_content(file, content[:end])
        assert store.find(key(0)) is None, f"{end} bytes"
    replace_content(file, content + b"\0")
    assert store.find(key(0)) is None


def test_what_is_not_the_record_of_its_key_is_a_miss_until_it_is_kept_anew(tmp_path: Path) -> None:
    """A whole record of another picture under this one's name, a text, zeros, noise, and a folder."""
    store = store_of(tmp_path)
    store.keep(key(0), features(0))
    file = store.file(key(0))
    store.keep(key(1), features(1))
    for content in (store.file(key(1)).read_bytes(), b"features\n" * 99, bytes(SIZE), os.urandom(SIZE)):
        replace_content(file, content)
        assert store_of(tmp_path).find(key(0)) is None
        assert store_of(tmp_path).keep(key(0), features(0))
        assert same(store_of(tmp_path).find(key(0)), features(0))
    file.unlink()
    file.mkdir()
    assert store_of(tmp_path).find(key(0)) is None


# Names of pictures.


def test_every_other_picture_and_setting_has_another_name(tmp_path: Path) -> None:
    """Names are equal for equal content alone: a file, or pixels with their mode and size."""
    grey = bytes(range(48))
    pictures: list[bytes | PIL.Image.Image] = [
        grey,
        grey[::-1],
        grey + b"\0",
        b"file" + grey,
        PIL.Image.frombytes("L", (6, 8), grey),
        PIL.Image.frombytes("L", (8, 6), grey),
        PIL.Image.frombytes("L", (6, 8), grey[::-1]),
        PIL.Image.frombytes("RGB", (4, 4), grey),
    ]
    store = store_of(tmp_path)
    names = [store.key(picture) for picture in pictures]
    assert len(set(names)) == len(names)
    again = [store.key(each if isinstance(each, bytes) else each.copy()) for each in pictures]
    assert again == names
    elsewhere = store_of(tmp_path, setting="another tower")
    assert not set(names).intersection(map(elsewhere.key, pictures))


# The limit.


def test_the_folder_never_holds_more_than_the_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that has more pictures than room keeps the first ones for its next epoch, and says so once."""
    store = store_of(tmp_path, size=5 * SIZE + SIZE // 2)
    kept = []
    for number in range(9):
        kept.append(store.keep(key(number), features(number)))
        assert on_disk(tmp_path) == min(number + 1, 5) * SIZE
    assert kept == [True] * 5 + [False] * 4
    assert [same(store.find(key(number)), features(number)) for number in range(9)] == kept
    assert caplog.text.count("data.encoding.feature_cache") == 1


def test_a_record_as_large_as_the_limit_fits_and_a_larger_one_does_not(tmp_path: Path) -> None:
    """To the byte."""
    assert not store_of(tmp_path, size=SIZE - 1).keep(key(0), features(0))
    assert on_disk(tmp_path) == 0
    assert store_of(tmp_path, size=SIZE).keep(key(0), features(0))
    assert on_disk(tmp_path) == SIZE


def test_the_longest_unused_makes_room_and_what_is_used_stays(tmp_path: Path) -> None:
    """Of four old records, one is used before the first writing and one after it: the two others go, oldest first."""
    fill(tmp_path, range(4))
    store = store_of(tmp_path, size=4 * SIZE)
    assert same(store.find(key(0)), features(0))  # the oldest
    assert store.keep(key(10), features(10))
    assert [store.file(key(number)).exists() for number in (0, 1, 2, 3, 10)] == [True, False, True, True, True]
    assert same(store_of(tmp_path).find(key(2)), features(2))  # another run uses it now
    assert store.keep(key(11), features(11))
    assert [store.file(key(number)).exists() for number in (0, 2, 3, 10, 11)] == [True, True, False, True, True]
    assert not store.keep(key(12), features(12))
    assert on_disk(tmp_path) == 4 * SIZE


def test_a_lower_limit_is_met_at_the_first_writing(tmp_path: Path) -> None:
    """The newest of the old records stay."""
    fill(tmp_path, range(6))
    store = store_of(tmp_path, size=3 * SIZE)
    assert store.keep(key(10), features(10))
    assert [store.file(key(number)).exists() for number in range(6)] == [False] * 4 + [True] * 2
    assert on_disk(tmp_path) == 3 * SIZE


def test_the_limit_is_of_all_settings_together(tmp_path: Path) -> None:
    """Records of another tower count, and make room."""
    fill(tmp_path, range(3))
    store = store_of(tmp_path, size=3 * SIZE, setting="another tower")
    name = store.key(b"a picture")
    assert store.keep(name, features(0))
    assert on_disk(tmp_path) == 3 * SIZE
    assert not store.file(key(0)).exists()


def test_a_record_that_is_kept_twice_counts_once(tmp_path: Path) -> None:
    """Also where the two are of different size."""
    store = store_of(tmp_path, size=3 * SIZE)
    for _ in range(5):
        assert store.keep(key(0), features(0))
    assert store.keep(key(0), features(0, states=1))
    assert on_disk(tmp_path) < SIZE
    assert store.keep(key(1), features(1))
    assert store.keep(key(2), features(2))
    assert same(store.find(key(0)), features(0, states=1))


@pytest.mark.parametrize("total", [b"", b"0" * 20, b"9" * 20, b"not a number"])
def test_a_wrong_total_is_made_right_by_the_next_run(total: bytes, tmp_path: Path) -> None:
    """The records themselves are counted."""
    fill(tmp_path, range(3))
    (tmp_path / TOTAL).write_bytes(total)
    store = store_of(tmp_path, size=4 * SIZE)
    for number in range(10, 20):
        store.keep(key(number), features(number))
        assert on_disk(tmp_path) <= 4 * SIZE
    assert int((tmp_path / TOTAL).read_bytes()) == on_disk(tmp_path) == 4 * SIZE


def test_a_disk_that_takes_nothing_costs_time_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file lies where the folder would be: nothing is kept or found, and the log says why, once."""
    (tmp_path / "file").touch()
    store = store_of(tmp_path / "file" / "features")
    assert [store.keep(key(0), features(0)) for _ in range(3)] == [False] * 3
    assert store.find(key(0)) is None
    assert caplog.text.count(str(tmp_path / "file")) == 1


# Several processes.

WRITE = """
store, numbers = store_of(Path(sys.argv[1]), size=int(sys.argv[2])), range(*map(int, sys.argv[3:6]))
for number in numbers:
    store.keep(key(number), features(number))
    print(number, flush=True)
"""


def test_processes_that_write_at_once_leave_whole_records(tmp_path: Path) -> None:
    """Two write the same pictures from both ends, a third is killed among them; a reader meanwhile sees the features
    or nothing, and the total is that of the files."""
    forth = process(WRITE, tmp_path, 2**20, 0, 400, 1)
    back = process(WRITE, tmp_path, 2**20, 399, -1, -1)
    killed = process(WRITE, tmp_path, 2**20, 200, 400, 1)
    reader = store_of(tmp_path)
    go(forth, back, killed)
    met = 0
    for round_ in range(10**6):
        if round_ == 30:
            killed.kill()
        found = reader.find(key(round_ % 400))
        assert found is None or same(found, features(round_ % 400))
        met += found is not None
        if round_ > 30 and forth.poll() is not None and back.poll() is not None:
            break
    for each in (forth, back, killed):
        each.communicate()
    assert (forth.returncode, back.returncode, killed.returncode) == (0, 0, -signal.SIGKILL)
    assert met
    assert all(same(reader.find(key(number)), features(number)) for number in range(400))
    store = store_of(tmp_path)
    assert store.keep(key(400), features(400))
    assert int((tmp_path / TOTAL).read_bytes()) == on_disk(tmp_path) == 401 * SIZE


def test_processes_that_write_at_once_stay_within_the_limit(tmp_path: Path) -> None:
    """Each has more than there is room for, and old records are in the way of both."""
    fill(tmp_path, range(1000, 1050))
    writers = [process(WRITE, tmp_path, 60 * SIZE, first, first + 100, 1) for first in (0, 100)]
    go(*writers)
    while any(writer.poll() is None for writer in writers):
        # The total is read at one moment. A list of files is not: it may hold a removed one beside its successor.
        assert int((tmp_path / TOTAL).read_bytes()) <= 60 * SIZE
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    reader = store_of(tmp_path)
    kept = [number for number in range(200) if same(reader.find(key(number)), features(number))]
    assert len(kept) == 60
    assert on_disk(tmp_path) == 60 * SIZE


# What a writer stops in, to be killed there.
STOPS = {
    "in the midst of a file": """
import io
opened = Path.open
class Half(io.FileIO):
    def write(self, content):
        stop(super().write(content[:99]))
Path.open = lambda file, mode="r", **rest: Half(file, "x") if mode == "xb" else opened(file, mode, **rest)
""",
    "before the file has its name": "os.replace = stop",
    "after the file has its name": "replace = os.replace; os.replace = lambda *names: stop(replace(*names))",
    "before the total is written": "os.pwrite = stop",
}
STOP = """
import os, time
store = store_of(Path(sys.argv[1]))
for number in range(3):
    store.keep(key(number), features(number))
def stop(*_):
    print("stopped", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("where", STOPS)
def test_a_writer_that_is_killed_leaves_a_store_that_works(where: str, tmp_path: Path) -> None:
    """No record is lost or wrong; a process that was writing besides keeps the limit, and the next one finds nothing
    that was left behind."""
    beside = store_of(tmp_path, size=10 * SIZE)
    assert beside.keep(key(100), features(100))
    writer = process(STOP + STOPS[where] + "\nstore.keep(key(3), features(3))", tmp_path)
    go(writer)
    assert said(writer) == "stopped"
    writer.kill()
    writer.communicate()
    for number in range(101, 120):
        beside.keep(key(number), features(number))
        assert on_disk(tmp_path) <= 10 * SIZE
    after = store_of(tmp_path, size=30 * SIZE)
    assert all(same(after.find(key(number)), features(number)) for number in (0, 1, 2, 100, 101))
    assert after.find(key(3)) is None or same(after.find(key(3)), features(3))
    assert after.keep(key(3), features(3))
    assert after.keep(key(4), features(4))
    assert all(same(after.find(key(number)), features(number)) for number in (3, 4))
    assert all(file.stat().st_size == SIZE for file in records(tmp_path))
    assert int((tmp_path / TOTAL).read_bytes()) == on_disk(tmp_path)


def test_files_of_the_earlier_format_are_ignored_and_removed(tmp_path: Path) -> None:
    """Files without a suffix and unfinished ones: they are never read, and the first write removes them."""
    old = tmp_path / key(0)[:2] / key(0)
    old.parent.mkdir()
    for file in (old, old.with_suffix(".part")):
        file.write_bytes(b"brfeat01" + bytes(1000))
    store = store_of(tmp_path, size=2 * SIZE)
    assert store.find(key(0)) is None
    assert [store.keep(key(number), features(number)) for number in (1, 2)] == [True, True]
    assert sorted(records(tmp_path)) == sorted(store.file(key(number)) for number in (1, 2))
