"""One photograph in, one picture file out: colours, alpha, comparison, in bands of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.images import Photo, open_writer
from datasets.transparency import fill_hidden
from engine.render.continuous_image import Report
from engine.render.jobs import Job
from engine.render.pixels import rgb
from engine.render.resampling import resample_rows
from engine.render.tiling import Box, Grid, Span
from utils import ConfigError


class Rendering(Protocol):
    """What pixels come from: `ContinuousImage`, or a baseline's `Resized`."""

    def bands(self, grid: Grid, dtype: np.dtype, report: Report) -> Iterator[np.ndarray]: ...


Represent = Callable[[np.ndarray], Rendering]  # of pixels (H, W, 3)

GAP = 4  # columns between the two halves of a comparison
LABEL = 24  # rows above them
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
        height = max(1, round((bottom - top) * scale[0]))
        width = max(1, round((right - left) * scale[1]))
    if max(height, width) > LARGEST:
        raise ConfigError(f"{height}x{width} pixels asked for; allowed: up to {LARGEST} a side")
    return Grid(size, height, width, box)


def enlarge(photo: Photo, job: Job, grid: Grid, represent: Represent, report: Report) -> None:
    """Write what is wanted of a photograph, with all that its file holds besides colours."""
    channels = photo.pixels.shape[2]
    with open_writer(
        job.target, grid.height, grid.width, channels, photo.pixels.dtype, like=photo
    ) as writer:
        for band in complete_bands(fill_hidden(photo.pixels), grid, represent, report):
            writer.write(band)


def complete_bands(
    pixels: np.ndarray, grid: Grid, represent: Represent, report: Report
) -> Iterator[np.ndarray]:
    """Bands (n, width, C) with the channels of pixels (H, W, C): grey stays grey, alpha is kept."""
    channels = pixels.shape[2]
    top = 0
    for band in represent(rgb(pixels)).bands(grid, pixels.dtype, report):
        rows: Span = (top, top + len(band))
        if channels <= 2:
            band = band.mean(axis=2, keepdims=True).round().astype(pixels.dtype)
        if channels in (2, 4):
            alpha = resample_rows(pixels[..., -1:], grid, rows)
            band = np.concatenate([band, alpha], axis=2)
        yield band
        top = rows[1]


def compare(
    photo: Photo, job: Job, grid: Grid, represent: Represent, names: tuple[str, str], report: Report
) -> None:
    """Write bicubic resizing and the method's picture side by side, under their names."""
    pixels = fill_hidden(photo.pixels)
    width = 2 * grid.width + GAP
    white = np.iinfo(pixels.dtype).max
    with open_writer(job.target, grid.height + LABEL, width, 3, pixels.dtype, like=photo) as writer:
        label = np.asarray(draw_labels(grid.width, names)).astype(pixels.dtype)
        writer.write(label * pixels.dtype.type(white // 255))
        top = 0
        for band in represent(rgb(pixels)).bands(grid, pixels.dtype, report):
            rows = (top, top + len(band))
            plain = resample_rows(rgb(pixels), grid, rows)
            gap = np.full((len(band), GAP, 3), white, pixels.dtype)
            writer.write(np.concatenate([plain, gap, band], axis=1))
            top = rows[1]


def draw_labels(width: int, names: tuple[str, str]) -> Image.Image:
    """Two names, each over its half of a comparison: black on white, (LABEL, ., 3)."""
    strip = Image.new("RGB", (2 * width + GAP, LABEL), "white")
    for half, name in enumerate(names):
        part = Image.new("RGB", (width, LABEL), "white")
        font = ImageFont.load_default(size=14)
        ImageDraw.Draw(part).text((4, 3), name, fill="black", font=font)
        strip.paste(part, (half * (width + GAP), 0))
    return strip
