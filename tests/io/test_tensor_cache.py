"""The cache of tensors on disk: exact values or a miss, despite killed writers, damaged files and a full disk."""

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
    """Return the bytes of one entry."""
    cache = cache_of(folder / "one")
    assert cache.keep(key(1), tensors(1))
    return cache.file(key(1)).stat().st_size


# Reading.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8], ids=str)
def test_tensors_are_read_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    """Every dtype; scalars, empty and non-contiguous tensors, tensors with a gradient, NaN, infinities and -0."""
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
def test_entry_is_one_safetensors_file(limited: bool, tmp_path: Path) -> None:
    """The safetensors library can open it. The folder has only the entry, and the total with a limit."""
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
def test_tensors_are_memory_mapped_copy_on_write(tmp_path: Path) -> None:
    """The file is mapped as long as a tensor lives, and writing to the tensor does not change the file."""
    cache = cache_of(tmp_path)
    cache.keep(key(1), tensors(1))
    file = cache.file(key(1))
    content = file.read_bytes()
    loaded = cache.find(key(1))
    assert loaded is not None
    assert str(file) in Path("/proc/self/maps").read_text()
    loaded["values"][:] = 0
    assert file.read_bytes() == content
    assert equal(cache.find(key(1)), tensors(1))
    file.unlink()  # as another process does to make room
    assert equal({"half": loaded["half"]}, {"half": tensors(1)["half"]})
    del loaded
    assert str(file) not in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not list the maps of a process")
def test_tensors_are_not_mapped_with_a_limit(tmp_path: Path) -> None:
    """Another machine may delete the file to make room, which would kill a process that has it mapped."""
    cache = cache_of(tmp_path, limited=True)
    cache.keep(key(1), tensors(1))
    loaded = cache.find(key(1))
    assert str(cache.file(key(1))) not in Path("/proc/self/maps").read_text()
    assert equal(loaded, tensors(1))


@pytest.mark.parametrize("bad_key", ["", "ab", "../" * 22, "AB" * 32, "ab" * 32 + "\n"])
def test_key_must_be_a_hash(bad_key: str, tmp_path: Path) -> None:
    """A key is part of a path, so only 64 hexadecimal digits are accepted."""
    for method in (cache_of(tmp_path).find, cache_of(tmp_path).file, lambda bad: cache_of(tmp_path).keep(bad, {})):
        with pytest.raises(ValueError, match=re.escape(repr(bad_key))):
            method(bad_key)
    assert not list(tmp_path.iterdir())


def test_cache_can_be_pickled(tmp_path: Path) -> None:
    """Data loaders pickle it for their worker processes."""
    cache = cache_of(tmp_path, limited=True)
    cache.keep(key(1), tensors(1))
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301
    assert equal(copy.find(key(1)), tensors(1))
    assert copy.keep(key(2), tensors(2))


def test_import_does_not_load_torch() -> None:
    """Torch and NumPy are imported with the first tensor."""
    code = "import sys, basereward.io.tensor_cache; print({'torch', 'numpy'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


# Damaged files.


def test_one_changed_bit_is_a_miss(tmp_path: Path) -> None:
    """One bit is changed in each byte of the length, the header with its padding, and the values."""
    cache = cache_of(tmp_path)
    expected = {"values": tensors(1)["values"][:2, :3], "half": tensors(1)["half"][:1, :3]}
    cache.keep(key(1), expected)
    file = cache.file(key(1))
    content = file.read_bytes()
    for offset in range(len(content)):
        changed = bytearray(content)
        changed[offset] ^= 1 << offset % 8
        # A new file each time: a mapped file must not change its length.
        file.unlink()
        file.write_bytes(changed)
        assert cache.find(key(1)) is None, f"byte {offset}"
    file.unlink()
    file.write_bytes(content)
    assert equal(cache.find(key(1)), expected)


def test_a_file_of_another_length_is_a_miss(tmp_path: Path) -> None:
    """Every shorter length, and additional bytes."""
    cache = cache_of(tmp_path)
    cache.keep(key(1), {"values": torch.ones(5)})
    file = cache.file(key(1))
    content = file.read_bytes()
    for damaged in (*(content[:end] for end in range(len(content))), content + b"\0", content + bytes(4096)):
        file.unlink()
        file.write_bytes(damaged)
        assert cache.find(key(1)) is None, f"{len(damaged)} bytes"


