"""What GPUs can do, from their makers' data sheets: dense products of their tensor cores, and memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peaks in FLOP/s, memory in bytes."""

    bfloat16: float
    float32: float  # without TF32, as torch multiplies by default
    memory: int


GPUS = {
    "h100": Gpu(989e12, 67e12, 80 * 2**30),
    "h200": Gpu(989e12, 67e12, 141 * 2**30),
    "a100": Gpu(312e12, 19.5e12, 80 * 2**30),
    "rtx4090": Gpu(165e12, 82.6e12, 24 * 2**30),
}
UTILISATION = 0.45  # share of the peak that training is expected to reach, where none is given
