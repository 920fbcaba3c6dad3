"""The features of a photograph: encoded window by window when they are asked for, or kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.config import DataNorm
from engine.render.pixels import to_network
from engine.render.tiling import Layout, Span, cuts
from engine.runtime import autocast
from models.layers import channels_last
from models.protocol import Features, ImplicitModel, Target, each_map, maps_of

LEAST_SIDE = 512  # pixels along each side of a window, where all features are kept


class Tile(NamedTuple):
    """Queries that one window answers.

    Attributes:
        rows, columns: of the window's codes.
        queries: chunks of them, each with where its colours belong and coord (1, Q, 2).
    """

    rows: Span
    columns: Span
    queries: Iterable[tuple[Any, Tensor]]


class Source:
    """Where the features of a window come from.

    Args:
        model: in evaluation mode, on `device`.
        size: (H, W) of the photograph.
        precision: of matrix products.
        norm: between [0, 1] and the units of the network.
        pixels: (H, W, 1 to 4), uint8, uint16, or float in [0, 1]; alpha is left out.
        kept: instead, what the model's `encode` makes of the whole photograph.
    """

    def __init__(
        self,
        model: ImplicitModel,
        size: tuple[int, int],
        device: torch.device,
        precision: str,
        norm: DataNorm,
        pixels: np.ndarray | None = None,
        kept: Features | None = None,
    ) -> None:
        self.model = model
        self.size = size
        self.device = device
        self.precision = precision
        self.norm = norm
        self.pixels = pixels
        self.kept = kept

    @property
    def layout(self) -> Layout:
        margin = 0 if self.kept is not None else self.model.halo or 0
        return Layout(self.size, self.model.upscale, self.model.reach, margin)

    def window(self, rows: Span, columns: Span, target: Target) -> Features:
        """What queries look up, of these rows and columns of codes: maps (1, C, h, w).

        Of no use at its outermost codes, unless the picture ends there: `project` may look at
        codes around each.
        """
        # Cut before it is projected, as that makes it several times as large.
        return self.model.project(self.maps(rows, columns), target)

    def maps(self, rows: Span, columns: Span) -> Features:
        """The encoder's maps, cut to rows and columns of codes."""
        if self.kept is not None:
            # What has no reach is of no known size, and its windows are the whole picture.
            return self.kept if self.model.reach is None else cut(self.kept, rows, columns)
        high, wide = self.layout.pixels(0, rows), self.layout.pixels(1, columns)
        top, left = high[0] * self.model.upscale, wide[0] * self.model.upscale
        inside = (rows[0] - top, rows[1] - top), (columns[0] - left, columns[1] - left)
        return cut(self.encode(high, wide), *inside)

    def encode(self, rows: Span, columns: Span) -> Features:
        """The encoder's maps of these rows and columns of pixels, at once."""
        assert self.pixels is not None
        inp = to_network(self.pixels[slice(*rows), slice(*columns)], self.norm)
        return self.model.encode(inp.to(self.device))

    def target(
        self, cell: tuple[float, float], count: int, tiles: Callable[[], Iterable[Tile]]
    ) -> Target:
        """What the model has to know of all `count` queries before it answers the first."""
        target = Target(torch.tensor([cell], device=self.device))
        for _ in range(self.model.passes):
            total = torch.zeros((), device=self.device)
            for tile in tiles():
                for _, values in self.ask(tile, target, measure=True):
                    total = total + values
            target = target._replace(means=(*target.means, total / count))
        return target

    @torch.inference_mode()
    def ask(
        self, tile: Tile, target: Target, measure: bool = False
    ) -> Iterator[tuple[Any, Tensor]]:
        """Where each chunk of a tile belongs, and its colours (1, Q, 3) in the network's units.

        measure: what the model accumulates instead.
        """
        query = self.model.accumulate if measure else self.model.query_rgb
        size, origin = self.layout.codes, (tile.rows[0], tile.columns[0])
        with autocast(self.device, self.precision):
            feat = self.window(tile.rows, tile.columns, target)
        for place, coord in tile.queries:
            cell = target.cell[:, None].expand_as(coord)
            with autocast(self.device, self.precision):
                values = query(feat, coord.to(self.device), cell, size=size, origin=origin)
            yield place, values

    @torch.inference_mode()
    def keep(self) -> Features:
        """Encode the whole photograph, unless that is done; later windows are cut out of this.

        Window by window into the result; at once where features depend on the whole picture.
        """
        if self.kept is None:
            with autocast(self.device, self.precision):
                self.kept = self.encode_whole()
        return self.kept

    def encode_whole(self) -> Features:
        if self.model.halo is None:
            return self.encode((0, self.size[0]), (0, self.size[1]))
        height, width = self.layout.codes
        side = max(LEAST_SIDE, 2 * self.layout.margin) * self.model.upscale
        whole: Features | None = None
        for rows, columns in itertools.product(
            cuts(height, -(-height // side)), cuts(width, -(-width // side))
        ):
            window = self.maps(rows, columns)
            if whole is None:
                whole = each_map(window, lambda one: empty_like(one, height, width))
            for into, one in zip(maps_of(whole), maps_of(window), strict=True):
                into[..., slice(*rows), slice(*columns)] = one
        assert whole is not None
        return whole


def cut(maps: Features, rows: Span, columns: Span) -> Features:
    """Rows and columns of maps (B, C, h, w), in the layout that is fastest to look up."""
    return each_map(maps, lambda one: channels_last(one[..., slice(*rows), slice(*columns)]))


def empty_like(one: Tensor, height: int, width: int) -> Tensor:
    """Memory for a map like this one (1, c, h, w), of another size."""
    return torch.empty(
        (1, one.shape[1], height, width),
        dtype=one.dtype,
        device=one.device,
        memory_format=torch.channels_last,
    )
