"""What the bits of a computation depend on besides its numbers."""

from __future__ import annotations

import PIL
import torch
import transformers


def machine(device: torch.device) -> tuple[object, ...]:
    """The libraries that compute on a device, and how it does: equal where equal numbers come to equal bits."""
    libraries = PIL.__version__, torch.__version__, transformers.__version__
    if device.type == "cuda":
        return (*libraries, torch.cuda.get_device_name(device), torch.get_float32_matmul_precision())
    # Sums of another number of threads come in another order.
    return (*libraries, device.type, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
