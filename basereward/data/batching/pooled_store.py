"""A cache of pooled states on disk, shared by all epochs, runs and cells with the same groups and frozen backbone.

Shapes: R responses, D channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from basereward.io.tensor_cache import TensorCache

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Part of every entry's identity: entries of another version have other tensors and are not read.
_VERSION = 1
# Until version 1 a file had no suffix and a format of its own, was written under the suffix `.part`, and the folder had
# a lock file.
_EARLIER_FILES = (f"??/{'[0-9a-f]' * 64}", "??/*.part", "turn")


@dataclass(frozen=True, slots=True)
class PooledStates:
    """The pooled states of R responses, group after group.

    >>> PooledStates(np.array([5, 7]), np.zeros((2, 64), np.float32)).states.shape
    (2, 64)
    """

    lengths: NDArray[np.int64]  # (R,): tokens of each response without its end-of-turn token
    states: NDArray[np.float32]  # (R, D)


class PooledStore:
    """The pooled states of one backbone and encoder, in a folder shared with others.

    The states of groups that were computed together are one entry, which is memory-mapped, so that states are read from
    disk when needed and a probe's data may be larger than memory. The folder has no size limit.

    Args:
        folder: the folder of the cache.
        setting: identifies everything that the states depend on, apart from the groups.

    Examples:
        >>> import tempfile
        >>> store = PooledStore(Path(tempfile.mkdtemp()), setting="backbone 1")
        >>> key = store.key([[b"group 1", b"group 2"]])
        >>> store.find(key) is None
        True
        >>> kept = store.keep(key, PooledStates(np.array([5, 7]), np.zeros((2, 64), np.float32)))
        >>> store.find(key).lengths
        array([5, 7])
    """

    def __init__(self, folder: Path, *, setting: str) -> None:
        self.setting = setting
        self._cache = TensorCache(
            folder,
            identity=f"pooled states {_VERSION}, {setting}",
            contents="pooled states",
            earlier_files=_EARLIER_FILES,
        )

    def key(self, passes: Iterable[Iterable[bytes]]) -> str:
        """Compute the key of the states of groups that are computed together.

        Args:
            passes: the content hashes of the groups by forward pass. They are part of the key, because the last bits
                of a state depend on the other groups of its forward pass.

        Returns:
            64 hexadecimal digits.

        >>> store = PooledStore(Path("pooled"), setting="backbone 1")
        >>> store.key([[b"group 1"], [b"group 2"]]) == store.key([[b"group 1", b"group 2"]])
        False
        """
        digest = hashlib.sha256(self.setting.encode())
        for contents in passes:
            digest.update(b"pass")
            for content in contents:
                # Of equal length, so that no other division of the groups gives the same bytes.
                digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def file(self, key: str) -> Path:
        """The path of the states of a key, whether they are stored or not.

        >>> PooledStore(Path("pooled"), setting="backbone 1").file("ab" * 32).as_posix()
        'pooled/ab/abab...abab.safetensors'
        """
        return self._cache.file(key)

    def find(self, key: str) -> PooledStates | None:
        """Read cached states, memory-mapped; None if there are none or the file is damaged.

        Args:
            key: as of `key`.
        """
        tensors = self._cache.find(key)
        if tensors is None:
            return None
        return PooledStates(tensors["lengths"].numpy(), tensors["states"].numpy())

    def keep(self, key: str, states: PooledStates) -> PooledStates:
        """Write states and return them memory-mapped. If writing fails, they stay in memory and the run continues.

        Args:
            key: as of `key`.
            states: the states to write.

        Returns:
            The same states. They are those of the file if they have been written, so that the memory of `states` can be
            freed.
        """
        # Of these types whatever the machine's default integer is, because the file is read on others too.
        lengths = torch.from_numpy(np.ascontiguousarray(states.lengths, np.int64))
        values = torch.from_numpy(np.ascontiguousarray(states.states, np.float32))
        if not self._cache.keep(key, {"lengths": lengths, "states": values}):
            return states
        # None if a disk damages the file at once.
        return self.find(key) or states
