"""Whole pictures in bounded memory: which windows to encode, and their pixels band by band.

A picture is rendered in bands of output rows, and a band in blocks. A block needs the codes around
its pixels, and those the input pixels within the model's halo, so nothing larger than one window
is ever encoded, and nothing larger than one band is ever held. What a block computes is, up to
rounding, what it would be in the whole picture: the window ends where the picture ends, or a halo
away from every code that is used.

Sizes are (height, width); boxes (top, left, bottom, right); coordinates (y, x) in [-1, 1].
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from engine.normalisation import denormalise, norm_of
from engine.runtime import autocast
from models.layers import channels_last
from utils import ConfigError, axis_coord

Span = tuple[int, int]  # first, and one past the last
Box = tuple[float, float, float, float]

# Input pixels encoded at once, halo included, unless the halo asks for more. It bounds memory:
# EDSR-baseline-LIIF peaks below 1 GB, Python and PyTorch included. For what a size costs in time,
# see `benchmarks/render.py --windows`.
WINDOW = 1 << 17
BAND = 1 << 25  # bytes of a band of output rows, all of its width


@dataclass(frozen=True)
class Grid:
    """The pixels asked for: `height` rows and `width` columns over a box of the picture.

    size: of the picture, in its own pixels.
    box: in those pixels, fractions allowed; None for the whole picture.

    Raises ConfigError: no pixels, or a box that is empty or not inside the picture.
    """

    size: tuple[int, int]
    height: int
    width: int
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ConfigError(f"{self.height}x{self.width} pixels asked for; allowed: 1x1 and more")
        top, left, bottom, right = self.area
        # Comparisons that nan fails, too.
        if not (0 <= top < bottom <= self.size[0] and 0 <= left < right <= self.size[1]):
            box = ",".join(f"{edge:g}" for edge in self.area)
            raise ConfigError(
                f"box: {box} given; allowed: TOP,LEFT,BOTTOM,RIGHT with TOP < BOTTOM and LEFT < "
                f"RIGHT inside the picture, which is 0,0,{self.size[0]},{self.size[1]}"
            )

    @property
    def area(self) -> Box:
        return self.box or (0, 0, self.size[0], self.size[1])

    @cached_property
    def rows(self) -> Tensor:
        """y of the rows, float32 (height,)."""
        return positions(self.height, self.area[0], self.area[2], self.size[0])

    @cached_property
    def columns(self) -> Tensor:
        """x of the columns, float32 (width,)."""
        return positions(self.width, self.area[1], self.area[3], self.size[1])

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width of a pixel, in the units of the coordinates."""
        top, left, bottom, right = self.area
        return (
            2 * (bottom - top) / (self.size[0] * self.height),
            2 * (right - left) / (self.size[1] * self.width),
        )


def positions(count: int, start: float, stop: float, extent: int) -> Tensor:
    """Centres of `count` equal parts of [start, stop] out of [0, extent], as float32 in [-1, 1].

    A part of a whole grid has, bit for bit, that grid's coordinates; rendering a box is then
    rendering a part of the whole.
    """
    whole = count * extent / (stop - start)
    first = start * whole / extent
    total, offset = round(whole), round(first)
    close = abs(whole - total) < 1e-9 * total and abs(first - offset) < 1e-9 * total
    if close and total < 1 << 24:
        return axis_coord(total)[offset : offset + count]
    centres = start + (torch.arange(count, dtype=torch.float64) + 0.5) * ((stop - start) / count)
    return (centres * (2 / extent) - 1).float()


