"""Interpolation baselines to compare models with: 8-bit pictures in, 8-bit pictures out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import utils
from datasets.resize import resize_matlab, resize_pil
from utils import ConfigError

Image = np.ndarray  # uint8 (height, width, 3)
Resizer = Callable[[Image, tuple[int, int]], Image]

# Name -> (what tables call it, uint8 (h, w, 3) and (height, width) -> uint8 (height, width, 3)).
BASELINES: dict[str, tuple[str, Resizer]] = {
    "bicubic": (
        "bicubic (PIL, 8-bit)",
        lambda image, size: resize_pil(image, size, kind="bicubic"),
    ),
    "bicubic-matlab": ("bicubic (MATLAB, 8-bit)", lambda image, size: resize_matlab(image, size)),
    "nearest": ("nearest (PIL)", lambda image, size: resize_pil(image, size, kind="nearest")),
    "lanczos": (
        "Lanczos (PIL, 8-bit)",
        lambda image, size: resize_pil(image, size, kind="lanczos"),
    ),
}


def check_baseline(name: str) -> str:
    """The name, if it is that of a resizer.

    Raises:
        ConfigError: it is not.
    """
    if name not in BASELINES:
        hint = utils.did_you_mean(name, BASELINES)
        raise ConfigError(f"baseline: {name!r} given; allowed: {', '.join(BASELINES)}{hint}")
    return name


def enlarge(name: str, image: Image, size: tuple[int, int]) -> Image:
    """A picture resized by the baseline of that name: uint8 (h, w, 3) -> uint8 (*size, 3)."""
    return BASELINES[check_baseline(name)][1](image, size)


def label(name: str) -> str:
    """What tables and panels call the baseline."""
    return BASELINES[check_baseline(name)][0]
