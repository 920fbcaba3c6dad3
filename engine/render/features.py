"""The features of a photograph: encoded window by window when they are asked for, or kept."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.config import DataNorm
from engine.render.pixels import to_network
from engine.render.tiling import Grid, Layout, Plan, Span, chunks, cuts, make_plan, split_by_rows
from engine.runtime import autocast
from models.layers import channels_last
from models.protocol import Features, ImplicitModel, Target, each_map, maps_of

Statistic = Literal["picture", "asked"] | int  # see `ContinuousImage.represent`
SMALLEST_CELL = 1e-6  # that statistics are taken for
LEAST_SIDE = 512  # pixels along each side of a window, where all features are kept


class Tile(NamedTuple):
    """Queries that one window of features answers.

    Attributes:
        rows, columns: of the window's codes.
        queries: chunks of them, each with where its colours belong and coord (1, Q, 2).
    """

    rows: Span
    columns: Span
    queries: Iterable[tuple[Any, Tensor]]


class Kept(NamedTuple):
    """Maps of a rectangle of codes, for any number of renderings."""

    rows: Span
    columns: Span
    maps: Features


class Blocks:
    """Maps of squares of codes, encoded when they are first asked for; those last used are kept.

    Args:
        budget: bytes that are kept at most.
    """

    SIDE = 128  # pixels along each side; less would encode more of halos, more what is not shown

    def __init__(self, budget: int) -> None:
        self.budget, self.used = budget, 0
        self.kept: OrderedDict[tuple[int, int], Features] = OrderedDict()

    def maps(self, source: Source, rows: Span, columns: Span) -> Features:
        """The encoder's maps of rows and columns of codes, out of the blocks that they meet."""
        side = self.SIDE * source.model.upscale
        places = itertools.product(
            *(range(span[0] // side, -(-span[1] // side)) for span in (rows, columns))
        )
        pieces = (self.block(source, down, across, side) for down, across in places)
        return assembled(rows, columns, pieces)

    def block(
        self, source: Source, down: int, across: int, side: int
    ) -> tuple[Span, Span, Features]:
        rows = (down * side, min((down + 1) * side, source.codes[0]))
        columns = (across * side, min((across + 1) * side, source.codes[1]))
        maps = self.kept.pop((down, across), None)
        if maps is None:
            maps = source.encoded(rows, columns)
            self.used += size_of(maps)
        self.kept[down, across] = maps
        while self.used > self.budget and len(self.kept) > 1:
            self.used -= size_of(self.kept.popitem(last=False)[1])
        return rows, columns, maps


def size_of(maps: Features) -> int:
    """Bytes that maps take."""
    return sum(one.numel() * one.element_size() for one in maps_of(maps))


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
        cell_max_scale, statistic, cache_bytes: see `ContinuousImage.represent`.
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
        cache_bytes: int | None = None,
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
        self.blocks = None if cache_bytes is None else Blocks(cache_bytes)

    @property
    def layout(self) -> Layout:
        held = self.blocks is not None or self.holds(*self.everything)
        margin = 0 if held else self.model.halo or 0
        return Layout(self.size, self.model.upscale, self.model.reach, margin)

    def holds(self, rows: Span, columns: Span) -> bool:
        """Whether the maps of these rows and columns of codes are kept."""
        if self.kept is None:
            return False
        return inside(rows, self.kept.rows) and inside(columns, self.kept.columns)

    def maps(self, rows: Span, columns: Span) -> Features:
        """The encoder's maps, cut to rows and columns of codes."""
        if self.kept is not None and self.model.reach is None:
            return self.kept.maps  # of a size of their own, and windows are the whole picture
        if self.kept is not None and self.holds(rows, columns):
            return cut(
                self.kept.maps, moved(rows, self.kept.rows[0]), moved(columns, self.kept.columns[0])
            )
        if self.blocks is not None:
            return self.blocks.maps(self, rows, columns)
        return self.encoded(rows, columns)

    def encoded(self, rows: Span, columns: Span) -> Features:
        """The encoder's maps of rows and columns of codes, encoded now with a halo around them."""
        layout = Layout(self.size, self.model.upscale, self.model.reach, self.model.halo or 0)
        high, wide = layout.pixels(0, rows), layout.pixels(1, columns)
        top, left = high[0] * self.model.upscale, wide[0] * self.model.upscale
        return cut(self.encode(high, wide), moved(rows, top), moved(columns, left))

    def encode(self, rows: Span, columns: Span) -> Features:
        """The encoder's maps of these rows and columns of pixels, at once."""
        assert self.pixels is not None
        inp = to_network(self.pixels[slice(*rows), slice(*columns)], self.norm)
        return self.model.encode(inp.to(self.device))

    def tiles(self, grid: Grid, plan: Plan) -> Iterator[Tile]:
        """The tiles of a plan; chunks belong to (rows, columns) of the grid."""
        layout = self.layout
        for band, span in itertools.product(plan.bands, plan.tiles):
            rows, columns = layout.window_of(grid, 0, band), layout.window_of(grid, 1, span)
            places = chunks(band, span, self.query_chunk)
            yield Tile(rows, columns, ((place, self.rectangle(grid, *place)) for place in places))

    def rectangle(self, grid: Grid, rows: Span, columns: Span) -> Tensor:
        """Coordinates (1, Q, 2) of a rectangle of a grid, row by row, made on the device."""
        y, x = grid.rows[slice(*rows)], grid.columns[slice(*columns)]
        return torch.cartesian_prod(y.to(self.device), x.to(self.device))[None]

    def tiles_at(self, coord: Tensor, cell: tuple[float, float]) -> Iterator[Tile]:
        """Tiles for coord (Q, 2) in any order; chunks belong to indices of it."""
        layout, most = self.layout, self.query_chunk
        for index in split_by_rows(layout.size, coord):
            group = coord[index]
            low, high = group.amin(0).tolist(), group.amax(0).tolist()
            rows = layout.window(0, low[0], high[0], cell[0])
            columns = layout.window(1, low[1], high[1], cell[1])
            queries = zip(index.split(most), group[None].split(most, 1), strict=True)
            yield Tile(rows, columns, queries)

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
            # Cut before they are projected, which makes them several times as large. Of no use at
            # the outermost codes inside the picture: `project` may look at those around each.
            feat = self.model.project(self.maps(tile.rows, tile.columns), target)
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
        """The encoder's maps of these rows and columns of codes, window by window."""
        if self.model.halo is None:
            return self.encode((0, self.size[0]), (0, self.size[1]))
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        side = max(LEAST_SIDE, 2 * self.model.halo) * self.model.upscale
        spans = itertools.product(
            (moved(span, -rows[0]) for span in cuts(height, -(-height // side))),
            [moved(span, -columns[0]) for span in cuts(width, -(-width // side))],
        )
        return assembled(rows, columns, ((*pair, self.encoded(*pair)) for pair in spans))


def assembled(rows: Span, columns: Span, pieces: Iterable[tuple[Span, Span, Features]]) -> Features:
    """Maps of rows and columns of codes, out of pieces (rows, columns, maps) that cover them."""
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    whole: Features | None = None
    for down, across, maps in pieces:
        if whole is None:
            whole = each_map(  # in memory (1, h, w, c)
                maps, lambda one: one.new_empty(1, height, width, one.shape[1]).permute(0, 3, 1, 2)
            )
        top, bottom = max(rows[0], down[0]), min(rows[1], down[1])
        left, right = max(columns[0], across[0]), min(columns[1], across[1])
        for into, one in zip(maps_of(whole), maps_of(maps), strict=True):
            part = one[..., top - down[0] : bottom - down[0], left - across[0] : right - across[0]]
            place = moved((top, bottom), rows[0]), moved((left, right), columns[0])
            into[..., slice(*place[0]), slice(*place[1])] = part
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
