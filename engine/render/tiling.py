"""Whole pictures in bounded memory: how output pixels are divided, and what each part needs.

A picture is rendered in bands of output rows, and a band in tiles. A tile needs a window of the
codes around its pixels, and that the input pixels within the model's halo, so nothing larger than
one window is ever encoded, and nothing larger than one band is ever held. What a tile shows is, up
to rounding, what it would be in the whole picture: the window ends where the picture ends, or a
halo away from every code that is used. Its queries are answered in chunks.

Sizes are (height, width); boxes (top, left, bottom, right); coordinates (y, x) in [-1, 1].
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from utils import ConfigError, axis_coord

Span = tuple[int, int]  # first, and one past the last
Box = tuple[float, float, float, float]

# Input pixels encoded at once, halo included, unless the halo asks for more. It bounds memory:
# EDSR-baseline-LIIF peaks below 1 GB, Python and PyTorch included. For what a size costs in time,
# see `benchmarks/render.py --windows`.
WINDOW = 1 << 17
BAND = 1 << 25  # bytes of a band of output rows, all of its width
# Pixels over which a mean over a whole picture is taken at most.
EVEN_PIXELS = 4_000_000


@dataclass(frozen=True)
class Grid:
    """The pixels asked for: `height` rows and `width` columns over a box of the picture.

    Args:
        size: of the picture, in its own pixels.
        box: in those pixels, fractions allowed; None for the whole picture.

    Raises:
        ConfigError: no pixels, or a box that is empty or not inside the picture.
    """

    size: tuple[int, int]
    height: int
    width: int
    box: Box | None = None

    def __post_init__(self) -> None:
        for length in (self.height, self.width):
            if not isinstance(length, numbers.Integral) or length < 1:
                raise ConfigError(
                    f"{self.height}x{self.width} pixels asked for; allowed: whole numbers from 1 on"
                )
        if len(self.area) != 4:
            raise ConfigError(f"box: {self.box} given; allowed: four numbers")
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

    def within(self, size: tuple[int, int]) -> Grid:
        """The same pixels, of a picture that goes on to this size at the bottom and right."""
        return self if size == self.size else replace(self, size=size, box=self.area)

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width of a pixel, in the units of the coordinates."""
        top, left, bottom, right = self.area
        return (
            2 * (bottom - top) / (self.size[0] * self.height),
            2 * (right - left) / (self.size[1] * self.width),
        )

    def even(self) -> Grid:
        """Every n-th of its rows and columns, with the n that leave at most `EVEN_PIXELS`.

        They are odd, so that pixels n times as large have the same centres, and have no factor in
        common with the pattern in which pixels lie around codes, so that every place around a
        code is as frequent as among all pixels.
        """
        top, left, bottom, right = self.area
        lengths, steps = (self.height, self.width), [1, 1]
        extents = round(bottom - top), round(right - left)
        while (lengths[0] // steps[0]) * (lengths[1] // steps[1]) > EVEN_PIXELS:
            axis = int(lengths[0] // steps[0] < lengths[1] // steps[1])  # the one with more left
            period = lengths[axis] // math.gcd(lengths[axis], extents[axis])
            steps[axis] += 2
            while math.gcd(steps[axis], period) > 1:
                steps[axis] += 2
        height, width = (length // step for length, step in zip(lengths, steps, strict=True))
        bottom = top + (bottom - top) * (height * steps[0] / self.height)
        right = left + (right - left) * (width * steps[1] / self.width)
        return Grid(self.size, height, width, (top, left, bottom, right))

    def strips(self, rows: int) -> Iterator[Grid]:
        """Parts of so many rows, from top to bottom; the last one has what remains."""
        top, left, bottom, right = self.area
        for first in range(0, self.height, rows):
            last = min(first + rows, self.height)
            # A mean of both ends, which rounding leaves inside.
            start, stop = (
                top * (1 - edge / self.height) + bottom * (edge / self.height)
                for edge in (first, last)
            )
            yield replace(self, height=last - first, box=(start, left, stop, right))


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


@dataclass(frozen=True)
class Layout:
    """How the codes of a picture lie over its pixels, and how far around each matter.

    Args:
        size: (H, W) of the picture in pixels; there are `upscale` times as many codes.
        upscale, reach: see `models.protocol.ImplicitModel`.
        margin: how many pixels around a window have to be read for it.
    """

    size: tuple[int, int]
    upscale: int
    reach: int | None
    margin: int

    @property
    def codes(self) -> tuple[int, int]:
        """Rows and columns of codes."""
        return self.size[0] * self.upscale, self.size[1] * self.upscale

    def window(self, axis: int, first: float, last: float, cell: float) -> Span:
        """The codes along an axis that answer queries from `first` to `last` in [-1, 1].

        Args:
            cell: extent of a query's pixel in the same units.
        """
        count = self.codes[axis]
        if self.reach is None:
            return 0, count
        # Meta-SR looks from the corner of the pixel asked for, half of it away.
        slack = self.reach + math.ceil(cell * count / 4)
        low = math.floor(((first + 1) * count - 1) / 2) - slack
        high = math.ceil(((last + 1) * count - 1) / 2) + slack + 1
        return max(0, low), min(count, high)

    def window_of(self, grid: Grid, axis: int, span: Span) -> Span:
        """The codes along an axis that answer a span of a grid's rows or columns."""
        places = (grid.rows, grid.columns)[axis]
        first, last = places[span[0]].item(), places[span[1] - 1].item()
        return self.window(axis, first, last, grid.cell[axis])

    def pixels(self, axis: int, window: Span) -> Span:
        """The input pixels along an axis that decide a window of codes."""
        low = window[0] // self.upscale - self.margin
        high = -(-window[1] // self.upscale) + self.margin
        return max(0, low), min(self.size[axis], high)


class Plan(NamedTuple):
    """How output pixels are divided: bands of rows, each in tiles of so many columns."""

    bands: tuple[Span, ...]
    tiles: tuple[Span, ...]


def make_plan(layout: Layout, grid: Grid, pixel_bytes: int) -> Plan:
    """The division that encodes the fewest pixels with windows and bands of bounded size.

    Args:
        pixel_bytes: of an output pixel, as it is held until its band is complete.
    """
    fewest = math.ceil(grid.height / max(1, BAND // (grid.width * pixel_bytes)))
    if layout.reach is None:
        return Plan(cuts(grid.height, fewest), cuts(grid.width, 1))
    budget = max(WINDOW, (4 * layout.margin + 16) ** 2)
    best, least = Plan(cuts(grid.height, grid.height), cuts(grid.width, grid.width)), math.inf
    for tiles in range(1, grid.width + 1):
        if math.isfinite(least) and tiles > 2 * len(best.tiles):
            break  # more tiles mean more margin; nothing better follows
        widths, bands = read_lengths(layout, grid, 1, tiles), fewest
        room = budget // max(widths)  # 0 where even a single row of a tile is too wide
        while room and bands <= grid.height:
            heights = read_lengths(layout, grid, 0, bands)
            if max(heights) <= room:
                if sum(heights) * sum(widths) < least:
                    least = sum(heights) * sum(widths)
                    best = Plan(cuts(grid.height, bands), cuts(grid.width, tiles))
                break
            # As many more as the excess asks for, so that few steps are needed.
            bands = max(bands + 1, min(bands * max(heights) // room, 2 * bands) - 1)
    return best


def read_lengths(layout: Layout, grid: Grid, axis: int, count: int) -> list[int]:
    """How many input pixels along an axis are read for each of `count` spans of the grid."""
    spans = cuts((grid.height, grid.width)[axis], count)
    pixels = (layout.pixels(axis, layout.window_of(grid, axis, span)) for span in spans)
    return [high - low for low, high in pixels]


def cuts(length: int, count: int) -> tuple[Span, ...]:
    """`length` in at most `count` spans as equal as can be."""
    count = min(count, length)
    edges = [length * number // count for number in range(count + 1)]
    return tuple(itertools.pairwise(edges))


def chunks(band: Span, tile: Span, queries: int) -> Iterator[tuple[Span, Span]]:
    """Rows and columns of a tile's chunks of at most so many pixels.

    They are squarish: their codes stay in the cache.
    """
    height, width = band[1] - band[0], tile[1] - tile[0]
    side = max(1, math.isqrt(queries))
    across = math.ceil(width / max(side, queries // height))
    down = math.ceil(height / max(1, queries // math.ceil(width / across)))
    for top, bottom in cuts(height, down):
        for left, right in cuts(width, across):
            yield (band[0] + top, band[0] + bottom), (tile[0] + left, tile[0] + right)


def split_by_rows(size: tuple[int, int], coord: Tensor) -> Iterator[Tensor]:
    """Indices of coord (Q, 2) in groups, each within few enough rows of codes for one window."""
    height, width = size
    rows = max(1, WINDOW // width)
    group = ((coord[:, 0] + 1) * (height / 2 / rows)).long()
    order = group.argsort(stable=True)
    counts = torch.unique_consecutive(group[order], return_counts=True)[1]
    yield from order.split(counts.tolist())