class Source(abc.ABC):
    """Where the codes of a window come from.

    Args:
        model: at evaluation, on `device`.
        size: (H, W) of the photograph in pixels; there are `upscale` times as many codes.
        margin: how many pixels around a window's codes decide them.
    """

    def __init__(
        self, model: nn.Module, size: tuple[int, int], device: torch.device, margin: int
    ) -> None:
        self.model = model
        self.size = size
        self.device = device
        self.margin = margin
        self.upscale = cast(int, model.upscale)

    @abc.abstractmethod
    def codes(self, rows: Span, columns: Span) -> Tensor:
        """The encoder's output, cut to rows and columns of codes: (1, c, h, w)."""

    def window(self, rows: Span, columns: Span) -> Tensor:
        """What `query_rgb` takes, of these rows and columns of codes: (1, C, h, w).

        Of no use at its outermost codes, unless the picture ends there: feature unfolding looks
        at one code more on every side.
        """
        # Cut before it is projected, as that makes it several times as large.
        project = cast(Callable[[Tensor], Tensor], self.model.project)
        return project(channels_last(self.codes(rows, columns)))


@dataclass(frozen=True)
class Plan:
    """How output pixels are divided: bands of rows, each in blocks of columns."""

    bands: tuple[Span, ...]
    blocks: tuple[Span, ...]


