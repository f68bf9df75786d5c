"""Tensors on disk: what was kept or nothing, whatever becomes of the writers, the files and the disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from basereward.io.tensor_cache import SUFFIX, TOTAL
from tests.helpers.cache_processes import (
    IDENTITY,
    cache_of,
    entries,
    equal,
    finish,
    key,
    other_files,
    read_line,
    run_together,
    start,
    tensors,
)

LIMITED = pytest.mark.parametrize("limited", [False, True], ids=["no limit", "limit"])


def size_of_one(folder: Path) -> int:
    """Bytes of every entry here."""
    cache = cache_of(folder / "one")
    assert cache.keep(key(1), tensors(1))
    return cache.file(key(1)).stat().st_size


# What is read.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8], ids=str)
def test_tensors_come_back_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    """Every type, no dimension and no elements, not contiguous, with a gradient, NaN, infinities and -0."""
    values = torch.arange(24).reshape(4, 6).to(dtype)
    expected = {"all": values, "part": values[:, ::2], "one": values[1, 1], "none": values[:0], "wide": values[0, ::6]}
    # An empty NumPy array may have a stride of 0.
    expected["empty"] = torch.empty(0, dtype=dtype).as_strided((0,), (0,))
    if dtype.is_floating_point:
        expected["special"] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0], dtype=dtype)
        expected["part"].requires_grad_()
    assert cache_of(tmp_path).keep(key(1), expected)
    assert equal(cache_of(tmp_path).find(key(1)), {name: tensor.detach() for name, tensor in expected.items()})


@LIMITED
def test_an_entry_is_a_safetensors_file_and_nothing_else_is_left(limited: bool, tmp_path: Path) -> None:
    """The library opens it by itself; the folder has the entry, and the lock file only with a limit."""
    cache = cache_of(tmp_path, limited=limited)
    assert cache.find(key(1)) is None
    assert cache.keep(key(1), tensors(1))
    with safe_open(cache.file(key(1)), framework="pt") as opened:
        assert equal({name: opened.get_tensor(name) for name in tensors(1)}, tensors(1))
        record = json.loads(opened.metadata()["entry"])
        assert record.keys() == {"key", "identity", "crc32"}
        assert (record["key"], record["identity"]) == (key(1), hashlib.sha256(IDENTITY.encode()).hexdigest())
    names = sorted(file.name for file in tmp_path.rglob("*") if file.is_file())
    assert names == [f"{key(1)}{SUFFIX}"] + [TOTAL] * limited


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not list the maps of a process")
def test_tensors_are_memory_mapped_and_writing_to_them_leaves_the_file(tmp_path: Path) -> None:
    """The file is among the maps of this process as long as a tensor lives; its bytes stay."""
    cache = cache_of(tmp_path)
    cache.keep(key(1), tensors(1))
    file = cache.file(key(1))
    content = file.read_bytes()
    found = cache.find(key(1))
    assert found is not None
    assert str(file) in Path("/proc/self/maps").read_text()
    found["values"][:] = 0
    assert file.read_bytes() == content
    assert equal(cache.find(key(1)), tensors(1))
    file.unlink()  # as another process does that makes room
    assert equal({"half": found["half"]}, {"half": tensors(1)["half"]})
    del found
    assert str(file) not in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not list the maps of a process")
def test_with_a_limit_tensors_are_in_memory(tmp_path: Path) -> None:
    """Another machine may delete the file to make room, which would end a process that has it mapped."""
    cache = cache_of(tmp_path, limited=True)
    cache.keep(key(1), tensors(1))
    found = cache.find(key(1))
    assert str(cache.file(key(1))) not in Path("/proc/self/maps").read_text()
    assert equal(found, tensors(1))


@pytest.mark.parametrize("wrong", ["", "ab", "../" * 22, "AB" * 32, "ab" * 32 + "\n"])
def test_a_key_that_is_no_hash_is_an_error(wrong: str, tmp_path: Path) -> None:
    """A key names a file, so that nothing but 64 hexadecimal digits is taken."""
    for call in (cache_of(tmp_path).find, cache_of(tmp_path).file, lambda name: cache_of(tmp_path).keep(name, {})):
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            call(wrong)
    assert not list(tmp_path.iterdir())


def test_a_cache_goes_to_another_process(tmp_path: Path) -> None:
    """Pickled, as a data loader does with its worker processes."""
    cache = cache_of(tmp_path, limited=True)
    cache.keep(key(1), tensors(1))
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301
    assert equal(copy.find(key(1)), tensors(1))
    assert copy.keep(key(2), tensors(2))


def test_importing_it_loads_nothing_heavy() -> None:
    """Torch and NumPy come with the first tensor."""
    code = "import sys, basereward.io.tensor_cache; print({'torch', 'numpy'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


# Files that are not what was written.


def test_one_changed_bit_anywhere_is_a_miss(tmp_path: Path) -> None:
    """Every byte of the length, of the header with its padding, and of the values with one of its bits changed."""
    cache = cache_of(tmp_path)
    expected = {"values": tensors(1)["values"][:2, :3], "half": tensors(1)["half"][:1, :3]}
    cache.keep(key(1), expected)
    file = cache.file(key(1))
    content = file.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        # A new file each time: the length of a file that is mapped must not change.
        file.unlink()
        file.write_bytes(changed)
        assert cache.find(key(1)) is None, f"byte {place}"
    file.unlink()
    file.write_bytes(content)
    assert equal(cache.find(key(1)), expected)


def test_a_file_of_another_length_is_a_miss(tmp_path: Path) -> None:
    """Cut at every length, and with bytes more."""
    cache = cache_of(tmp_path)
    cache.keep(key(1), {"values": torch.ones(5)})
    file = cache.file(key(1))
    content = file.read_bytes()
    for other in (*(content[:end] for end in range(len(content))), content + b"\0", content + bytes(4096)):
        file.unlink()
        file.write_bytes(other)
        assert cache.find(key(1)) is None, f"{len(other)} bytes"


@LIMITED
def test_a_damaged_entry_is_logged_once_a_read_and_replaced(
    limited: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A text, zeros, noise, and half of it overwritten: the log names the file, and the next write makes it right."""
    cache = cache_of(tmp_path, limited=limited)
    cache.keep(key(1), tensors(1))
    file = cache.file(key(1))
    content = file.read_bytes()
    half = len(content) // 2
    damaged = (b"text\n" * 99, bytes(len(content)), os.urandom(len(content)), content[:half] + os.urandom(half))
    for other in damaged:
        file.unlink()
        file.write_bytes(other)
        caplog.clear()
        assert cache.find(key(1)) is None
        assert [str(file) in record.getMessage() for record in caplog.records] == [True]
        assert cache.keep(key(1), tensors(1))
        assert equal(cache.find(key(1)), tensors(1))


