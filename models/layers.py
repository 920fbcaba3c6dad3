"""Parts that the encoders share."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

# Mean colour of DIV2K's training photographs, range 1.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def conv(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Conv2d:
    """A convolution that keeps height and width (zero padding, odd kernels)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W) with the channels of a pixel side by side in memory.

    The convolutions that follow keep this layout; it is their fastest on CPU and in low precision
    on GPU, and a look-up of features per query becomes a copy of rows.
    """
    return x.contiguous(memory_format=torch.channels_last)


def first_layer(layer: nn.Module, pixels: Tensor) -> Tensor:
    """A network's first layer, in float32 also under autocast.

    A pixel between -1 and 1 has 8 bits of its own; bfloat16 would round it, by more than all the
    layers that follow do together. The result is in autocast's precision.
    """
    if not autocasts(pixels):
        return layer(pixels)
    with no_autocast(pixels):
        return layer(pixels.float()).to(torch.get_autocast_dtype(pixels.device.type))


class MeanShift(nn.Conv2d):
    """Adds sign * rgb_range * the mean colour. Frozen.

    The published encoders carry two of these in their state dicts and use neither; they are here
    for the sake of those state dicts.
    """

    def __init__(self, rgb_range: float, sign: int) -> None:
        super().__init__(3, 3, kernel_size=1)
        self.weight = frozen(torch.eye(3).view(3, 3, 1, 1))
        self.bias = frozen(torch.tensor([sign * rgb_range * mean for mean in DIV2K_MEAN]))


def frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def upsampler(scale: int, channels: int) -> nn.Sequential:
    """Convolutions and pixel shuffles: (B, C, H, W) -> (B, C, scale * H, scale * W)."""
    steps: list[nn.Module] = []
    for factor in shuffle_factors(scale):
        steps += [conv(channels, channels * factor**2), nn.PixelShuffle(factor)]
    return nn.Sequential(*steps)


def shuffle_factors(scale: int) -> list[int]:
    """The steps in which a scale is reached: 2 as often as it takes, or 3 once."""
    return [3] if scale == 3 else [2] * int(math.log2(scale))


def tail_radius(scale: int) -> int:
    """How far, in input pixels, an upsampling tail of 3x3 convolutions sees, rounded up."""
    radius, reached = 0.0, 1
    for factor in shuffle_factors(scale):
        radius += 1 / reached
        reached *= factor
    return math.ceil(radius + 1 / reached)


def product_dtype(like: Tensor) -> torch.dtype:
    """The precision of matrix products here: autocast's where it is on, else that of `like`."""
    return torch.get_autocast_dtype(like.device.type) if autocasts(like) else like.dtype


def autocasts(like: Tensor) -> bool:
    """Whether autocast is on where a tensor is.

    A meta tensor, of which only the shape is wanted, knows none.
    """
    return not like.is_meta and torch.is_autocast_enabled(like.device.type)


def no_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Autocast off, where a tensor is, for steps that need float32."""
    return torch.autocast(like.device.type, enabled=False) if autocasts(like) else nullcontext()
