"""The store of image features on disk: exact values or a miss, a size limit, and safety against killed writers."""

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
SIZE = size_of(features(0))  # bytes of every record in these tests
LONG_AGO = 10**6  # seconds


def unused_since(file: Path, *, seconds: float) -> None:
    """Set the times of a record to `seconds` ago."""
    timestamp = time.time() - seconds
    os.utime(file, (timestamp, timestamp))


def fill(folder: Path, numbers: range) -> None:
    """Keep features as an earlier run did, with increasing times of last use."""
    store = store_of(folder)
    for number in numbers:
        assert store.keep(key(number), features(number))
        unused_since(store.file(key(number)), seconds=LONG_AGO - number)


def replace_content(file: Path, content: bytes | bytearray) -> None:
    """Replace a file by a new one with this content."""
    file.unlink()
    file.write_bytes(content)


# One record.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("states", [1, 4])
def test_features_are_read_bit_for_bit(dtype: torch.dtype, states: int, tmp_path: Path) -> None:
    """NaN, infinities and -0 included, for every dtype and number of states."""
    expected = features(0, states=states, dtype=dtype)
    expected.states[0, 0, :4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0], dtype=dtype)
    store_of(tmp_path).keep(key(0), expected)
    assert same(store_of(tmp_path).find(key(0)), expected)


def test_non_contiguous_tensor_is_kept(tmp_path: Path) -> None:
    """A strided slice that requires a gradient is stored with its own values."""
    wide = features(0, width=16)
    part = Features(wide.states[:, :, ::2].requires_grad_(), wide.grids, wide.tokens)
    store_of(tmp_path).keep(key(0), part)
    stored = store_of(tmp_path).find(key(0))
    assert stored is not None
    assert torch.equal(stored.states, wide.states[:, :, ::2].detach())


def test_a_record_with_one_bit_changed_is_a_miss(tmp_path: Path) -> None:
    """One bit is changed in each byte of the record in turn."""
    store = store_of(tmp_path)
    store.keep(key(0), features(0, states=1, width=2))
    file = store.file(key(0))
    content = file.read_bytes()
    for offset in range(len(content)):
        changed = bytearray(content)
        changed[offset] ^= 1 << offset % 8
        replace_content(file, changed)
        assert store.find(key(0)) is None, f"byte {offset}"
    replace_content(file, content)
    assert same(store.find(key(0)), features(0, states=1, width=2))


def test_a_record_that_is_cut_or_too_long_is_a_miss(tmp_path: Path) -> None:
    """Every shorter length, and one byte more."""
    store = store_of(tmp_path)
    store.keep(key(0), features(0, states=1, width=2))
    file = store.file(key(0))
    content = file.read_bytes()
    for end in range(len(content)):
        replace_content(file, content[:end])
        assert store.find(key(0)) is None, f"{end} bytes"
    replace_content(file, content + b"\0")
    assert store.find(key(0)) is None


def test_foreign_content_is_a_miss_and_can_be_replaced(tmp_path: Path) -> None:
    """The record of another key, text, zeros, random bytes and a folder are a miss. `keep` replaces the files."""
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


# Keys of images.


