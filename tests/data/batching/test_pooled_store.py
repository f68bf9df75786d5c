"""Pooled states on the disk: what was kept or nothing, whatever becomes of the writers."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from basereward.data.batching.pooled_store import PooledStates, PooledStore

KEY = "ab" * 32
WRITER = """
import sys
from pathlib import Path
import numpy as np
from basereward.data.batching.pooled_store import PooledStates, PooledStore
store = PooledStore(Path(sys.argv[1]), setting="s")
states = PooledStates(np.arange(500), np.ones((500, 400), np.float32))
print("begun", flush=True)
for number in range(10**6):
    store.keep(store.key([[str(number % 7).encode()]]), states)
"""


def some(responses: int = 3, *, width: int = 4) -> PooledStates:
    """States that are all different, some of them no numbers."""
    states = np.random.default_rng(0).standard_normal((responses, width)).astype(np.float32)
    states[0, :3] = np.nan, np.inf, -0.0
    return PooledStates(np.arange(responses) + 7, states)


def same(one: PooledStates | None, other: PooledStates) -> bool:
    """Whether all bits are equal."""
    return (
        one is not None
        and one.lengths.tolist() == other.lengths.tolist()
        and one.states.shape == other.states.shape
        and one.states.tobytes() == other.states.tobytes()
    )


def replace_content(file: Path, content: bytes | bytearray) -> None:
    """Puts a new file in the place of one that may be mapped into memory."""
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize("responses", [1, 3, 300])
def test_what_is_read_is_what_was_kept(responses: int, tmp_path: Path) -> None:
    """To the bit, by the writer and by another store; nothing else lies there."""
    store = PooledStore(tmp_path, setting="s")
    assert store.find(KEY) is None
    assert same(store.keep(KEY, some(responses)), some(responses))
    assert same(PooledStore(tmp_path, setting="s").find(KEY), some(responses))
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [f"{KEY}.safetensors"]


def test_writing_on_what_was_read_changes_no_file(tmp_path: Path) -> None:
    """The numbers are those of the disk, and stay so."""
    store = PooledStore(tmp_path, setting="s")
    store.keep(KEY, some()).states[:] = 0
    assert same(store.find(KEY), some())


def test_a_file_with_one_bit_changed_cut_or_too_long_is_a_miss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every byte with one of its bits turned, every length; it is said, and kept anew."""
    store = PooledStore(tmp_path, setting="s")
    store.keep(KEY, some())
    file = store.file(KEY)
    content = file.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        replace_content(file, changed)
        assert store.find(KEY) is None
    for end in (*range(0, len(content), 5), len(content) - 1):
        replace_content(file, content[:end])
        assert store.find(KEY) is None
    replace_content(file, content + b"\0")
    caplog.clear()
    assert store.find(KEY) is None
    assert [str(file) in record.getMessage() for record in caplog.records] == [True]
    assert same(store.keep(KEY, some()), some())
    assert same(store.find(KEY), some())


def test_a_file_of_another_key_is_a_miss(tmp_path: Path) -> None:
    """Though it is whole."""
    store = PooledStore(tmp_path, setting="s")
    store.keep(KEY, some())
    other = KEY[::-1]
    store.file(other).parent.mkdir()
    store.file(KEY).rename(store.file(other))
    assert store.find(other) is None


def test_other_groups_passes_and_settings_have_another_key(tmp_path: Path) -> None:
    """Other content, another order, passes cut elsewhere, another setting: each has a key of its own."""
    one, two, three = b"1", b"2", b"3"
    passes = [[[one, two], [three]], [[one], [two, three]], [[one, two, three]], [[two, one], [three]], [[one, two]]]
    stores = [PooledStore(tmp_path, setting=setting) for setting in ("s", "t")]
    keys = {store.key(each) for store in stores for each in passes}
    assert len(keys) == 2 * len(passes)
    assert PooledStore(tmp_path / "elsewhere", setting="s").key(passes[0]) == stores[0].key(passes[0])


def test_killed_writers_leave_nothing_behind(tmp_path: Path) -> None:
    """Killed at any moment: what is there is whole, and the next writer takes away what is not."""
    for delay in (0.0, 0.01, 0.05, 0.1):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    store = PooledStore(tmp_path, setting="s")
    (tmp_path / "cd").mkdir(exist_ok=True)
    # Files of the earlier format, finished and not, and its lock file.
    for name in ("cd/half.part", f"cd/{'cd' * 32}", "turn"):
        (tmp_path / name).write_bytes(b"brpool01")
    expected = PooledStates(np.arange(500), np.ones((500, 400), np.float32))
    keys = [store.key([[str(number).encode()]]) for number in range(7)]
    assert any(store.find(key) for key in keys)
    for key in keys:
        found = store.find(key)
        assert found is None or same(found, expected)
    store.keep(KEY, some())
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".safetensors"}


def test_a_disk_that_takes_nothing_costs_no_states(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They stay in memory, which is said once."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    store = PooledStore(blocked, setting="s")
    with caplog.at_level(logging.WARNING):
        for key in (KEY, KEY[::-1]):
            assert same(store.keep(key, some()), some())
    assert caplog.text.count(str(blocked)) == 1
