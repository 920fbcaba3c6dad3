"""One photograph in, one picture file out: colours, alpha, comparison, in bands of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from datasets.images import Photo, open_writer
from datasets.resize import FILTERS
from datasets.transparency import fill_hidden
from engine.render import baselines
from engine.render.continuous_image import ContinuousImage, Report
from engine.render.jobs import Job
from engine.render.pixels import rgb
from engine.render.resampling import resample_rows
from engine.render.tiling import BAND, Box, Grid, Span, cuts
from engine.runtime import say
from models.protocol import implicit
from utils import ConfigError

# Pixels (H, W, C) and what is wanted of them -> bands (n, width, 3) of the same dtype.
Painter = Callable[[np.ndarray, Grid, Report], Iterator[np.ndarray]]

GAP = 4  # columns between the two halves of a comparison
LABEL = 24  # rows above them
LARGEST = 10_000_000  # rows or columns that libvips handles


@dataclass(frozen=True)
class Request:
    """What is wanted of every photograph: a size or a scale, of the whole or of a box."""

    resolution: tuple[int, int] | None = None
    scale: tuple[float, float] | None = None
    box: Box | None = None

    def grid(self, size: tuple[int, int]) -> Grid:
        """The pixels wanted of a photograph of this size; ConfigError where there are none."""
        top, left, bottom, right = self.box or (0, 0, *size)
        if self.resolution is not None:
            height, width = self.resolution
        else:
            assert self.scale is not None
            height = max(1, round((bottom - top) * self.scale[0]))
            width = max(1, round((right - left) * self.scale[1]))
        if max(height, width) > LARGEST:
            raise ConfigError(f"{height}x{width} pixels asked for; allowed: up to {LARGEST} a side")
        return Grid(size, height, width, self.box)


def model_painter(model: nn.Module, device: torch.device, precision: str) -> Painter:
    """Colours by a model."""
    if implicit(model).halo is None:
        say("this model's features depend on the whole picture: encoded in one piece")

    def paint(pixels: np.ndarray, grid: Grid, report: Report) -> Iterator[np.ndarray]:
        image = ContinuousImage.represent(
            pixels, model, device=device, precision=precision, keep_features=False
        )
        return image.bands(grid, pixels.dtype, report)

    return paint


def baseline_painter(name: str) -> Painter:
    """Colours by an interpolation baseline of `engine.render.baselines`."""
    baselines.check_baseline(name)

    def paint(pixels: np.ndarray, grid: Grid, report: Report) -> Iterator[np.ndarray]:
        colours = rgb(pixels)
        if name in FILTERS:
            row_bytes = 3 * grid.width * pixels.dtype.itemsize
            for rows in cuts(grid.height, -(-grid.height * row_bytes // BAND)):
                yield resample_rows(colours, grid, rows, name)
                report((rows[1] - rows[0]) * grid.width)
            return
        if grid.box is not None or pixels.dtype != np.uint8:
            raise ConfigError(f"--baseline {name}: whole pictures of 8 bits only")
        yield baselines.enlarge(name, colours, (grid.height, grid.width))
        report(grid.height * grid.width)

    return paint


def enlarge(photo: Photo, job: Job, grid: Grid, painter: Painter, report: Report) -> None:
    """Write what is wanted of a photograph, with all that its file holds besides colours."""
    channels = photo.pixels.shape[2]
    with open_writer(
        job.target, grid.height, grid.width, channels, photo.pixels.dtype, like=photo
    ) as writer:
        for band in complete_bands(fill_hidden(photo.pixels), grid, painter, report):
            writer.write(band)


def complete_bands(
    pixels: np.ndarray, grid: Grid, painter: Painter, report: Report
) -> Iterator[np.ndarray]:
    """Bands (n, width, C) with the channels of pixels (H, W, C): grey stays grey, alpha is kept."""
    channels = pixels.shape[2]
    top = 0
    for band in painter(pixels, grid, report):
        rows: Span = (top, top + len(band))
        if channels <= 2:
            band = band.mean(axis=2, keepdims=True).round().astype(pixels.dtype)
        if channels in (2, 4):
            alpha = resample_rows(pixels[..., -1:], grid, rows)
            band = np.concatenate([band, alpha], axis=2)
        yield band
        top = rows[1]


def compare(
    photo: Photo, job: Job, grid: Grid, painter: Painter, names: tuple[str, str], report: Report
) -> None:
    """Write bicubic resizing and the painter's picture side by side, under their names."""
    pixels = fill_hidden(photo.pixels)
    width = 2 * grid.width + GAP
    white = np.iinfo(pixels.dtype).max
    with open_writer(job.target, grid.height + LABEL, width, 3, pixels.dtype, like=photo) as writer:
        label = np.asarray(draw_labels(grid.width, names)).astype(pixels.dtype)
        writer.write(label * pixels.dtype.type(white // 255))
        top = 0
        for band in painter(pixels, grid, report):
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
