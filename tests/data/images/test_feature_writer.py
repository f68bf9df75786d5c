"""Test the background writer of image features: the values, the copies, and processes that are forked meanwhile."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import threading
from pathlib import Path

import pytest

from basereward.data.images.feature_writer import MAX_WAITING, FeatureWriter
from basereward.io.lease import acquire
from basereward.io.tensor_cache import TOTAL
from tests.helpers.kept_features import features, key, same, store_of


@pytest.mark.usefixtures("ready_store")
def test_features_are_written_as_they_were(tmp_path: Path) -> None:
    """The caller may overwrite the tensor at once, and more images may come than may wait."""
    writer = FeatureWriter(store_of(tmp_path))
    numbers = range(MAX_WAITING + 10)
    for number in numbers:
        given = features(number)
        writer.keep(key(number), given)
        given.states.zero_()
    writer.flush()
    for number in numbers:
        assert same(store_of(tmp_path).find(key(number)), features(number))


def test_copy_writes_too(tmp_path: Path) -> None:
    """A copied model has a writer that works, beside that of the original."""
    writer = FeatureWriter(store_of(tmp_path))
    writer.keep(key(0), features(0))
    other = copy.deepcopy(writer)
    other.keep(key(1), features(1))
    for each in (writer, other):
        each.flush()
    assert same(store_of(tmp_path).find(key(0)), features(0))
    assert same(store_of(tmp_path).find(key(1)), features(1))


def test_forked_process_holds_no_lock(tmp_path: Path) -> None:
    """Workers that are forked while the thread writes leave the lock of the folder free."""
    writer = FeatureWriter(store_of(tmp_path))
    forked = threading.Event()

    def write() -> None:
        number = 0
        while not forked.is_set():
            writer.keep(key(number % 50), features(number % 50))
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    children = []
    try:
        for _ in range(40):
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
        forked.set()
        # A child with a locked descriptor would stop the writer for good.
        thread.join(30)
        assert not thread.is_alive()
        writer.flush()
        with acquire(tmp_path / TOTAL, wait=False):
            pass
    finally:
        forked.set()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
