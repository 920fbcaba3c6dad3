"""The features of a photograph: encoded window by window when they are asked for, or kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.config import DataNorm
from engine.render.pixels import to_network
from engine.render.queries import Tile, tiles_at, tiles_of
from engine.render.tiling import Grid, Layout, Plan, Span, cuts, make_plan
from engine.runtime import autocast
from models.layers import channels_last
from models.protocol import Features, ImplicitModel, Target, each_map, maps_of

Statistic = Literal["picture", "asked"] | int  # see `ContinuousImage.represent`
SMALLEST_CELL = 1e-6  # that statistics are taken for
LEAST_SIDE = 512  # pixels along each side of a window, where all features are kept


class Kept(NamedTuple):
    """Maps of a rectangle of codes, for any number of renderings."""

    rows: Span
    columns: Span
    maps: Features


class Source:
    """Where the features of a window come from.

    Args:
        model: in evaluation mode, on `device`.
        size: (H, W) of the photograph.
        precision: of matrix products.
        norm: between [0, 1] and the units of the network.
        pixels: (H, W, 1 to 4), uint8, uint16, or float in [0, 1]; alpha is left out.
        features: instead, what the model's `encode` makes of the whole photograph.
        shown: (H, W) of the part at the top left that is no mirror image (`ImplicitModel.window`).
        query_chunk: the most queries at once.
        cell_max_scale, statistic: see `ContinuousImage.represent`.
    """

    def __init__(
        self,
        model: ImplicitModel,
        size: tuple[int, int],
        device: torch.device,
        precision: str,
        norm: DataNorm,
        pixels: np.ndarray | None = None,
        features: Features | None = None,
        *,
        shown: tuple[int, int],
        query_chunk: int,
        cell_max_scale: float | None = None,
        statistic: Statistic = "picture",
    ) -> None:
        self.model = model
        self.size = size
        self.device = device
        self.precision = precision
        self.norm = norm
        self.pixels = pixels
        self.shown = shown
        self.query_chunk = query_chunk
        self.statistic = statistic
        self.pictures: dict[tuple[int, int], tuple[Tensor, ...]] = {}  # means, by size
        limit = math.inf if cell_max_scale is None else cell_max_scale
        self.smallest_cell = 2 / (limit * size[0]), 2 / (limit * size[1])
        self.codes = size[0] * model.upscale, size[1] * model.upscale
        self.everything: tuple[Span, Span] = (0, self.codes[0]), (0, self.codes[1])
        self.kept = None if features is None else Kept(*self.everything, features)

    @property
    def layout(self) -> Layout:
        margin = 0 if self.holds(*self.everything) else self.model.halo or 0
        return Layout(self.size, self.model.upscale, self.model.reach, margin)

    def holds(self, rows: Span, columns: Span) -> bool:
        """Whether the maps of these rows and columns of codes are kept."""
        if self.kept is None:
            return False
        return inside(rows, self.kept.rows) and inside(columns, self.kept.columns)

    def window(self, rows: Span, columns: Span, target: Target) -> Features:
        """What queries look up, of these rows and columns of codes: maps (1, C, h, w).

        Of no use at its outermost codes, unless the picture ends there: `project` may look at
        codes around each.
        """
        # Cut before it is projected, as that makes it several times as large.
        return self.model.project(self.maps(rows, columns), target)

    def maps(self, rows: Span, columns: Span) -> Features:
        """The encoder's maps, cut to rows and columns of codes."""
        if self.kept is not None and self.model.reach is None:
            return self.kept.maps  # of a size of their own, and windows are the whole picture
        if self.kept is not None and self.holds(rows, columns):
            return cut(
                self.kept.maps, moved(rows, self.kept.rows[0]), moved(columns, self.kept.columns[0])
            )
        high, wide = self.layout.pixels(0, rows), self.layout.pixels(1, columns)
        top, left = high[0] * self.model.upscale, wide[0] * self.model.upscale
        return cut(self.encode(high, wide), moved(rows, top), moved(columns, left))

    def encode(self, rows: Span, columns: Span) -> Features:
        """The encoder's maps of these rows and columns of pixels, at once."""
        assert self.pixels is not None
        inp = to_network(self.pixels[slice(*rows), slice(*columns)], self.norm)
        return self.model.encode(inp.to(self.device))

    def tiles(self, grid: Grid, plan: Plan) -> Iterator[Tile]:
        """The tiles of a plan; chunks belong to (rows, columns) of the grid."""
        return tiles_of(grid, plan, self.layout, self.query_chunk, self.device)

    def tiles_at(self, coord: Tensor, cell: tuple[float, float]) -> Iterator[Tile]:
        """Tiles for coord (Q, 2) in any order; chunks belong to indices of it."""
        return tiles_at(coord, cell, self.layout, self.query_chunk)

    def target(
        self, cell: tuple[float, float], count: int, tiles: Callable[[], Iterable[Tile]]
    ) -> Target:
        """What the model has to know of all `count` queries before it answers the first."""
        if not self.model.passes:
            return self.told(cell)
        if self.statistic != "picture":
            return self.told(cell, self.means(cell, count, tiles))
        # A cell of no extent gets the finest pixels there are.
        height, width = (
            max(1, round(2 * own / (whole * max(length, SMALLEST_CELL))))
            for own, whole, length in zip(self.shown, self.size, cell, strict=True)
        )
        if (height, width) not in self.pictures:
            grid = Grid(self.shown, height, width).within(self.size)
            even = grid.even()
            plan = make_plan(self.layout, even, 3)
            self.pictures[height, width] = self.means(
                grid.cell, even.height * even.width, lambda: self.tiles(even, plan)
            )
        return self.told(cell, self.pictures[height, width])

    def told(self, cell: tuple[float, float], means: tuple[Tensor, ...] = ()) -> Target:
        """A target of pixels of this size."""
        clipped = [max(pair) for pair in zip(cell, self.smallest_cell, strict=True)]
        return Target(torch.tensor([clipped], device=self.device), self.codes, means)

    def means(
        self, cell: tuple[float, float], count: int, tiles: Callable[[], Iterable[Tile]]
    ) -> tuple[Tensor, ...]:
        """The means over all `count` queries that the model needs, one for each of its passes."""
        means: tuple[Tensor, ...] = ()
        for _ in range(self.model.passes):
            total, target = torch.zeros((), device=self.device), self.told(cell, means)
            for tile in tiles():
                for _, values in self.ask(tile, target, measure=True):
                    total = total + values
            means = (*means, total / count)
        return means

    @torch.inference_mode()
    def ask(
        self, tile: Tile, target: Target, measure: bool = False
    ) -> Iterator[tuple[Any, Tensor]]:
        """Where each chunk of a tile belongs, and its colours (1, Q, 3) in the network's units.

        measure: what the model accumulates instead.
        """
        query = self.model.accumulate if measure else self.model.query_rgb
        size, origin = self.codes, (tile.rows[0], tile.columns[0])
        with autocast(self.device, self.precision):
            feat = self.window(tile.rows, tile.columns, target)
        for place, coord in tile.queries:
            cell = target.cell[:, None].expand_as(coord)
            with autocast(self.device, self.precision):
                values = query(feat, coord.to(self.device), cell, size=size, origin=origin)
            yield place, values

    @torch.inference_mode()
    def keep(self, rows: Span | None = None, columns: Span | None = None) -> Features:
        """Encode these rows and columns of codes, all if None, unless they are kept already.

        Window by window into the result; at once where features depend on the whole picture.
        Windows inside are then cut out of them.
        """
        rows, columns = rows or self.everything[0], columns or self.everything[1]
        if self.model.halo is None:
            rows, columns = self.everything
        if self.kept is None or not self.holds(rows, columns):
            with autocast(self.device, self.precision):
                self.kept = Kept(rows, columns, self.encode_windows(rows, columns))
        return self.kept.maps

    def encode_windows(self, rows: Span, columns: Span) -> Features:
        """The encoder's maps of these rows and columns of codes."""
        if self.model.halo is None:
            return self.encode((0, self.size[0]), (0, self.size[1]))
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        side = max(LEAST_SIDE, 2 * self.model.halo) * self.model.upscale
        whole: Features | None = None
        for down, across in itertools.product(
            cuts(height, -(-height // side)), cuts(width, -(-width // side))
        ):
            window = self.maps(moved(down, -rows[0]), moved(across, -columns[0]))
            if whole is None:
                whole = each_map(  # in memory (1, h, w, c)
                    window,
                    lambda one: one.new_empty(1, height, width, one.shape[1]).permute(0, 3, 1, 2),
                )
            for into, one in zip(maps_of(whole), maps_of(window), strict=True):
                into[..., slice(*down), slice(*across)] = one
        assert whole is not None
        return whole


def moved(span: Span, origin: int) -> Span:
    """A span counted from another origin."""
    return span[0] - origin, span[1] - origin


def inside(span: Span, other: Span) -> bool:
    return other[0] <= span[0] and span[1] <= other[1]


def cut(maps: Features, rows: Span, columns: Span) -> Features:
    """Rows and columns of maps (B, C, h, w), in the layout that is fastest to look up."""
    return each_map(maps, lambda one: channels_last(one[..., slice(*rows), slice(*columns)]))
