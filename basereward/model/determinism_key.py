"""The key of a machine: what changes the bits of a result besides the input."""

from __future__ import annotations

import PIL
import torch
import transformers


def machine(device: torch.device) -> tuple[object, ...]:
    """Versions of libraries and properties of a device: if two are equal, equal inputs give bitwise equal results.

    Args:
        device: on which the results are computed.

    >>> machine(torch.device("cpu")) == machine(torch.device("cpu"))
    True
    """
    libraries = PIL.__version__, torch.__version__, transformers.__version__
    if device.type == "cuda":
        return (*libraries, torch.cuda.get_device_name(device), torch.get_float32_matmul_precision())
    # The number of threads changes the order of additions.
    return (*libraries, device.type, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