def test_a_folder_in_place_of_an_entry_stops_writing_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a miss; a write fails, once."""
    cache = cache_of(tmp_path)
    cache.file(key(1)).mkdir(parents=True)
    assert cache.find(key(1)) is None
    caplog.clear()
    assert [cache.keep(key(number), tensors(number)) for number in (1, 2)] == [False, False]
    assert [str(tmp_path) in record.getMessage() for record in caplog.records] == [True]
    assert other_files(tmp_path) == []


def test_an_entry_of_another_key_or_identity_is_a_miss(tmp_path: Path) -> None:
    """Though it is whole: under another key's name, or written by a cache of another identity."""
    cache = cache_of(tmp_path)
    cache.keep(key(1), tensors(1))
    assert cache_of(tmp_path, identity="another").find(key(1)) is None
    other = cache.file(key(2))
    other.parent.mkdir()
    other.write_bytes(cache.file(key(1)).read_bytes())
    assert cache.find(key(2)) is None
    assert cache_of(tmp_path, identity="another").keep(key(1), tensors(3))
    assert cache.find(key(1)) is None
    assert equal(cache_of(tmp_path, identity="another").find(key(1)), tensors(3))


@LIMITED
def test_files_of_earlier_formats_are_removed_at_the_first_write(
    limited: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading leaves them. The log says how many there were; other files stay."""
    (tmp_path / "ab").mkdir()
    old = [tmp_path / "ab" / "x.old", tmp_path / "ab" / "y.old", tmp_path / "lengths.npz"]
    other = tmp_path / "ab" / "notes.txt"
    for file in (*old, other):
        file.write_bytes(b"another format")
    cache = cache_of(tmp_path, limited=limited)
    assert cache.find("ab" * 32) is None
    assert all(file.exists() for file in old)
    with caplog.at_level(logging.INFO):
        assert cache.keep(key(1), tensors(1))
        assert cache.keep(key(2), tensors(2))
    assert other_files(tmp_path) == ["notes.txt"]
    assert [
        ("3" in record.getMessage().split(), str(tmp_path) in record.getMessage()) for record in caplog.records
    ] == [(True, True)]


# Several processes.

WRITE = """
cache = cache_of(Path(sys.argv[1]), limited=sys.argv[2] == "True")
for number in range(*map(int, sys.argv[3:6])):
    assert cache.keep(key(number), tensors(number))
"""
REWRITE = """
cache = cache_of(Path(sys.argv[1]), limited=sys.argv[2] == "True")
version = int(sys.argv[3])
for number in range(150):
    assert cache.keep(key(1), tensors(1, version=version))
"""


@LIMITED
def test_processes_that_write_the_same_key_leave_a_whole_entry(limited: bool, tmp_path: Path) -> None:
    """Two write different values many times: a reader always sees one or the other, and no temporary file is left."""
    cache = cache_of(tmp_path, limited=limited)
    assert cache.keep(key(1), tensors(1))
    writers = [start(REWRITE, tmp_path, limited, version) for version in (1, 2)]
    versions = [tensors(1, version=version) for version in (0, 1, 2)]
    run_together(*writers)
    seen: set[int] = set()
    whole = misses = 0
    while any(writer.poll() is None for writer in writers):
        found = cache.find(key(1))
        if found is None:
            # The file was replaced between the two times that the library opens it; such a read is computed again.
            misses += 1
            continue
        assert any(equal(found, version) for version in versions)
        seen.add(int(found["version"]))
        whole += 1
    assert finish(*writers) == [0, 0]
    assert seen & {1, 2}
    assert whole > misses
    assert len(entries(tmp_path)) == 1
    assert other_files(tmp_path) == []


@LIMITED
def test_processes_that_write_at_once_leave_whole_entries(limited: bool, tmp_path: Path) -> None:
    """Two write the same keys from both ends, and a third is killed among them."""
    forth, back, killed = (
        start(WRITE, tmp_path, limited, *numbers) for numbers in ((0, 200, 1), (199, -1, -1), (100, 200, 1))
    )
    run_together(forth, back, killed)
    while len(entries(tmp_path)) < 50:
        time.sleep(0.001)
    killed.kill()
    assert finish(forth, back, killed) == [0, 0, -signal.SIGKILL]
    reader = cache_of(tmp_path, limited=limited)
    assert all(equal(reader.find(key(number)), tensors(number)) for number in range(200))
    assert reader.keep(key(200), tensors(200))
    assert other_files(tmp_path) == []
    if limited:
        assert int((tmp_path / TOTAL).read_bytes()) == sum(file.stat().st_size for file in entries(tmp_path))


# Where a writer stops, to be killed there.
STOPS = {
    "in the middle of a file": """
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
import time
cache = cache_of(Path(sys.argv[1]), limited=sys.argv[2] == "True")
for number in range(3):
    cache.keep(key(number), tensors(number))
def stop(*_):
    print("stopped", flush=True)
    time.sleep(60)
"""


@LIMITED
@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replaces"])
@pytest.mark.parametrize("where", STOPS)
def test_a_writer_that_is_killed_leaves_the_old_entry_or_the_new(
    where: str, replaces: bool, limited: bool, tmp_path: Path
) -> None:
    """All other entries are whole, and the next process removes what it left."""
    if where == "before the total is written" and not limited:
        pytest.skip("there is no total without a limit")
    number = 2 if replaces else 3
    write = f"cache.keep(key({number}), tensors({number}, version=1))"
    writer = start(f"{STOP}{STOPS[where]}\n{write}", tmp_path, limited)
    run_together(writer)
    assert read_line(writer) == "stopped"
    writer.kill()
    assert finish(writer) == [-signal.SIGKILL]
    after = cache_of(tmp_path, limited=limited)
    assert all(equal(after.find(key(other)), tensors(other)) for other in (0, 1))
    found = after.find(key(number))
    if where == "after the file has its name":
        assert equal(found, tensors(number, version=1))
    elif replaces:
        assert equal(found, tensors(number))
    else:
        assert found is None
    assert after.keep(key(9), tensors(9))
    assert other_files(tmp_path) == []
    if limited:
        assert int((tmp_path / TOTAL).read_bytes()) == sum(file.stat().st_size for file in entries(tmp_path))


@LIMITED
def test_writers_that_are_killed_at_any_moment_leave_whole_entries(limited: bool, tmp_path: Path) -> None:
    """Killed after some hundredths of a second, again and again."""
    for delay_s in (0.0, 0.02, 0.1):
        writer = start(WRITE, tmp_path, limited, 0, 250, 1)
        run_together(writer)
        time.sleep(delay_s)
        writer.kill()
        finish(writer)
        reader = cache_of(tmp_path, limited=limited)
        for number in range(250):
            assert not reader.file(key(number)).exists() or equal(reader.find(key(number)), tensors(number))
    assert reader.keep(key(255), tensors(255))
    assert other_files(tmp_path) == []


# The disk.

FULL = """
import logging, resource
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
cache = cache_of(Path(sys.argv[1]), limited=sys.argv[2] == "True")
assert cache.keep(key(1), tensors(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for number in (2, 3):
    assert not cache.keep(key(number), tensors(number))
assert equal(cache.find(key(1)), tensors(1))
"""


@LIMITED
def test_a_full_disk_is_logged_once_and_costs_no_entry(limited: bool, tmp_path: Path) -> None:
    """A process that may write 1,000 bytes a file, less than an entry: the message has the folder, the reason and the
    free space. What was kept stays, nothing half written is left, and the total is that of the entries."""
    writer = start(FULL, tmp_path, limited)
    run_together(writer)
    out, _ = writer.communicate(timeout=120)
    assert writer.returncode == 0
    lines = [line for line in out.splitlines() if line.startswith("WARNING")]
    assert len(lines) == 1
    for fact in (str(tmp_path), "File too large", "free", "BASEREWARD_CACHE"):
        assert fact in lines[0]
    assert other_files(tmp_path) == []
    assert len(entries(tmp_path)) == 1
    if limited:
        assert int((tmp_path / TOTAL).read_bytes()) == size_of_one(tmp_path)


def test_a_folder_that_cannot_be_made_costs_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file lies in its place: nothing is kept or found, and the log says so once."""
    (tmp_path / "file").touch()
    cache = cache_of(tmp_path / "file" / "cache")
    assert [cache.keep(key(number), tensors(number)) for number in range(3)] == [False] * 3
    assert [str(tmp_path / "file") in record.getMessage() for record in caplog.records] == [True]


def test_the_limit_holds_and_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Entries that this run has written stay; the message names the limit's setting."""
    size = size_of_one(tmp_path / "other")
    cache = cache_of(tmp_path / "cache", limited=True, num_bytes=3 * size)
    assert [cache.keep(key(number), tensors(number)) for number in range(5)] == [True] * 3 + [False] * 2
    assert [equal(cache.find(key(number)), tensors(number)) for number in range(5)] == [True] * 3 + [False] * 2
    assert ["the.limit" in record.getMessage() for record in caplog.records] == [True]
    assert int((tmp_path / "cache" / TOTAL).read_bytes()) == 3 * size
