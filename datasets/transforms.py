"""What the wrappers share: crop, resize, augment, sample.

Everything random is decided first, in a `Plan`; carrying it out is a pure function of the
pictures. Pixels are uint8 (H, W, 3) arrays until the few that an item needs become float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from utils import axis_coord, make_coord

from .degrade import Damage
from .resize import resize_pil

Item = dict[str, Tensor]


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels from the top left corner."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class View:
    """A part of one of an item's pictures, then resized to each of `sizes` in turn.

    Attributes:
        picture: which of the item's pictures.
        box: the part that is used.
        sizes: (height, width) of each 8-bit bicubic resize that follows.
    """

    picture: int
    box: Box
    sizes: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""
        return self.sizes[-1] if self.sizes else (self.box.height, self.box.width)


@dataclass(frozen=True)
class Flips:
    """Augmentation: flipped left to right, then upside down, then rows and columns exchanged."""

    horizontal: bool = False
    vertical: bool = False
    transpose: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """A view of pixels (H, W, C) so changed: (H, W, C), or (W, H, C) when transposed."""
        if self.horizontal:
            pixels = pixels[:, ::-1]
        if self.vertical:
            pixels = pixels[::-1]
        return pixels.swapaxes(0, 1) if self.transpose else pixels

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the changed picture, of that of the original."""
        return (size[1], size[0]) if self.transpose else size

    def source(
        self, rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where pixels of the changed picture stood in the original of (height, width) `size`."""
        if self.transpose:
            rows, columns = columns, rows
        if self.vertical:
            rows = size[0] - 1 - rows
        if self.horizontal:
            columns = size[1] - 1 - columns
        return rows, columns


@dataclass(frozen=True)
class Plan:
    """Every random decision of one item.

    Attributes:
        inp: what becomes the network's input.
        gt: what the targets are taken from.
        flips: augmentation of both.
        samples: numbers of the sampled target pixels, int64 (Q,), counted row by row after the
            flips; None for every pixel in order.
        damage: what the input is damaged by, before and after its resizes, before the flips.
    """

    inp: View
    gt: View
    flips: Flips = Flips()
    samples: np.ndarray | None = None
    damage: Damage | None = None

    @property
    def gt_size(self) -> tuple[int, int]:
        """(height, width) of the target grid after the flips."""
        return self.flips.size(self.gt.size)


def draw_flips(rng: np.random.Generator) -> Flips:
    """Each of the three with probability 1/2."""
    horizontal, vertical, transpose = (rng.integers(0, 2, 3) == 1).tolist()
    return Flips(horizontal, vertical, transpose)


def draw_box(rng: np.random.Generator, size: tuple[int, int], crop: tuple[int, int]) -> Box:
    """A box of (height, width) `crop` anywhere inside a picture of `size`."""
    top, left = rng.integers(0, (size[0] - crop[0] + 1, size[1] - crop[1] + 1)).tolist()
    return Box(top, left, *crop)


def draw_samples(
    rng: np.random.Generator, size: tuple[int, int], count: int | None, patch: bool = False
) -> np.ndarray | None:
    """`count` pixels of a picture of `size`, none twice, int64 (count,); None stands for all.

    patch: they are a square block, row by row, else scattered.
    """
    if count is None:
        return None
    if patch:
        side = math.isqrt(count)
        box = draw_box(rng, size, (side, side))
        return np.ravel_multi_index(
            np.mgrid[box.top : box.top + side, box.left : box.left + side], size
        ).ravel()
    return rng.choice(size[0] * size[1], count, replace=False, shuffle=False)


def cut(pictures: Sequence[np.ndarray], view: View) -> np.ndarray:
    """The pixels (H, W, 3) that a view shows, of the pictures' dtype."""
    box = view.box
    pixels = pictures[view.picture]
    pixels = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    return resized(pixels, view.sizes)


def resized(pixels: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Pixels after one 8-bit bicubic resize after the other."""
    for size in sizes:
        pixels = resize_pil(to_bytes(pixels), size)
    return pixels


def cut_input(pictures: Sequence[np.ndarray], plan: Plan) -> np.ndarray:
    """The pixels (h, w, 3) of a plan's input, damaged where the plan says so."""
    if plan.damage is None:
        return cut(pictures, plan.inp)
    part = to_bytes(cut(pictures, replace(plan.inp, sizes=())))
    return plan.damage.apply(part, lambda pixels: resized(pixels, plan.inp.sizes))


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """uint8 as it is; float in [0, 1] rounded to 8 bits."""
    if pixels.dtype == np.uint8:
        return pixels
    return (pixels * 255).round().clip(0, 255).astype(np.uint8)


def to_floats(pixels: np.ndarray) -> Tensor:
    """uint8 or float pixels of any shape as a contiguous float32 tensor in [0, 1]."""
    floats = pixels.astype(np.float32, order="C")
    if pixels.dtype == np.uint8:
        floats /= 255
    return torch.from_numpy(floats)


def to_picture(pixels: np.ndarray) -> Tensor:
    """Pixels (H, W, 3) as float32 (3, H, W) in [0, 1]."""
    return to_floats(pixels.transpose(2, 0, 1))


def make_item(pictures: Sequence[np.ndarray], plan: Plan) -> Item:
    """Carry out a plan.

    Args:
        pictures: the pictures (H, W, 3) of one item, uint8 or float in [0, 1].

    Returns:
        inp (3, h, w), coord (Q, 2), cell (Q, 2) and gt (Q, 3), float32; colours in [0, 1],
        coordinates in [-1, 1], cell = (2/height, 2/width) of the target grid.
    """
    inp = to_picture(plan.flips.apply(cut_input(pictures, plan)))
    height, width = plan.gt_size
    if plan.samples is None:
        coord = make_coord((height, width))
        colours = plan.flips.apply(cut(pictures, plan.gt)).reshape(-1, 3)
    else:
        rows, columns = np.divmod(plan.samples, width)
        coord = coordinates(rows, columns, (height, width))
        colours = pick(pictures, plan.gt, *plan.flips.source(rows, columns, plan.gt.size))
    cell = np.empty((len(coord), 2), np.float32)
    cell[:] = (2 / height, 2 / width)
    gt = to_floats(colours)
    return {"inp": inp, "coord": coord, "cell": torch.from_numpy(cell), "gt": gt}


def coordinates(rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(Q, 2), the rows of `make_coord(size)` that belong to these pixels.

    Only the axes are computed in full: height + width numbers, not height * width.
    """
    coord = np.empty((len(rows), 2), np.float32)
    coord[:, 0] = axis_coord(size[0]).numpy()[rows]
    coord[:, 1] = axis_coord(size[1]).numpy()[columns]
    return torch.from_numpy(coord)


def pick(
    pictures: Sequence[np.ndarray], view: View, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Pixels (Q, 3) of a view."""
    picture = pictures[view.picture]
    if view.sizes or not picture.flags.c_contiguous:
        return cut(pictures, view)[rows, columns]
    # The same, twice as fast: numbers of pixels in the whole picture.
    places = (rows + view.box.top) * picture.shape[1] + (columns + view.box.left)
    return picture.reshape(-1, picture.shape[2]).take(places, axis=0)
