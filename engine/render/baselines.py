"""Interpolation baselines to compare models with: 8-bit pictures in, 8-bit pictures out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

import utils
from datasets.resize import FILTERS, resize_matlab, resize_pil
from engine.render.pixels import rgb
from engine.render.resampling import resample_rows
from engine.render.tiling import BAND, Grid, cuts
from utils import ConfigError

Image = np.ndarray  # uint8 (height, width, 3)

BASELINES = {  # and what tables call them
    "bicubic": "bicubic (PIL, 8-bit)",
    "bicubic-matlab": "bicubic (MATLAB, 8-bit)",
    "nearest": "nearest (PIL)",
    "lanczos": "Lanczos (PIL, 8-bit)",
}


def check_baseline(name: str) -> str:
    """The name, if it is that of a baseline.

    Raises:
        ConfigError: it is not.
    """
    if name not in BASELINES:
        hint = utils.did_you_mean(name, BASELINES)
        raise ConfigError(f"baseline: {name!r} given; allowed: {', '.join(BASELINES)}{hint}")
    return name


def enlarge(name: str, image: Image, size: tuple[int, int]) -> Image:
    """A picture resized by the baseline of that name: uint8 (h, w, 3) -> uint8 (*size, 3)."""
    if check_baseline(name) == "bicubic-matlab":
        return resize_matlab(image, size)
    return resize_pil(image, size, name)


def label(name: str) -> str:
    """What tables and panels call the baseline."""
    return BASELINES[check_baseline(name)]


class Resized:
    """A photograph enlarged by a baseline, with the `bands` of a `ContinuousImage`.

    Args:
        pixels: (H, W, 1 to 4), uint8 or uint16; alpha is left out.
        name: of a baseline.
    """

    def __init__(self, pixels: np.ndarray, name: str) -> None:
        self.pixels = rgb(pixels)
        self.name = check_baseline(name)

    def bands(
        self, grid: Grid, dtype: np.dtype | type, report: Callable[[int], object] | None = None
    ) -> Iterator[np.ndarray]:
        """The pixels of a grid as bands of rows (n, width, 3), from top to bottom.

        Raises:
            ConfigError: a box or 16 bits, of a baseline that makes whole 8-bit pictures alone.
        """
        assert self.pixels.dtype == dtype
        if self.name in FILTERS:
            row_bytes = 3 * grid.width * self.pixels.itemsize
            spans = cuts(grid.height, -(-grid.height * row_bytes // BAND))
            bands: Iterator[np.ndarray] = (
                resample_rows(self.pixels, grid, rows, self.name) for rows in spans
            )
        elif grid.box is None and self.pixels.dtype == np.uint8:
            bands = iter([enlarge(self.name, self.pixels, (grid.height, grid.width))])
        else:
            raise ConfigError(f"--baseline {self.name}: whole pictures of 8 bits only")
        for band in bands:
            yield band
            if report is not None:
                report(len(band) * grid.width)