def test_keys_differ_by_content_and_setting(tmp_path: Path) -> None:
    """Keys are equal only for equal file bytes, or equal pixels with the same mode and size."""
    grey = bytes(range(48))
    images: list[bytes | PIL.Image.Image] = [
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
    keys = [store.key(image) for image in images]
    assert len(set(keys)) == len(keys)
    repeated_keys = [store.key(image if isinstance(image, bytes) else image.copy()) for image in images]
    assert repeated_keys == keys
    other_store = store_of(tmp_path, setting="another tower")
    assert not set(keys).intersection(map(other_store.key, images))


# The size limit.


def test_size_limit_is_never_exceeded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run with more images than fit keeps the first ones for its next epoch, and logs this once."""
    store = store_of(tmp_path, size=5 * SIZE + SIZE // 2)
    was_kept = []
    for number in range(9):
        was_kept.append(store.keep(key(number), features(number)))
        assert on_disk(tmp_path) == min(number + 1, 5) * SIZE
    assert was_kept == [True] * 5 + [False] * 4
    assert [same(store.find(key(number)), features(number)) for number in range(9)] == was_kept
    assert caplog.text.count("data.encoding.feature_cache") == 1


def test_record_of_exactly_the_limit_fits(tmp_path: Path) -> None:
    """One byte less is not enough."""
    assert not store_of(tmp_path, size=SIZE - 1).keep(key(0), features(0))
    assert on_disk(tmp_path) == 0
    assert store_of(tmp_path, size=SIZE).keep(key(0), features(0))
    assert on_disk(tmp_path) == SIZE


def test_least_recently_used_records_are_removed(tmp_path: Path) -> None:
    """Of four old records, one is read before the first write and one after it. The other two are removed, the oldest
    first."""
    fill(tmp_path, range(4))
    store = store_of(tmp_path, size=4 * SIZE)
    assert same(store.find(key(0)), features(0))  # the oldest record
    assert store.keep(key(10), features(10))
    assert [store.file(key(number)).exists() for number in (0, 1, 2, 3, 10)] == [True, False, True, True, True]
    assert same(store_of(tmp_path).find(key(2)), features(2))  # used by another run
    assert store.keep(key(11), features(11))
    assert [store.file(key(number)).exists() for number in (0, 2, 3, 10, 11)] == [True, True, False, True, True]
    assert not store.keep(key(12), features(12))
    assert on_disk(tmp_path) == 4 * SIZE


def test_lower_limit_takes_effect_at_the_first_write(tmp_path: Path) -> None:
    """The most recently used of the old records stay."""
    fill(tmp_path, range(6))
    store = store_of(tmp_path, size=3 * SIZE)
    assert store.keep(key(10), features(10))
    assert [store.file(key(number)).exists() for number in range(6)] == [False] * 4 + [True] * 2
    assert on_disk(tmp_path) == 3 * SIZE


def test_limit_counts_all_settings(tmp_path: Path) -> None:
    """Records of another vision tower count, and are removed to make room."""
    fill(tmp_path, range(3))
    store = store_of(tmp_path, size=3 * SIZE, setting="another tower")
    image_key = store.key(b"a picture")
    assert store.keep(image_key, features(0))
    assert on_disk(tmp_path) == 3 * SIZE
    assert not store.file(key(0)).exists()


def test_rewritten_record_counts_once(tmp_path: Path) -> None:
    """The total is right even where the second record has another size."""
    store = store_of(tmp_path, size=3 * SIZE)
    for _ in range(5):
        assert store.keep(key(0), features(0))
    assert store.keep(key(0), features(0, states=1))
    assert on_disk(tmp_path) < SIZE
    assert store.keep(key(1), features(1))
    assert store.keep(key(2), features(2))
    assert same(store.find(key(0)), features(0, states=1))


@pytest.mark.parametrize("total", [b"", b"0" * 20, b"9" * 20, b"not a number"])
def test_wrong_total_is_recounted(total: bytes, tmp_path: Path) -> None:
    """The next run counts the records themselves."""
    fill(tmp_path, range(3))
    (tmp_path / TOTAL).write_bytes(total)
    store = store_of(tmp_path, size=4 * SIZE)
    for number in range(10, 20):
        store.keep(key(number), features(number))
        assert on_disk(tmp_path) <= 4 * SIZE
    assert int((tmp_path / TOTAL).read_bytes()) == on_disk(tmp_path) == 4 * SIZE


def test_unwritable_folder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file is in the place of the folder: nothing is kept or found, and no error is raised."""
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


def test_concurrent_writers_leave_whole_records(tmp_path: Path) -> None:
    """Two processes write the same records in opposite order, and a third is killed. A reader sees correct features or
    a miss, and the total equals the size of the files."""
    ascending = process(WRITE, tmp_path, 2**20, 0, 400, 1)
    descending = process(WRITE, tmp_path, 2**20, 399, -1, -1)
    killed = process(WRITE, tmp_path, 2**20, 200, 400, 1)
    reader = store_of(tmp_path)
    go(ascending, descending, killed)
    num_hits = 0
    for round_ in range(10**6):
        if round_ == 30:
            killed.kill()
        stored = reader.find(key(round_ % 400))
        assert stored is None or same(stored, features(round_ % 400))
        num_hits += stored is not None
        if round_ > 30 and ascending.poll() is not None and descending.poll() is not None:
            break
    for writer in (ascending, descending, killed):
        writer.communicate()
    assert (ascending.returncode, descending.returncode, killed.returncode) == (0, 0, -signal.SIGKILL)
    assert num_hits
    assert all(same(reader.find(key(number)), features(number)) for number in range(400))
    store = store_of(tmp_path)
    assert store.keep(key(400), features(400))
    assert int((tmp_path / TOTAL).read_bytes()) == on_disk(tmp_path) == 401 * SIZE


def test_concurrent_writers_stay_within_the_limit(tmp_path: Path) -> None:
    """Each process writes more than fits, and both must remove old records."""
    fill(tmp_path, range(1000, 1050))
    writers = [process(WRITE, tmp_path, 60 * SIZE, first, first + 100, 1) for first in (0, 100)]
    go(*writers)
    while any(writer.poll() is None for writer in writers):
        # Only the total is consistent. A list of files may hold a removed file beside its successor.
        assert int((tmp_path / TOTAL).read_bytes()) <= 60 * SIZE
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    reader = store_of(tmp_path)
    kept_numbers = [number for number in range(200) if same(reader.find(key(number)), features(number))]
    assert len(kept_numbers) == 60
    assert on_disk(tmp_path) == 60 * SIZE


# Where a writer stops, to be killed there.
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
def test_killed_writer_leaves_a_working_store(where: str, tmp_path: Path) -> None:
    """No other record is lost or wrong, a concurrent writer keeps the limit, and the next one removes leftover
    files."""
    concurrent = store_of(tmp_path, size=10 * SIZE)
    assert concurrent.keep(key(100), features(100))
    writer = process(STOP + STOPS[where] + "\nstore.keep(key(3), features(3))", tmp_path)
    go(writer)
    assert said(writer) == "stopped"
    writer.kill()
    writer.communicate()
    for number in range(101, 120):
        concurrent.keep(key(number), features(number))
        assert on_disk(tmp_path) <= 10 * SIZE
    next_store = store_of(tmp_path, size=30 * SIZE)
    assert all(same(next_store.find(key(number)), features(number)) for number in (0, 1, 2, 100, 101))
    assert next_store.find(key(3)) is None or same(next_store.find(key(3)), features(3))
    assert next_store.keep(key(3), features(3))
    assert next_store.keep(key(4), features(4))
    assert all(same(next_store.find(key(number)), features(number)) for number in (3, 4))
    assert all(file.stat().st_size == SIZE for file in records(tmp_path))
    assert int((tmp_path / TOTAL).read_bytes()) == on_disk(tmp_path)


def test_files_of_the_earlier_format_are_ignored_and_removed(tmp_path: Path) -> None:
    """Old files without a suffix and unfinished ones are never read, and the first write removes them."""
    old = tmp_path / key(0)[:2] / key(0)
    old.parent.mkdir()
    for file in (old, old.with_suffix(".part")):
        file.write_bytes(b"brfeat01" + bytes(1000))
    store = store_of(tmp_path, size=2 * SIZE)
    assert store.find(key(0)) is None
    assert [store.keep(key(number), features(number)) for number in (1, 2)] == [True, True]
    assert sorted(records(tmp_path)) == sorted(store.file(key(number)) for number in (1, 2))