@LIMITED
def test_damaged_entry_is_logged_and_replaced(limited: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Text, zeros, random bytes, and a half overwritten entry: each read logs the file once, and the next write
    replaces it."""
    cache = cache_of(tmp_path, limited=limited)
    cache.keep(key(1), tensors(1))
    file = cache.file(key(1))
    content = file.read_bytes()
    half = len(content) // 2
    damaged_contents = (
        b"text\n" * 99,
        bytes(len(content)),
        os.urandom(len(content)),
        content[:half] + os.urandom(half),
    )
    for damaged in damaged_contents:
        file.unlink()
        file.write_bytes(damaged)
        caplog.clear()
        assert cache.find(key(1)) is None
        assert [str(file) in record.getMessage() for record in caplog.records] == [True]
        assert cache.keep(key(1), tensors(1))
        assert equal(cache.find(key(1)), tensors(1))


def test_folder_in_place_of_an_entry_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is set aside with a warning when the entry is written."""
    cache = cache_of(tmp_path)
    cache.file(key(1)).mkdir(parents=True)
    assert cache.find(key(1)) is None
    caplog.clear()
    assert [cache.keep(key(number), tensors(number)) for number in (1, 2)] == [True, True]
    assert [str(tmp_path) in record.getMessage() for record in caplog.records] == [True]
    assert equal(cache.find(key(1)), tensors(1))


def test_an_entry_of_another_key_or_identity_is_a_miss(tmp_path: Path) -> None:
    """A whole entry under the name of another key, or of a cache with another identity."""
    cache = cache_of(tmp_path)
    cache.keep(key(1), tensors(1))
    assert cache_of(tmp_path, identity="another").find(key(1)) is None
    other_file = cache.file(key(2))
    other_file.parent.mkdir()
    other_file.write_bytes(cache.file(key(1)).read_bytes())
    assert cache.find(key(2)) is None
    assert cache_of(tmp_path, identity="another").keep(key(1), tensors(3))
    assert cache.find(key(1)) is None
    assert equal(cache_of(tmp_path, identity="another").find(key(1)), tensors(3))


@LIMITED
def test_files_of_earlier_formats_are_removed_at_the_first_write(
    limited: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading leaves them. The log gives their number, and unrelated files stay."""
    (tmp_path / "ab").mkdir()
    old_files = [tmp_path / "ab" / "x.old", tmp_path / "ab" / "y.old", tmp_path / "lengths.npz"]
    unrelated = tmp_path / "ab" / "notes.txt"
    for file in (*old_files, unrelated):
        file.write_bytes(b"another format")
    cache = cache_of(tmp_path, limited=limited)
    assert cache.find("ab" * 32) is None
    assert all(file.exists() for file in old_files)
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
def test_concurrent_writers_of_one_key_leave_a_whole_entry(limited: bool, tmp_path: Path) -> None:
    """Two processes write different values many times: a reader sees one of them, and no temporary file is left."""
    cache = cache_of(tmp_path, limited=limited)
    assert cache.keep(key(1), tensors(1))
    writers = [start(REWRITE, tmp_path, limited, version) for version in (1, 2)]
    versions = [tensors(1, version=version) for version in (0, 1, 2)]
    run_together(*writers)
    versions_read: set[int] = set()
    num_hits = num_misses = 0
    while any(writer.poll() is None for writer in writers):
        loaded = cache.find(key(1))
        if loaded is None:
            # The file was replaced between the two times that safetensors opens it: a miss, and no error.
            num_misses += 1
            continue
        assert any(equal(loaded, version) for version in versions)
        versions_read.add(int(loaded["version"]))
        num_hits += 1
    assert finish(*writers) == [0, 0]
    assert versions_read & {1, 2}
    assert num_hits > num_misses
    assert len(entries(tmp_path)) == 1
    assert other_files(tmp_path) == []


@LIMITED
def test_concurrent_writers_leave_whole_entries(limited: bool, tmp_path: Path) -> None:
    """Two processes write the same keys in opposite order, and a third is killed."""
    ascending, descending, killed = (
        start(WRITE, tmp_path, limited, *numbers) for numbers in ((0, 200, 1), (199, -1, -1), (100, 200, 1))
    )
    run_together(ascending, descending, killed)
    while len(entries(tmp_path)) < 50:
        time.sleep(0.001)
    killed.kill()
    assert finish(ascending, descending, killed) == [0, 0, -signal.SIGKILL]
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
def test_killed_writer_leaves_the_old_or_the_new_entry(
    where: str, replaces: bool, limited: bool, tmp_path: Path
) -> None:
    """All other entries are whole, and the next process removes leftover files."""
    if where == "before the total is written" and not limited:
        pytest.skip("there is no total without a limit")
    number = 2 if replaces else 3
    write = f"cache.keep(key({number}), tensors({number}, version=1))"
    writer = start(f"{STOP}{STOPS[where]}\n{write}", tmp_path, limited)
    run_together(writer)
    assert read_line(writer) == "stopped"
    writer.kill()
    assert finish(writer) == [-signal.SIGKILL]
    cache = cache_of(tmp_path, limited=limited)
    assert all(equal(cache.find(key(other)), tensors(other)) for other in (0, 1))
    loaded = cache.find(key(number))
    if where == "after the file has its name":
        assert equal(loaded, tensors(number, version=1))
    elif replaces:
        assert equal(loaded, tensors(number))
    else:
        assert loaded is None
    assert cache.keep(key(9), tensors(9))
    assert other_files(tmp_path) == []
    if limited:
        assert int((tmp_path / TOTAL).read_bytes()) == sum(file.stat().st_size for file in entries(tmp_path))


@LIMITED
def test_writers_killed_at_any_moment_leave_whole_entries(limited: bool, tmp_path: Path) -> None:
    """Writers are killed after 0, 0.02 and 0.1 seconds."""
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
def test_full_disk_is_logged_once(limited: bool, tmp_path: Path) -> None:
    """A process may write only 1,000 bytes per file. The message has the folder, the reason and the free space. Earlier
    entries stay, no temporary file is left, and the total is right."""
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


def test_unwritable_folder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file is in its place: nothing is kept, and no error is raised."""
    (tmp_path / "file").touch()
    cache = cache_of(tmp_path / "file" / "cache")
    assert [cache.keep(key(number), tensors(number)) for number in range(3)] == [False] * 3
    assert [str(tmp_path / "file") in record.getMessage() for record in caplog.records] == [True]


def test_limit_is_kept_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Entries that this run has written stay; the message names the setting of the limit."""
    size = size_of_one(tmp_path / "other")
    cache = cache_of(tmp_path / "cache", limited=True, num_bytes=3 * size)
    assert [cache.keep(key(number), tensors(number)) for number in range(5)] == [True] * 3 + [False] * 2
    assert [equal(cache.find(key(number)), tensors(number)) for number in range(5)] == [True] * 3 + [False] * 2
    assert ["the.limit" in record.getMessage() for record in caplog.records] == [True]
    assert int((tmp_path / "cache" / TOTAL).read_bytes()) == 3 * size