def make_plan(source: Source, grid: Grid, pixel_bytes: int, tile: int | None = None) -> Plan:
    """The division that encodes the fewest pixels with windows and bands of bounded size.

    pixel_bytes: of an output pixel, as it is held until its band is complete.
    tile: instead, windows that reach at most about this many input pixels without their margin.
    """
    rows_per_band = max(1, BAND // (grid.width * pixel_bytes))
    bands_needed = math.ceil(grid.height / rows_per_band)
    if tile is not None:
        top, left, bottom, right = grid.area
        bands = max(bands_needed, math.ceil((bottom - top) / tile))
        return divide(grid, bands, math.ceil((right - left) / tile))
    budget = max(WINDOW, (4 * source.margin + 16) ** 2)
    best: tuple[int, Plan] | None = None
    for blocks in range(1, grid.width + 1):
        plan, encoded = narrowest(source, grid, bands_needed, blocks, budget)
        if plan is not None and (best is None or encoded < best[0]):
            best = encoded, plan
        elif best is not None and blocks > 2 * len(best[1].blocks):
            break  # more blocks mean more margin; nothing better follows
    return best[1] if best else divide(grid, grid.height, grid.width)


def narrowest(
    source: Source, grid: Grid, bands: int, blocks: int, budget: int
) -> tuple[Plan | None, int]:
    """The fewest bands, at least `bands`, whose windows fit, and the pixels then encoded."""
    widths = read_lengths(source, grid, 1, blocks)
    room = budget // max(widths)
    while bands <= grid.height:
        heights = read_lengths(source, grid, 0, bands)
        if max(heights) <= room:
            return divide(grid, bands, blocks), sum(heights) * sum(widths)
        # As many more as the excess asks for, so that few steps are needed.
        bands = max(bands + 1, min(bands * max(heights) // room, 2 * bands) - 1)
    return None, 0


def read_lengths(source: Source, grid: Grid, axis: int, parts: int) -> list[int]:
    """How many input pixels along an axis have to be read for each part of the grid."""
    lengths = []
    for span in cuts((grid.height, grid.width)[axis], parts):
        low, high = pixels_around(source, axis, codes_around(source, grid, axis, span))
        lengths.append(high - low)
    return lengths


def divide(grid: Grid, bands: int, blocks: int) -> Plan:
    return Plan(cuts(grid.height, bands), cuts(grid.width, blocks))


def cuts(length: int, parts: int) -> tuple[Span, ...]:
    """`length` in at most `parts` pieces as equal as can be."""
    parts = min(parts, length)
    edges = [length * part // parts for part in range(parts + 1)]
    return tuple(itertools.pairwise(edges))


def codes_around(source: Source, grid: Grid, axis: int, span: Span) -> Span:
    """The window along an axis that answers the pixels of a span of it."""
    positions = (grid.rows, grid.columns)[axis]
    first, last = positions[span[0]].item(), positions[span[1] - 1].item()
    return codes_of(source.size[axis] * source.upscale, first, last, grid.cell[axis])


def codes_of(count: int, first: float, last: float, cell: float) -> Span:
    """The window of `count` codes that answers queries from `first` to `last` in [-1, 1]."""
    # At most one code away, and for Meta-SR another half of the pixel asked for; and around
    # these one that feature unfolding looks at.
    slack = 2 + math.ceil(cell * count / 4)
    low = math.floor(((first + 1) * count - 1) / 2) - slack
    high = math.ceil(((last + 1) * count - 1) / 2) + slack + 1
    return max(0, low), min(count, high)


def pixels_around(source: Source, axis: int, codes: Span) -> Span:
    """The input pixels that decide a span of codes."""
    low = codes[0] // source.upscale - source.margin
    high = -(-codes[1] // source.upscale) + source.margin
    return max(0, low), min(source.size[axis], high)


def render_bands(
    source: Source,
    grid: Grid,
    dtype: np.dtype | type,
    precision: str = "fp32",
    tile: int | None = None,
    report: Callable[[int], object] | None = None,
) -> Iterator[np.ndarray]:
    """The pixels of a grid as bands of rows (n, width, 3), from top to bottom.

    dtype: float32 for [0, 1]; uint8 or uint16 for their whole range, rounded.
    tile: see `make_plan`.
    report: called with the number of pixels done since the last call.
    """
    plan = make_plan(source, grid, 3 * np.dtype(dtype).itemsize, tile)
    for band in plan.bands:
        pixels = np.empty((band[1] - band[0], grid.width, 3), dtype)
        for block in plan.blocks:
            render_block(source, grid, band, block, precision, pixels, report)
        yield pixels


@torch.inference_mode()
def render_block(
    source: Source,
    grid: Grid,
    band: Span,
    block: Span,
    precision: str,
    pixels: np.ndarray,
    report: Callable[[int], object] | None,
) -> None:
    """Write the pixels of one block into its band (n, width, 3)."""
    rows = codes_around(source, grid, 0, band)
    columns = codes_around(source, grid, 1, block)
    with autocast(source.device, precision):
        feat = source.window(rows, columns)
        for part_rows, part_columns in chunks(band, block, source.model.query_chunk):  # type: ignore[arg-type]
            colours = query_part(source, grid, feat, (rows[0], columns[0]), part_rows, part_columns)
            top, bottom = part_rows[0] - band[0], part_rows[1] - band[0]
            pixels[top:bottom, slice(*part_columns)] = to_pixels(colours, pixels.dtype)
            if report is not None:
                report((bottom - top) * (part_columns[1] - part_columns[0]))


def chunks(band: Span, block: Span, queries: int) -> Iterator[tuple[Span, Span]]:
    """Pieces of a block of at most so many pixels, squarish: their codes stay in the cache."""
    height, width = band[1] - band[0], block[1] - block[0]
    side = max(1, math.isqrt(queries))
    across = math.ceil(width / max(side, queries // height))
    down = math.ceil(height / max(1, queries // math.ceil(width / across)))
    for top, bottom in cuts(height, down):
        for left, right in cuts(width, across):
            yield (band[0] + top, band[0] + bottom), (block[0] + left, block[0] + right)


def query_part(
    source: Source, grid: Grid, feat: Tensor, origin: tuple[int, int], rows: Span, columns: Span
) -> Tensor:
    """Colours in [0, 1] of a piece of the grid: float32 (n, m, 3)."""
    y = grid.rows[slice(*rows)].to(feat.device)
    x = grid.columns[slice(*columns)].to(feat.device)
    shape = len(y), len(x)
    coord = torch.stack([y[:, None].expand(shape), x.expand(shape)], dim=-1).view(1, -1, 2)
    cell = coord.new_tensor(grid.cell).expand_as(coord)
    size = (source.size[0] * source.upscale, source.size[1] * source.upscale)
    colours = source.model.query_rgb(feat, coord, cell, size=size, origin=origin)  # type: ignore[operator]
    return denormalise(colours, norm_of(source.model).gt).view(*shape, 3)


def to_pixels(colours: Tensor, dtype: np.dtype) -> np.ndarray:
    """Colours in [0, 1] as pixels, rounded where these are whole numbers."""
    if dtype.kind == "f":
        return colours.cpu().numpy()
    return colours.mul_(np.iinfo(dtype).max).round_().cpu().numpy().astype(dtype)
