"""Counts what would let a GPU wait for the host, on a CPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class SyncCounter(TorchDispatchMode):
    """Counts operators that read numbers on the host, and operators whose result has a size that depends on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Count a call."""
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2"):
            self.counts[name] += 1
        if name in ("index", "index_put", "index_put_"):
            masks = [part for part in args[1] if part is not None and part.dtype in (torch.bool, torch.uint8)]
            if masks:
                self.counts["boolean index"] += 1
        return func(*args, **(kwargs or {}))
