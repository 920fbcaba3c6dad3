"""One photograph in, one picture file out: colours, alpha, comparison, in bands of rows."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

import utils
from datasets.encoders import to_8_bits
from datasets.images import Photo, open_writer
from engine.render.baselines import Resized
from engine.render.labels import draw_labels, label_height
from engine.render.pixels import Report, rgb, whole_numbers
from engine.render.resampling import resample_rows
from engine.render.tiling import Box, Grid, Span
from utils import ConfigError


class Rendering(Protocol):
    """What pixels come from: `ContinuousImage`, or a baseline's `Resized`."""

    def bands(
        self, grid: Grid, dtype: np.dtype, report: Report | None = None
    ) -> Iterator[np.ndarray]: ...


Represent = Callable[[np.ndarray], Rendering]  # of pixels (H, W, 3)

PREVIEW = 512  # longer side of what a notebook shows
LARGEST = 10_000_000  # rows or columns that libvips handles


def find_grid(
    size: tuple[int, int],
    resolution: tuple[int, int] | None,
    scale: tuple[float, float] | None,
    box: Box | None,
) -> Grid:
    """The pixels wanted of a photograph of this size, by their number or by a scale.

    Raises:
        ConfigError: there are none, or too many.
    """
    top, left, bottom, right = box or (0, 0, *size)
    if resolution is not None:
        height, width = resolution
    else:
        assert scale is not None
        sides = (bottom - top) * scale[0], (right - left) * scale[1]  # may be infinite
        height, width = (max(1, round(min(side, sys.float_info.max))) for side in sides)
    check_sides(height, width)
    return Grid(size, height, width, box)


def check_sides(height: int, width: int) -> None:
    """Raises ConfigError, in few digits, for more pixels a side than libvips handles."""
    if max(height, width) > LARGEST:
        given = "x".join(f"{min(side, sys.float_info.max):.15g}" for side in (height, width))
        raise ConfigError(f"{given} pixels asked for; allowed: up to {LARGEST} a side")


def checked_grid(
    size: tuple[int, int],
    height: int | None,
    width: int | None,
    scale: float | tuple[float, float] | None,
    box: Box | None,
) -> Grid:
    """`find_grid` of what a program asks for: height and width, or a scale (of rows, of columns).

    Raises:
        ConfigError: anything else.
    """
    sides = None if height is None or width is None else (height, width)
    factors = scale if scale is None or isinstance(scale, tuple) else (scale, scale)
    if (sides is None) == (scale is None) or (height is None) != (width is None):
        raise ConfigError(
            f"height {height}, width {width}, scale {scale} given; allowed: height and width, or "
            "scale"
        )
    if factors is not None:
        factors = utils.parse_scale(",".join(map(str, factors)))
    return find_grid(size, sides, factors, box)


def reduces(grid: Grid) -> bool:
    """Whether a pixel of a grid covers more than one of the photograph, along either axis."""
    top, left, bottom, right = grid.area
    return grid.height < bottom - top or grid.width < right - left


def enlarge(
    photo: Photo, target: Path, grid: Grid, image: Rendering, report: Report | None = None
) -> None:
    """Write what is wanted of a photograph, with all that its file holds besides colours.

    Args:
        photo: no colours hidden under its alpha.
        image: of its colours.
    """
    pixels = photo.pixels
    with open_writer(
        target, grid.height, grid.width, pixels.shape[2], pixels.dtype, like=photo
    ) as writer:
        for band in complete_bands(pixels, grid, image, report):
            writer.write(band)


def complete_bands(
    pixels: np.ndarray, grid: Grid, image: Rendering, report: Report | None
) -> Iterator[np.ndarray]:
    """Bands (n, width, C) with the channels of pixels (H, W, C): grey stays grey, alpha is kept."""
    channels = pixels.shape[2]
    top = 0
    for band in image.bands(grid, pixels.dtype, report):
        rows: Span = (top, top + len(band))
        if channels <= 2:
            band = band.mean(axis=2, keepdims=True).round().astype(pixels.dtype)
        if channels in (2, 4):
            alpha = resample_rows(pixels[..., -1:], grid, rows)
            band = np.concatenate([band, alpha], axis=2)
        yield band
        top = rows[1]


def written_from(photo: Photo | None, image: Rendering, grid: Grid) -> tuple[Photo, Rendering]:
    """What a file of a grid's pixels inherits from, in whole numbers, and where they come from.

    Args:
        photo: that `image` represents; None where only the representation is left.

    Raises:
        ConfigError: a reduction, which averages pixels, of a photograph that isn't there.
    """
    if photo is None:
        if reduces(grid):
            raise ConfigError(
                f"{grid.height}x{grid.width} pixels asked for; allowed without the photograph, "
                "which files of representations don't hold: enlargements"
            )
        blank = np.broadcast_to(np.uint8(0), (*grid.size, 3))  # colours of 8 bits are written
        return Photo(blank), image
    pixels = whole_numbers(photo.pixels)
    photo = dataclasses.replace(photo, pixels=pixels)
    return photo, Resized(pixels, "bicubic") if reduces(grid) else image


def preview(photo: Photo | None, image: Rendering, size: tuple[int, int]) -> bytes | None:
    """All of a photograph as a PNG, `PREVIEW` pixels on the longer side, for notebooks.

    None where it would be a reduction of a photograph that isn't there. Arguments as for
    `written_from`.
    """
    scale = PREVIEW / max(size)
    grid = find_grid(size, None, (scale, scale), None)
    if photo is None and reduces(grid):
        return None
    photo, image = written_from(photo, image, grid)
    picture = np.concatenate([*image.bands(grid, photo.pixels.dtype)])
    file = io.BytesIO()
    Image.fromarray(to_8_bits(picture)).save(file, "PNG")
    return file.getvalue()


def lettering(grid: Grid) -> tuple[int, int]:
    """Height of the letters above a comparison, and columns between its halves: they grow."""
    side = min(grid.height, grid.width)
    return max(14, side // 20), max(4, side // 80)


def compared_size(grid: Grid) -> tuple[int, int]:
    """(height, width) of a comparison."""
    letters, gap = lettering(grid)
    return grid.height + label_height(letters), 2 * grid.width + gap


def compare(
    photo: Photo,
    target: Path,
    grid: Grid,
    image: Rendering,
    names: list[str],
    report: Report | None = None,
) -> None:
    """Write bicubic resizing and the method's picture side by side, under their names.

    Arguments as for `enlarge`.
    """
    pixels = rgb(photo.pixels)
    height, width = compared_size(grid)
    with open_writer(target, height, width, 3, pixels.dtype, like=photo) as writer:
        for band in compared_bands(pixels, grid, image, names, report):
            writer.write(band)


def compared_bands(
    pixels: np.ndarray,
    grid: Grid,
    image: Rendering,
    names: list[str],
    report: Report | None = None,
) -> Iterator[np.ndarray]:
    """The rows of a comparison, (n, width, 3), from the names down; pixels (H, W, 3)."""
    letters, gap = lettering(grid)
    label = draw_labels(names, grid.width, gap, letters)
    white = np.iinfo(pixels.dtype).max
    yield label.astype(pixels.dtype) * pixels.dtype.type(white // 255)
    top = 0
    for band in image.bands(grid, pixels.dtype, report):
        rows = (top, top + len(band))
        plain = resample_rows(pixels, grid, rows)
        space = np.full((len(band), gap, 3), white, pixels.dtype)
        yield np.concatenate([plain, space, band], axis=1)
        top = rows[1]
