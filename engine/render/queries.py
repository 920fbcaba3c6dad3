"""Queries in tiles, each answered by one window of features, and in chunks, answered at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.render.tiling import Grid, Layout, Plan, Span, chunks, split_by_rows


class Tile(NamedTuple):
    """Queries that one window answers.

    Attributes:
        rows, columns: of the window's codes.
        queries: chunks of them, each with where its colours belong and coord (1, Q, 2).
    """

    rows: Span
    columns: Span
    queries: Iterable[tuple[Any, Tensor]]


def tiles_of(
    grid: Grid, plan: Plan, layout: Layout, most: int, device: torch.device
) -> Iterator[Tile]:
    """The tiles of a plan, chunks of at most `most`; they belong to (rows, columns) of the grid."""
    for band, span in itertools.product(plan.bands, plan.tiles):
        rows, columns = layout.window_of(grid, 0, band), layout.window_of(grid, 1, span)
        places = chunks(band, span, most)
        yield Tile(rows, columns, ((place, rectangle(grid, *place, device)) for place in places))


def rectangle(grid: Grid, rows: Span, columns: Span, device: torch.device) -> Tensor:
    """Coordinates (1, Q, 2) of a rectangle of a grid, row by row, made on the device."""
    y, x = grid.rows[slice(*rows)].to(device), grid.columns[slice(*columns)].to(device)
    return torch.cartesian_prod(y, x)[None]


def tiles_at(coord: Tensor, cell: tuple[float, float], layout: Layout, most: int) -> Iterator[Tile]:
    """Tiles for coord (Q, 2) in any order; chunks belong to indices of it."""
    for index in split_by_rows(layout.size, coord):
        group = coord[index]
        low, high = group.amin(0).tolist(), group.amax(0).tolist()
        rows = layout.window(0, low[0], high[0], cell[0])
        columns = layout.window(1, low[1], high[1], cell[1])
        queries = zip(index.split(most), group[None].split(most, 1), strict=True)
        yield Tile(rows, columns, queries)
