"""A film that glides from the whole photograph into a detail of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from datasets.encoders import to_8_bits
from engine.render.continuous_image import ContinuousImage
from engine.render.photo import Rendering, check_sides, reduces
from engine.render.pixels import rgb
from engine.render.resampling import resample_rows
from engine.render.tiling import Box, Grid
from engine.render.video_look import Look
from engine.render.video_write import CONTAINERS, QUALITY, VideoWriter, open_output

FORMATS = tuple(CONTAINERS)
LONGER_SIDE = 480  # of a frame, where no resolution is asked for
DEEPEST = 8.0  # scale of the last frame, where no box is asked for
FRAMES, RATE = 72, 24  # and frames per second


@dataclass(frozen=True)
class Film:
    """Frames of one size, and the part of the photograph that each shows, ever smaller.

    Attributes:
        resolution: (height, width) of a frame; even, as film formats want it.
        boxes: (top, left, bottom, right) in pixels of the photograph.
    """

    resolution: tuple[int, int]
    boxes: tuple[Box, ...]


def plan_film(
    size: tuple[int, int],
    resolution: tuple[int, int] | None = None,
    detail: Box | None = None,
    frames: int = FRAMES,
) -> Film:
    """A film of a photograph of this size.

    Args:
        resolution: of the frames; default: the photograph's shape, 480 pixels on the longer side.
        detail: what the last frame shows, widened to the shape of the frames; default: the
            middle, 8 times enlarged, or half the photograph where that is smaller.
    """
    if resolution is None:
        shrink = LONGER_SIDE / max(size)
        resolution = (round(size[0] * shrink), round(size[1] * shrink))
    check_sides(*resolution)
    height, width = (max(2, length + length % 2) for length in resolution)
    # The largest part of the frames' shape, in the middle.
    step = min(size[0] / height, size[1] / width)
    first = centred(size[0] / 2, size[1] / 2, height * step, width * step, size)
    if detail is None:
        part = min(step / 2, 1 / DEEPEST)
        last = centred(size[0] / 2, size[1] / 2, height * part, width * part, size)
    else:
        Grid(size, 1, 1, detail)  # which refuses a box outside
        top, left, bottom, right = detail
        part = min(step, max((bottom - top) / height, (right - left) / width))
        middle = (top + bottom) / 2, (left + right) / 2
        last = centred(*middle, height * part, width * part, size)
    boxes = tuple(glide(first, last, frame / max(1, frames - 1)) for frame in range(frames))
    return Film((height, width), boxes)


def centred(y: float, x: float, height: float, width: float, size: tuple[int, int]) -> Box:
    """A box around (y, x), moved inside the photograph where it would stick out."""
    # The outer limits come last: rounding must not push an edge outside.
    top = max(0.0, min(y - height / 2, size[0] - height))
    left = max(0.0, min(x - width / 2, size[1] - width))
    return top, left, min(top + height, float(size[0])), min(left + width, float(size[1]))


def glide(first: Box, last: Box, time: float) -> Box:
    """The box at a time from 0 to 1: every frame a constant factor nearer, but at rest at the ends.

    All corners move on straight lines towards those of the last box.
    """
    eased = time * time * (3 - 2 * time)
    ratio = (last[2] - last[0]) / (first[2] - first[0])
    # How much of the way to the last box; the limit is linear.
    share = eased if ratio > 0.999 else (1 - ratio**eased) / (1 - ratio)
    top, left, bottom, right = (a + (b - a) * share for a, b in zip(first, last, strict=True))
    return top, left, bottom, right


def frames_of(
    pixels: np.ndarray, film: Film, image: Rendering, report: Callable[[int], object]
) -> Iterator[np.ndarray]:
    """The frames, uint8 (height, width, 3).

    Where a frame shrinks the photograph, bicubic resizing (which averages, as a decoder does not);
    where it enlarges it, `image`, which is of these pixels.
    """
    size = (pixels.shape[0], pixels.shape[1])
    grids = [Grid(size, *film.resolution, box) for box in film.boxes]
    boxes = [grid.area for grid in grids if not reduces(grid)]
    if boxes and isinstance(image, ContinuousImage):
        tops, lefts, bottoms, rights = zip(*boxes, strict=True)
        image.keep((min(tops), min(lefts), max(bottoms), max(rights)))
    for grid in grids:
        if reduces(grid):
            yield resample_rows(pixels, grid, (0, grid.height))
        else:
            yield np.concatenate([*image.bands(grid, pixels.dtype)])
        report(1)


def film_pixels(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 1 to 4) of 8 or 16 bits, none hidden, as films show them: uint8 (H, W, 3)."""
    return rgb(to_8_bits(pixels))


def write_film(
    path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], quality: int = QUALITY
) -> None:
    """Write a film, whole or not at all.

    Args:
        frames: uint8 (*size, 3).
        quality: 1 to 100.

    Raises:
        DataError: it can't be written.
    """
    look = Look(rate=Fraction(RATE), time_base=Fraction(1, RATE))
    with open_output(path) as output:
        writer = VideoWriter(output, size, look, quality)
        for number, frame in enumerate(frames):
            writer.write(frame, number, 1)
        writer.finish()
