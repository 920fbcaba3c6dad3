"""Where a query stands among the latent codes (paper, sections 3 and 3.2).

Everything here is computed in float32 whatever the precision of the network: float16 can't hold
1 - 1e-6, and bfloat16 coordinates would move pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Added to every shifted query; it decides which of two codes a query on their border takes.
SHIFT = 1e-6
# Queries are kept this far inside the picture, so that the nearest code is one of it.
MARGIN = 1e-6
# Added to every area, so that their sum is never 0.
AREA = 1e-9


class Neighbours(NamedTuple):
    """The N codes that predict each query.

    Attributes:
        row: (N, B, Q) int64, rows of a (B * h * w)-row table of the codes in the window.
        offset: (N, B, Q, 2), query minus code as (y, x), in units of a code.
        weight: (N, B, Q), of each code's prediction; they sum to 1 over N.
    """

    row: Tensor
    offset: Tensor
    weight: Tensor | None


def nearest_index(position: Tensor, length: int) -> Tensor:
    """The nearest of `length` codes to positions in [-1, 1], ties to the even one, as float."""
    return (((position + 1) * length - 1) / 2).round()


def axis_neighbours(
    position: Tensor, length: int, ensemble: bool, shift: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The codes next to a position along one axis.

    Args:
        position: (B, Q) in [-1, 1].
        length: codes along this axis of the whole picture.
        ensemble: both neighbours instead of the nearest code.
        shift: how far to each side they are looked up; a number, or (B, 1).

    Returns:
        index (n, B, Q) as float and offset (n, B, Q) in units of a code; n is 2 or 1.
    """
    shifts = (-shift + SHIFT, shift + SHIFT) if ensemble else (0.0,)
    shifted = torch.stack([position + shift for shift in shifts])
    index = nearest_index(shifted.clamp(-1 + MARGIN, 1 - MARGIN), length)
    centre = (-1 + 1 / length) + (2 / length) * index
    return index, (position - centre) * length


def neighbours(
    coord: Tensor,
    window: tuple[int, int],
    size: tuple[int, int],
    origin: tuple[int, int],
    ensemble: bool,
    shift: tuple[Tensor, ...] | None = None,
) -> Neighbours:
    """The four codes around each query, or the nearest one.

    Args:
        coord: float32 (B, Q, 2), (y, x) in [-1, 1] over the whole picture.
        window: (h, w) of the codes at hand.
        size: (H, W) of all codes of the picture.
        origin: (row, column) of the first code at hand among all codes.
        ensemble: four neighbours, weighted by the areas diagonally opposite.
        shift: how far along y and x the four are looked up, each (B, 1); default: half a code.
    """
    shifts = shift or (1 / size[0], 1 / size[1])
    index_y, offset_y = axis_neighbours(coord[..., 0], size[0], ensemble, shifts[0])
    index_x, offset_x = axis_neighbours(coord[..., 1], size[1], ensemble, shifts[1])
    n, batch, queries = index_y.shape
    image = torch.arange(batch, device=coord.device).view(batch, 1) * (window[0] * window[1])
    rows = (index_y.long() - origin[0]) * window[1] + (image - origin[1])  # (n, B, Q)
    # (n, 1, B, Q) + (1, n, B, Q) -> (n * n, B, Q), y outermost
    index = (rows[:, None] + index_x.long()).view(n * n, batch, queries)
    offset = torch.stack(
        [
            offset_y[:, None].expand(n, n, batch, queries),
            offset_x.expand(n, n, batch, queries),
        ],
        dim=-1,
    ).view(n * n, batch, queries, 2)
    if not ensemble:
        return Neighbours(index, offset, None)
    # The prediction of a code counts by the area between the query and the opposite code.
    area = (offset_y[:, None] * offset_x).abs().view(n * n, batch, queries) + AREA
    return Neighbours(index, offset, area.flip(0) / area.sum(0))


def nearest_rows(
    coord: Tensor, window: tuple[int, int], size: tuple[int, int], origin: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The code nearest to each query (B, Q, 2), and whether it is one: both (B, Q).

    A query at exactly -1 or 1 can round to a place outside. Arguments as `neighbours`; the codes
    are rows of a (B * h * w)-row table.
    """
    batch, (height, width) = len(coord), window
    row = nearest_index(coord[..., 0], size[0]).long() - origin[0]
    column = nearest_index(coord[..., 1], size[1]).long() - origin[1]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    image = torch.arange(batch, device=coord.device).view(batch, 1) * (height * width)
    return image + row.clamp(0, height - 1) * width + column.clamp(0, width - 1), inside


def nearest_pixels(
    picture: Tensor, coord: Tensor, size: tuple[int, int], origin: tuple[int, int]
) -> Tensor:
    """The pixel of `picture` (B, C, h, w) nearest to each query (B, Q, 2) -> (B, Q, C).

    0 for a query whose nearest place is outside.
    """
    row, inside = nearest_rows(coord, (picture.shape[-2], picture.shape[-1]), size, origin)
    table = picture.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, C)
    return table.index_select(0, row.flatten()).view(*row.shape, -1) * inside.unsqueeze(-1)


def bilinear(
    picture: Tensor, coord: Tensor, size: tuple[int, int], origin: tuple[int, int]
) -> Tensor:
    """`picture` (B, C, h, w) interpolated at queries (B, Q, 2) -> (B, Q, C).

    Positions are clamped to the centres of the outermost pixels.

    Args:
        size, origin: of the whole picture, and of the window that is at hand, as `neighbours`.
    """
    batch, channels, height, width = picture.shape
    table = picture.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, C)
    image = torch.arange(batch, device=coord.device).view(batch, 1) * (height * width)
    low, high, share = [], [], []
    for axis, length in enumerate(size):
        place = (((coord[..., axis] + 1) * length - 1) / 2).clamp(0, length - 1)
        first = place.floor().clamp(max=max(0, length - 2))
        low.append(first.long() - origin[axis])
        high.append((first.long() + 1).clamp(max=length - 1) - origin[axis])
        share.append((place - first).unsqueeze(-1))  # (B, Q, 1)

    def row(y: Tensor, x: Tensor) -> Tensor:
        return table.index_select(0, (image + y * width + x).flatten()).view(*y.shape, channels)

    top = torch.lerp(row(low[0], low[1]), row(low[0], high[1]), share[1])
    bottom = torch.lerp(row(high[0], low[1]), row(high[0], high[1]), share[1])
    return torch.lerp(top, bottom, share[0])


def relative_cell(cell: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Cells (B, Q, 2) in units of a code, as the decoding function sees them: float32.

    Raises:
        ValueError: there is none.
    """
    if cell is None:
        raise ValueError("cell: needed by this model")
    # By numbers, not by a tensor of them: that would be a copy for which a GPU waits.
    return torch.stack([cell[..., 0].float() * size[0], cell[..., 1].float() * size[1]], dim=-1)
