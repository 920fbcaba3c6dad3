"""Resizing of 8-bit pictures: as Pillow does it, and as MATLAB's imresize does it.

The two differ: benchmark sets were made with MATLAB's, training inputs are made with Pillow's.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
CUBIC_WIDTH = 4.0


def resize_pil(pixels: np.ndarray, size: tuple[int, int], kind: str = "bicubic") -> np.ndarray:
    """Pillow's resize, antialiased when it shrinks: columns, rounded to 8 bits, then rows.

    That has been Pillow's order of old; some releases exchange it where they hope to save time,
    and then differ by many levels. Here each axis is a call of its own.

    Args:
        pixels: uint8 (H, W), or (H, W, 1), (H, W, 3).
        size: (height, width) of the result.
        kind: one of FILTERS.

    Returns:
        uint8 (height, width), with the last axis of the input.
    """
    assert pixels.dtype == np.uint8, pixels.dtype
    plain = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    image = Image.fromarray(plain)
    if kind != "nearest" and image.size[0] != size[1] and image.size[1] != size[0]:
        image = image.resize((size[1], image.size[1]), FILTERS[kind])
    resized = np.asarray(image.resize(size[::-1], FILTERS[kind]))
    return resized.reshape(*size, *pixels.shape[2:])


def resize_matlab(
    pixels: np.ndarray, size: tuple[int, int] | float, antialias: bool = True
) -> np.ndarray:
    """MATLAB's `imresize(pixels, size)`: bicubic, antialiased when it shrinks, to the last bit.

    Each axis is resized on its own and rounded to 8 bits before the next, the one that shrinks
    more first, rows before columns where both shrink alike.

    Args:
        pixels: uint8 (H, W) or (H, W, C).
        size: (height, width) of the result, or a scale; with a scale s sizes are rounded up, and
            s stays the distance of samples even where the size is no exact multiple.
        antialias: widen the kernel where an axis shrinks.

    Returns:
        uint8 (height, width) or (height, width, C).
    """
    assert pixels.dtype == np.uint8, pixels.dtype
    before = pixels.shape[:2]
    if isinstance(size, (int, float)):
        scales = (float(size), float(size))
        after = (math.ceil(before[0] * size), math.ceil(before[1] * size))
    else:
        scales = (size[0] / before[0], size[1] / before[1])
        after = (size[0], size[1])
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        pixels = resize_axis(pixels, axis, after[axis], scales[axis], antialias)
    return pixels


def resize_axis(
    pixels: np.ndarray, axis: int, length: int, scale: float, antialias: bool
) -> np.ndarray:
    """One axis of uint8 pixels resized to `length`, rounded half up and clipped to uint8."""
    indices, weights = contributions(pixels.shape[axis], length, scale, antialias)
    rows = np.moveaxis(pixels, axis, 0)
    shape = (-1,) + (1,) * (rows.ndim - 1)
    total = np.zeros((length, *rows.shape[1:]))
    for tap in range(indices.shape[1]):  # one at a time: no copy of the picture per tap
        total += rows[indices[:, tap]] * weights[:, tap].reshape(shape)
    rounded = np.floor(total + 0.5).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(rounded, 0, axis))


def contributions(
    length_in: int, length_out: int, scale: float, antialias: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Which input pixels make each output pixel: (numbers, weights), both (length_out, taps).

    Beyond its ends the axis is mirrored, the border pixels doubled.
    """
    stretch = min(scale, 1.0) if antialias else 1.0
    width = CUBIC_WIDTH / stretch
    # Centres of the output pixels in the input, counted from 0 at the first input pixel.
    centres = (np.arange(length_out) + 0.5) / scale - 0.5
    first = np.floor(centres - width / 2).astype(np.int64)
    indices = first[:, None] + np.arange(math.ceil(width) + 2)
    weights = cubic(stretch * (centres[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    indices %= 2 * length_in
    indices = np.minimum(indices, 2 * length_in - 1 - indices)
    used = (weights != 0).any(axis=0)
    return indices[:, used], weights[:, used]


def cubic(x: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel with a = -1/2 (Keys, 1981), not normalised."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
