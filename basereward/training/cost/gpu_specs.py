"""Peak FLOP/s and memory of GPUs, from the data sheets of their makers (dense, without sparsity)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        bfloat16: peak of the tensor cores, in FLOP/s.
        float32: peak in FLOP/s without TF32, which torch does not use by default.
        memory: bytes.

    >>> GPUS["h100"].memory / 2**30
    80.0
    """

    bfloat16: float
    float32: float
    memory: int


# Sheets often give the rate of tensor cores with sparsity, which is twice the dense rate that counts here.
GPUS = {
    "h100": Gpu(989e12, 67e12, 80 * 2**30),
    "h200": Gpu(989e12, 67e12, 141 * 2**30),
    "a100": Gpu(312e12, 19.5e12, 80 * 2**30),
    "rtx4090": Gpu(165e12, 82.6e12, 24 * 2**30),
}
UTILISATION = 0.45
"""Share of the peak that a training is expected to reach when the user gives none."""
