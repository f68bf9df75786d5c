"""A cache of image features on disk, shared by all epochs, runs and cells with the same frozen vision tower."""

from __future__ import annotations

import hashlib
from pathlib import Path

import PIL.Image
import torch

from basereward.data.images.vision_features import Features
from basereward.io.tensor_cache import SizeLimit, TensorCache

# Part of every entry's identity: entries of another version have other tensors and are not read.
_VERSION = 1
# Until version 1 a file had no suffix and a format of its own, and was written under the suffix `.part`.
_EARLIER_FILES = (f"??/{'[0-9a-f]' * 64}", "??/*.part")


class FeatureStore:
    """The features of one vision tower and image processor, in a folder shared with others.

    Any number of processes may use it. `TensorCache` says what becomes of damaged files, of a full disk, and of a
    folder that has reached its size.

    Args:
        folder: the folder of the cache.
        setting: identifies everything that features depend on, apart from the image.
        gib: the largest size of the folder with all settings, in GiB.

    Examples:
        >>> import tempfile
        >>> store = FeatureStore(Path(tempfile.mkdtemp()), setting="tower 1", gib=0.1)
        >>> key = store.key(PIL.Image.new("RGB", (56, 84)))
        >>> store.keep(key, Features(torch.ones(1, 6, 8), ((1, 4, 6),), (6,)))
        True
        >>> features = store.find(key)
        >>> features.states.shape, features.grids, features.tokens
        (torch.Size([1, 6, 8]), ((1, 4, 6),), (6,))
    """

    def __init__(self, folder: Path, *, setting: str, gib: float) -> None:
        self.setting = setting
        self._cache = TensorCache(
            folder,
            identity=f"image features {_VERSION}, {setting}",
            contents="image features",
            limit=SizeLimit(int(gib * 2**30), setting="data.encoding.feature_cache"),
            earlier_files=_EARLIER_FILES,
        )

    def key(self, picture: bytes | PIL.Image.Image) -> str:
        """Compute the key of an image's features.

        Args:
            picture: the content of an image file, or a decoded image.

        Returns:
            64 hexadecimal digits. They differ between a file and the image decoded from it.

        >>> store = FeatureStore(Path("features"), setting="tower 1", gib=0.1)
        >>> square, wide = PIL.Image.new("L", (4, 4)), PIL.Image.new("L", (8, 2))  # the same bytes
        >>> store.key(square) == store.key(square.copy()), store.key(square) == store.key(wide)
        (True, False)
        """
        digest = hashlib.sha256(self.setting.encode())
        if isinstance(picture, bytes):
            digest.update(b"file")
            digest.update(picture)
        else:
            # Mode and size, because images of different shape can have the same bytes.
            digest.update(repr((picture.mode, picture.size)).encode())
            digest.update(picture.tobytes())
        return digest.hexdigest()

    def file(self, key: str) -> Path:
        """The path of the features of a key, whether they are stored or not.

        >>> store = FeatureStore(Path("features"), setting="tower 1", gib=0.1)
        >>> store.file("ab" * 32).as_posix()
        'features/ab/abab...abab.safetensors'
        """
        return self._cache.file(key)

    def find(self, key: str) -> Features | None:
        """Read cached features; None if there are none or the file is damaged.

        Args:
            key: as of `key`.
        """
        tensors = self._cache.find(key)
        if tensors is None:
            return None
        states = tensors["states"]
        time, height, width = tensors["grid"].tolist()
        return Features(states, ((time, height, width),), (states.shape[1],))

    def keep(self, key: str, features: Features) -> bool:
        """Write the features of one image. If writing fails, a warning is logged and the run continues.

        Args:
            key: as of `key`.
            features: of one image, on any device.

        Returns:
            Whether the features have been written.
        """
        (grid,) = features.grids
        return self._cache.keep(key, {"states": features.states, "grid": torch.tensor(grid)})
