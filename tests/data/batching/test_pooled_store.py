"""The store of pooled states on disk: exact values or a miss, and safety against killed writers."""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from basereward.data.batching.pooled_store import PooledStates, PooledStore
from tests.helpers.cache_processes import finish, read_line, run_together
from tests.helpers.forked_program import ForkedProgram

KEY = "ab" * 32
WRITER = """
from pathlib import Path
import numpy as np
from basereward.data.batching.pooled_store import PooledStates, PooledStore
store = PooledStore(Path(sys.argv[1]), setting="s")
states = PooledStates(np.arange(500), np.ones((500, 400), np.float32))
print("begun", flush=True)
for number in range(10**6):
    store.keep(store.key([[str(number % 7).encode()]]), states)
"""


def make_states(responses: int = 3, *, width: int = 4) -> PooledStates:
    """Return states that are all different, NaN, infinity and -0 included."""
    states = np.random.default_rng(0).standard_normal((responses, width)).astype(np.float32)
    states[0, :3] = np.nan, np.inf, -0.0
    return PooledStates(np.arange(responses) + 7, states)


def same(one: PooledStates | None, other: PooledStates) -> bool:
    """Return whether all bits are equal."""
    return (
        one is not None
        and one.lengths.tolist() == other.lengths.tolist()
        and one.states.shape == other.states.shape
        and one.states.tobytes() == other.states.tobytes()
    )


def replace_content(file: Path, content: bytes | bytearray) -> None:
    """Replace a file, which may be memory-mapped, by a new one."""
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize("responses", [1, 3, 300])
def test_states_are_read_bit_for_bit(responses: int, tmp_path: Path) -> None:
    """The writer and another store read the same bits; the folder has no other file."""
    store = PooledStore(tmp_path, setting="s")
    assert store.find(KEY) is None
    assert same(store.keep(KEY, make_states(responses)), make_states(responses))
    assert same(PooledStore(tmp_path, setting="s").find(KEY), make_states(responses))
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [f"{KEY}.safetensors"]


def test_writing_to_the_states_does_not_change_the_file(tmp_path: Path) -> None:
    """The states that `keep` returns are mapped copy-on-write."""
    store = PooledStore(tmp_path, setting="s")
    store.keep(KEY, make_states()).states[:] = 0
    assert same(store.find(KEY), make_states())


def test_damaged_file_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One bit changed in each byte, a shorter or a longer file: the read is logged, and the next write replaces the
    file."""
    store = PooledStore(tmp_path, setting="s")
    store.keep(KEY, make_states())
    file = store.file(KEY)
    content = file.read_bytes()
    for offset in range(len(content)):
        changed = bytearray(content)
        changed[offset] ^= 1 << offset % 8
        replace_content(file, changed)
        assert store.find(KEY) is None
    for end in (*range(0, len(content), 5), len(content) - 1):
        replace_content(file, content[:end])
        assert store.find(KEY) is None
    replace_content(file, content + b"\0")
    caplog.clear()
    assert store.find(KEY) is None
    assert [str(file) in record.getMessage() for record in caplog.records] == [True]
    assert same(store.keep(KEY, make_states()), make_states())
    assert same(store.find(KEY), make_states())


def test_a_file_of_another_key_is_a_miss(tmp_path: Path) -> None:
    """A whole file is moved to the name of another key."""
    store = PooledStore(tmp_path, setting="s")
    store.keep(KEY, make_states())
    other_key = KEY[::-1]
    store.file(other_key).parent.mkdir()
    store.file(KEY).rename(store.file(other_key))
    assert store.find(other_key) is None


def test_keys_differ_by_groups_micro_batches_and_setting(tmp_path: Path) -> None:
    """Other content, order, micro-batches or setting give another key; another folder does not."""
    one, two, three = b"1", b"2", b"3"
    batchings = [[[one, two], [three]], [[one], [two, three]], [[one, two, three]], [[two, one], [three]], [[one, two]]]
    stores = [PooledStore(tmp_path, setting=setting) for setting in ("s", "t")]
    keys = {store.key(batching) for store in stores for batching in batchings}
    assert len(keys) == 2 * len(batchings)
    assert PooledStore(tmp_path / "elsewhere", setting="s").key(batchings[0]) == stores[0].key(batchings[0])


def test_killed_writers_leave_no_damaged_file(tmp_path: Path) -> None:
    """Writers are killed at several moments. Every file is whole, and the next writer removes leftovers."""
    for delay in (0.0, 0.01, 0.05, 0.1):
        writer = ForkedProgram("builtins", WRITER, tmp_path)
        run_together(writer)
        assert read_line(writer) == "begun"
        time.sleep(delay)
        writer.kill()
        assert finish(writer) == [-signal.SIGKILL]
    store = PooledStore(tmp_path, setting="s")
    (tmp_path / "cd").mkdir(exist_ok=True)
    # Files of the earlier format, finished and not, and its lock file.
    for name in ("cd/half.part", f"cd/{'cd' * 32}", "turn"):
        (tmp_path / name).write_bytes(b"brpool01")
    expected = PooledStates(np.arange(500), np.ones((500, 400), np.float32))
    keys = [store.key([[str(number).encode()]]) for number in range(7)]
    assert any(store.find(key) for key in keys)
    for key in keys:
        stored = store.find(key)
        assert stored is None or same(stored, expected)
    store.keep(KEY, make_states())
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".safetensors"}


def test_unwritable_folder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`keep` still returns the states, from memory."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    store = PooledStore(blocked, setting="s")
    with caplog.at_level(logging.WARNING):
        for key in (KEY, KEY[::-1]):
            assert same(store.keep(key, make_states()), make_states())
    assert caplog.text.count(str(blocked)) == 1
