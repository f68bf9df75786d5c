"""Writes image features to the cache in a thread, so that a training step on a GPU does not wait for the disk."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from basereward.data.images.feature_store import FeatureStore
from basereward.data.images.vision_features import Features

logger = logging.getLogger(__name__)

MAX_WAITING = 64
"""Images whose features may wait to be written; it bounds the memory that they take."""


@dataclass(frozen=True, slots=True)
class _HostCopy:
    """A copy of a tensor in host memory, which a GPU may still be writing.

    Attributes:
        values: the copy.
        done: an event of the GPU after the copy; None if the copy is complete.
    """

    values: Tensor
    done: torch.cuda.Event | None

    @classmethod
    def of(cls, tensor: Tensor) -> _HostCopy:
        """Start the copy; the caller does not wait for it."""
        if not tensor.is_cuda:
            return cls(tensor.detach().clone(), None)
        # Only a copy to pinned memory goes on while the host does other work.
        values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        values.copy_(tensor.detach(), non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(tensor.device))
        return cls(values, done)

    def wait(self) -> Tensor:
        """Return the values when the copy is complete."""
        if self.done is not None:
            self.done.synchronize()
        return self.values


class FeatureWriter:
    """Writes features to a store in one background thread, in the order in which they are given.

    A forked process inherits nothing of a write in progress (see `basereward.io.tensor_cache`). The interpreter ends
    after the last write.

    Args:
        store: the cache.

    >>> import tempfile
    >>> from pathlib import Path
    >>> store = FeatureStore(Path(tempfile.mkdtemp()), setting="tower 1", gib=0.1)
    >>> writer = FeatureWriter(store)
    >>> writer.keep("ab" * 32, Features(torch.ones(1, 6, 8), ((1, 4, 6),), (6,)))
    >>> writer.flush()
    >>> store.find("ab" * 32).tokens
    (6,)
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self._places = threading.BoundedSemaphore(MAX_WAITING)
        # The thread starts with the first write, so that processes forked before that have no trace of it.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feature-writer")
        self._last: Future[None] | None = None

    def __reduce__(self) -> tuple[type[FeatureWriter], tuple[FeatureStore]]:
        """A copy has a thread of its own."""
        return FeatureWriter, (self.store,)

    def keep(self, key: str, features: Features) -> None:
        """Write the features of one image, some time later.

        It waits only while `MAX_WAITING` images are waiting to be written.

        Args:
            key: as of `FeatureStore.key`.
            features: of one image, on any device. The caller may change them afterwards.
        """
        self._places.acquire()
        copied = _HostCopy.of(features.states)
        self._last = self._executor.submit(self._write, key, features, copied)

    def flush(self) -> None:
        """Wait until all features that were given are written."""
        if self._last is not None:
            self._last.result()

    def _write(self, key: str, features: Features, copied: _HostCopy) -> None:
        try:
            self.store.keep(key, features.map(lambda _: copied.wait()))
        except Exception:
            # The features can be computed again, so the run continues.
            logger.warning("the features of an image could not be written to the cache", exc_info=True)
        finally:
            self._places.release()
