"""Coordinates, pixel samples, PSNR and a few small helpers. Imports nothing of this project.

Coordinates are (y, x), in that order, in [-1, 1] over the whole picture; a pixel's coordinate is
that of its centre.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

# What a difference in R, G and B (range 1) does to luma (ITU-R BT.601, in 256ths).
LUMA_WEIGHTS = (65.738 / 256, 129.057 / 256, 25.064 / 256)


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
            "benchmark" for the luma of the difference without a border of scale pixels.
        scale: up-scaling factor, or one per axis (rows, columns); borders round up.
        rgb_range: the largest value that a pixel can have.

    Returns:
        0-d tensor; infinite where sr equals hr.

    Raises:
        ConfigError: dataset is none of the above.
    """
    difference = (sr - hr) / rgb_range
    if dataset is not None:
        if dataset not in ("benchmark", "div2k"):
            raise ConfigError(f"dataset: {dataset!r} given; allowed: 'benchmark', 'div2k' or None")
        if dataset == "benchmark" and difference.shape[-3] == 3:
            weights = difference.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)
            difference = (difference * weights).sum(dim=-3, keepdim=True)
        difference = crop_border(difference, scale, extra=6 if dataset == "div2k" else 0)
    return -10 * torch.log10(difference.square().mean())


def crop_border(image: Tensor, scale: float | Sequence[float], extra: int = 0) -> Tensor:
    """Without the ceil(scale) + extra outermost pixels of each side; image (..., H, W)."""
    scale_y, scale_x = (scale, scale) if isinstance(scale, (int, float)) else scale
    border_y, border_x = math.ceil(scale_y) + extra, math.ceil(scale_x) + extra
    height, width = image.shape[-2:]
    if height <= 2 * border_y or width <= 2 * border_x:
        raise DataError(
            f"a picture of {height}x{width} pixels has nothing left inside a border of "
            f"{border_y}x{border_x}"
        )
    return image[..., border_y : height - border_y, border_x : width - border_x]


class Averager:
    """A weighted mean that is fed bit by bit."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0.0

    def add(self, value: float, n: float = 1) -> None:
        self.total += float(value) * n
        self.count += n

    def item(self) -> float:
        """The mean so far; nan before the first value."""
        return self.total / self.count if self.count else math.nan


def time_text(seconds: float) -> str:
    """A duration for people: "45s", "3.2m", "5.1h"."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f}h"
    return f"{seconds / 60:.1f}m" if seconds >= 60 else f"{round(seconds)}s"


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which "img2" comes before "img10"."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part]


def count_values(value: object, known: dict[int, int] | None = None) -> int:
    """How many values nested dictionaries, lists and tuples hold, themselves included.

    What stands in several places counts as often. YAML and pickle can name a part again instead of
    repeating it, so a few bytes may stand for more than any loop gets through; this doesn't loop.

    Raises:
        RecursionError: nested too deeply, or a part that contains itself.
    """
    known = {} if known is None else known
    if not isinstance(value, (Mapping, list, tuple)):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(count_values(part, known) for part in parts)
    return known[id(value)]


def nearest_name(name: object, choices: Iterable[str]) -> str | None:
    """The choice that name is probably a misspelling of, if any."""
    if not isinstance(name, str):
        return None
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return matches[0] if matches else None
