"""Images that are arrays of NumPy or tensors of torch.

Only forms whose meaning is certain are read: 8-bit RGB, and tensors of floating point from 0 to 1. A guess, such as
the scale of an array of floating point, would give wrong scores without an error.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from basereward.data.schema.rejections import RowRejected

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

IMAGE_DIMENSIONS = 3
"""Of the array or tensor of one image."""


def is_array(value: object) -> bool:
    """Whether a value is an array of NumPy or a tensor of torch.

    >>> is_array(np.zeros(3)), is_array([0, 0, 0])
    (True, False)
    """
    return isinstance(value, np.ndarray) or _is_tensor(value)


def _is_tensor(value: object) -> bool:
    # Readers of rows do not import torch; where nobody has imported it, no value is a tensor.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def image_of_array(array: Any, *, name: str) -> PIL.Image.Image:
    """Convert an array or a tensor to a PIL image in mode RGB.

    Args:
        array: a NumPy array `(H, W, 3)` uint8, or a tensor `(3, H, W)`, uint8 or floating point from 0 to 1. Floating
            point is rounded to 8 bits.
        name: of the image, for messages, such as `images[0]`.

    Raises:
        RowRejected: `bad_image_reference`; shape, data type or range are others.

    >>> image_of_array(np.full((2, 4, 3), 7, np.uint8), name="images[0]").size
    (4, 2)
    >>> image_of_array(np.zeros((3, 2, 4), np.uint8), name="images[0]")
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: images[0] is a NumPy array of shape (3, 2, 4); (height, width, 3) is
    needed. Move the channels to the end: array.transpose(1, 2, 0)
    """
    pixels = _tensor_pixels(array, name=name) if _is_tensor(array) else _array_pixels(array, name=name)
    return PIL.Image.fromarray(np.ascontiguousarray(pixels))


def _array_pixels(array: NDArray[Any], *, name: str) -> NDArray[np.uint8]:
    """The pixels `(H, W, 3)` of a NumPy array."""
    what = f"{name} is a NumPy array of"
    if array.ndim != IMAGE_DIMENSIONS or array.shape[2] != 3 or 0 in array.shape:
        hint = "Give other kinds of images as PIL images: PIL.Image.fromarray(array)"
        if array.ndim == IMAGE_DIMENSIONS and array.shape[0] == 3:
            hint = "Move the channels to the end: array.transpose(1, 2, 0)"
        raise _refused(f"{what} shape {array.shape}; (height, width, 3) is needed. {hint}")
    if array.dtype != np.uint8:
        hint = "Numbers from 0 to 1 are converted by (255 * array).round().astype('uint8')"
        raise _refused(f"{what} dtype {array.dtype}; uint8, from 0 to 255, is needed. {hint}")
    return array


def _tensor_pixels(tensor: Tensor, *, name: str) -> NDArray[np.uint8]:
    """The pixels `(H, W, 3)` of a tensor of torch."""
    import torch

    what, shape = f"{name} is a tensor of", tuple(tensor.shape)
    if tensor.ndim != IMAGE_DIMENSIONS or shape[0] != 3 or 0 in shape:
        hint = "Give several images as a list of tensors"
        if tensor.ndim == IMAGE_DIMENSIONS and shape[2] == 3:
            hint = "Move the channels to the front: tensor.permute(2, 0, 1)"
        raise _refused(f"{what} shape {shape}; (3, height, width) is needed. {hint}")
    pixels = tensor.detach().cpu()
    if pixels.is_floating_point():
        low, high = float(pixels.min()), float(pixels.max())
        # The negated comparison is also true for NaN.
        if not (low >= 0.0 and high <= 1.0):
            hint = "Convert numbers from 0 to 255 by .to(torch.uint8), and undo a normalization"
            raise _refused(f"{what} numbers from {low:g} to {high:g}; 0 to 1 is needed. {hint}")
        pixels = (255 * pixels.float()).round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        dtype = str(pixels.dtype).removeprefix("torch.")
        needed = "uint8, from 0 to 255, or floating point, from 0 to 1, is needed"
        raise _refused(f"{what} dtype {dtype}; {needed}. Convert it: .to(torch.uint8)")
    array: NDArray[np.uint8] = pixels.permute(1, 2, 0).numpy()
    return array


def _refused(detail: str) -> RowRejected:
    return RowRejected("bad_image_reference", detail)
