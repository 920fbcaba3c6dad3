"""Pillow's 8-bit bicubic resize for a batch of pictures of different sizes, on any device.

torchvision's resize is none: of 415,000 values, its kernel for bytes left 0.3 % one level from
Pillow's, that for floats 14 % (up to 22 levels), and one axis at a time in float64 0.005 %.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUBIC_SUPPORT = 2.0
# Pillow multiplies 8-bit pixels with weights in units of 2**-22.
WEIGHT_UNIT = 2.0**22


def resize_batch(pixels: Tensor, before: Tensor, after: Tensor, largest: tuple[int, int]) -> Tensor:
    """Pillow's 8-bit bicubic resize of each item: columns first, rounded to 8 bits, then rows.

    Args:
        pixels: (B, H, W, 3), whole numbers as float; item b is its top left before[b] part.
        before, after: (B, 2), height and width of each item.
        largest: height and width of the result.

    Returns:
        (B, *largest, 3), whole numbers of the dtype of pixels; item b is its top left after[b]
        part.
    """
    items, height, width, _ = pixels.shape
    across = cubic_weights(before[:, 1], after[:, 1], width, largest[1], pixels.dtype)
    down = cubic_weights(before[:, 0], after[:, 0], height, largest[0], pixels.dtype)
    # (B, new width, width) @ (B, width, height * 3) -> (B, new width, height * 3)
    pixels = to_bytes(across @ pixels.transpose(1, 2).reshape(items, width, -1))
    # (B, new height, height) @ (B, height, new width * 3) -> (B, new height, new width * 3)
    pixels = pixels.view(items, -1, height, 3).transpose(1, 2).reshape(items, height, -1)
    return to_bytes(down @ pixels).view(items, largest[0], largest[1], 3)


def to_bytes(total: Tensor) -> Tensor:
    """Sums in units of 2**-22, rounded half up and clipped to 0..255."""
    return ((total + WEIGHT_UNIT / 2) / WEIGHT_UNIT).floor_().clamp_(0, 255)


def cubic_weights(
    before: Tensor, after: Tensor, length: int, new_length: int, dtype: torch.dtype
) -> Tensor:
    """Weights (B, new_length, length) in units of 2**-22 that resize an axis as Pillow does.

    Args:
        before, after: (B,), how many pixels of each item's axis count, and become how many.
    """
    scale = (before.to(dtype) / after)[:, None, None]
    stretch = scale.clamp(min=1)
    support = CUBIC_SUPPORT * stretch
    number = torch.arange(new_length, device=before.device, dtype=dtype)[None, :, None]
    source = torch.arange(length, device=before.device, dtype=dtype)[None, None, :]
    centre = (number + 0.5) * scale
    first = (centre - support + 0.5).floor().clamp(min=0)
    end = (centre + support + 0.5).floor().minimum(before[:, None, None].to(dtype))
    weights = cubic((source - centre + 0.5) * (1 / stretch))
    weights = weights * ((source >= first) & (source < end))
    # Items with a shorter result have rows without weights: anything but a division by zero.
    total = weights.sum(dim=2, keepdim=True)
    weights = weights / torch.where(total == 0, 1, total)
    # Half away from zero, as Pillow rounds them.
    return torch.sign(weights) * (weights.abs() * WEIGHT_UNIT + 0.5).floor()


def cubic(x: Tensor) -> Tensor:
    """The cubic convolution kernel with a = -1/2 (Keys, 1981), as Pillow evaluates it."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
