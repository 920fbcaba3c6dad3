"""Plain resizing of any part of a picture, in bands of rows: alpha channels and comparisons."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from datasets.resize import FILTERS
from engine.render.tiling import Grid, Span

RADIUS = {"bilinear": 1, "bicubic": 2, "lanczos": 3}  # in pixels of the coarser grid


def resample_rows(pixels: np.ndarray, grid: Grid, rows: Span, kind: str = "bicubic") -> np.ndarray:
    """Rows of a grid as Pillow's resize makes them, antialiased where it shrinks.

    Args:
        pixels: (H, W, C), uint8 or uint16; channels are resized each for itself.
        grid: over these pixels.
        rows: which of its rows.
        kind: one of FILTERS.

    Returns:
        (rows, grid.width, C) of the dtype of pixels.
    """
    if kind == "nearest":
        return nearest_rows(pixels, grid, rows)
    top, left, bottom, right = grid.area
    step = (bottom - top) / grid.height
    first, last = top + rows[0] * step, top + rows[1] * step
    # Only the rows that the filter reaches: what is outside them has no part in the result.
    reach = math.ceil(RADIUS[kind] * max(1.0, step)) + 1
    low = max(0, math.floor(first) - reach)
    high = min(pixels.shape[0], math.ceil(last) + reach)
    size = (grid.width, rows[1] - rows[0])
    box = (left, first - low, right, min(last, high) - low)
    # Pillow rounds 8 bits between its two passes, whose order depends on the part asked for: only
    # a whole picture is Pillow's own. Bands are filtered as numbers with fractions, and so agree
    # with each other.
    exact = pixels.dtype == np.uint8 and rows == (0, grid.height)
    channels = []
    for channel in range(pixels.shape[2]):
        plane = pixels[low:high, :, channel]
        plane = plane if exact else plane.astype(np.float32)
        resized = np.asarray(Image.fromarray(plane).resize(size, FILTERS[kind], box=box))
        if not exact:
            resized = resized.round().clip(0, np.iinfo(pixels.dtype).max)
        channels.append(resized.astype(pixels.dtype))
    return np.stack(channels, axis=-1)


def nearest_rows(pixels: np.ndarray, grid: Grid, rows: Span) -> np.ndarray:
    """`resample_rows` by nearest: the pixels that Pillow takes for the whole grid, ties included.

    Pillow adds up steps, so which of two pixels equally near it takes depends on where it starts.
    """
    top, left, bottom, right = grid.area
    down = nearest_places(pixels.shape[0], (top, bottom), grid.height)[rows[0] : rows[1]]
    across = nearest_places(pixels.shape[1], (left, right), grid.width)
    return pixels[down[:, None], across]


def nearest_places(length: int, part: tuple[float, float], count: int) -> np.ndarray:
    """Which of `length` pixels Pillow shows at `count` places of a part of them: (count,)."""
    numbers = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    box = (part[0], 0, part[1], 1)
    return np.asarray(numbers.resize((count, 1), FILTERS["nearest"], box=box))[0]
