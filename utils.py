"""Coordinates, pixel samples, PSNR and a few small helpers. Imports nothing of this project.

Coordinates are (y, x), in that order, in [-1, 1] over the whole picture; a pixel's coordinate is
that of its centre.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# What a difference in R, G and B (range 1) does to luma (ITU-R BT.601, in 256ths).
LUMA_WEIGHTS = (65.738 / 256, 129.057 / 256, 25.064 / 256)
# Pixels cut at each side beyond those of the scale, by the protocol of each data set.
BORDER_EXTRA = {"benchmark": 0, "div2k": 6, "rgb": 0}


class UserError(Exception):
    """A mistake of the user or in the user's files. The message is one line they can act on."""

    exit_code = 1


class ConfigError(UserError, ValueError):
    """A command line or a configuration that can't be meant. May list several problems."""

    exit_code = 2


class DataError(UserError, RuntimeError):
    """A file or a device that lets the run down."""

    exit_code = 1


def make_coord(
    shape: Sequence[int], ranges: Sequence[tuple[float, float]] | None = None, flatten: bool = True
) -> Tensor:
    """Coordinates of the pixel centres of a grid.

    Args:
        shape: number of pixels along each axis, (height, width) for pictures.
        ranges: (low, high) of the domain along each axis; [-1, 1] when absent.
        flatten: one row per pixel, in row-major order, instead of the grid's shape.

    Returns:
        float32 (prod(shape), len(shape)), or (*shape, len(shape)) when not flattened.
    """
    if ranges is None:
        ranges = [(-1.0, 1.0)] * len(shape)
    axes = [axis_coord(n, low, high) for n, (low, high) in zip(shape, ranges, strict=True)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return grid.flatten(0, -2) if flatten else grid


def axis_coord(n: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Centres of n equal parts of [low, high], float32 (n,)."""
    radius = (high - low) / (2 * n)
    return low + radius + (2 * radius) * torch.arange(n).float()


def to_pixel_samples(img: Tensor) -> tuple[Tensor, Tensor]:
    """A picture (3, H, W) as coordinates (H*W, 2) and colours (H*W, 3), in row-major order."""
    return make_coord(img.shape[-2:]).to(img.device), img.flatten(1).t()


def grid_size(cell: Tensor) -> tuple[int, int]:
    """(height, width) of the pixel grid whose cells are (2/height, 2/width).

    Args:
        cell: (..., 2), the same cell everywhere, as the wrappers make it for whole pictures.
    """
    cell_height, cell_width = cell.reshape(-1, 2)[0].tolist()
    return round(2 / cell_height), round(2 / cell_width)


def calc_psnr(
    sr: Tensor,
    hr: Tensor,
    dataset: str | None = None,
    scale: float | Sequence[float] = 1,
    rgb_range: float = 1,
) -> Tensor:
    """Peak signal-to-noise ratio in dB, of the squared error pooled over everything given.

    Args:
        sr, hr: prediction and truth, of one shape; (..., 3, H, W) when a dataset is named.
        dataset: None for plain RGB; "div2k" for RGB without a border of scale + 6 pixels;
            "rgb" for RGB, and "benchmark" for the luma of the difference, without a border of
            scale pixels.
        scale: up-scaling factor, or one per axis (rows, columns); borders round up.
        rgb_range: the largest value that a pixel can have.

    Returns:
        0-d tensor; infinite where sr equals hr.

    Raises:
        ConfigError: dataset is none of the above.
        DataError: nothing is left inside the border.
    """
    difference = (sr - hr) / rgb_range
    if dataset is not None:
        if dataset not in BORDER_EXTRA:
            names = ", ".join(map(repr, BORDER_EXTRA))
            raise ConfigError(f"dataset: {dataset!r} given; allowed: {names}, None")
        if dataset == "benchmark" and difference.shape[-3] == 3:
            weights = difference.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)
            difference = (difference * weights).sum(dim=-3, keepdim=True)
        difference = crop_border(difference, dataset, scale)
        if difference.numel() == 0:
            size, border = sr.shape[-2:], border_width(dataset, scale)
            raise DataError(
                f"a picture of {size[0]}x{size[1]} pixels has nothing left inside a border of "
                f"{border[0]}x{border[1]}"
            )
    return -10 * torch.log10(difference.square().mean())


def border_width(dataset: str | None, scale: float | Sequence[float]) -> tuple[int, int]:
    """Pixels that metrics ignore at the top and bottom, and at the left and right.

    Args:
        dataset, scale: as in `calc_psnr`; nothing is cut where dataset is None.
    """
    if dataset is None:
        return 0, 0
    scale_y, scale_x = (scale, scale) if isinstance(scale, (int, float)) else scale
    extra = BORDER_EXTRA[dataset]
    return math.ceil(scale_y) + extra, math.ceil(scale_x) + extra


def crop_border(image: Tensor, dataset: str | None, scale: float | Sequence[float]) -> Tensor:
    """An image (..., H, W) without that border; empty where the border covers all of it."""
    border_y, border_x = border_width(dataset, scale)
    height, width = image.shape[-2:]
    inside_y, inside_x = max(0, height - 2 * border_y), max(0, width - 2 * border_x)
    return image[..., border_y : border_y + inside_y, border_x : border_x + inside_x]


def time_text(seconds: float) -> str:
    """A duration for people: "45 s", "3.2 min", "5.1 h"."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{round(seconds)} s"


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which "img2" comes before "img10"."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part]


def did_you_mean(name: object, choices: Iterable[object]) -> str:
    """ " (did you mean 'liif'?)" if one of the choices is probably meant by `name`, else ""."""
    if not isinstance(name, str):
        return ""
    names = [choice for choice in choices if isinstance(choice, str)]
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def parse_scale(text: str, option: str = "scale", smallest: float = 0) -> tuple[float, float]:
    """The factors of rows and columns in "3.7", "2,3.5" or "2x3.5".

    Args:
        option: what the user gave it to, for the message.
        smallest: no factor may be smaller; 0 itself is never allowed.

    Raises:
        ConfigError: not one or two such numbers.
    """
    try:
        factors = [float(part) for part in text.lower().replace("x", ",").split(",")]
    except ValueError:
        factors = []
    sound = all(0 < factor < math.inf and factor >= smallest for factor in factors)
    if len(factors) not in (1, 2) or not sound:
        bound = f"of at least {smallest:g}" if smallest else "above 0"
        raise ConfigError(
            f"{option}: {text!r} given; allowed: S or SY,SX, numbers {bound}, such as 4 or 2,3.5"
        )
    return factors[0], factors[-1]


def check_cell_max_scale(scale: float | None) -> None:
    """Raise ConfigError for a value of `--cell-max-scale` that is no enlargement."""
    if scale is not None and not scale >= 1:
        raise ConfigError(f"--cell-max-scale: {scale:g} given; allowed: a number of at least 1")
