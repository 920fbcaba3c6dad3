"""LR_bicubic/XS for any folder of HR pictures, as the benchmarks' own were made."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.images import read_rgb, read_size, write_rgb
from datasets.resize import resize_matlab
from engine.runtime import say
from scripts.preparation.pictures import picture_names
from utils import DataError


def make_low_resolution(hr: Path, output: Path, scales: Sequence[int], workers: int) -> int:
    """Write output/X{scale}/{name}x{scale}.png for each picture and scale; return how many.

    Those that are there already, in the right size, are left as they are. PNG, 8-bit RGB.

    Raises:
        DataError: no pictures in hr, one that can't be read, two that differ in suffix alone,
            or one smaller than the scale.
    """
    if not hr.is_dir():
        raise DataError(f"--hr: {hr}: no such folder")
    names = picture_names(hr)
    if not names:
        raise DataError(f"--hr: {hr}: no pictures in it")
    stems = [Path(name).stem for name in names]
    for stem in stems:
        if stems.count(stem) > 1:
            raise DataError(f"--hr: {hr}: two pictures named {stem}")
    for scale in scales:
        (output / f"X{scale}").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        made = pool.map(lambda name: _make_one(hr / name, output, scales), names)
        count = sum(tqdm(made, total=len(names), desc="resizing", unit="img", disable=None))
    kept = len(names) * len(scales) - count
    say(f"{output}: {count} pictures made" + (f", {kept} already there" if kept else ""))
    return count


def low_resolution(pixels: np.ndarray, scale: int) -> np.ndarray:
    """uint8 (H, W, 3) -> (H // scale, W // scale, 3): cropped at the top left to a multiple."""
    height, width = (side // scale for side in pixels.shape[:2])
    return resize_matlab(pixels[: height * scale, : width * scale], (height, width))


def _make_one(path: Path, output: Path, scales: Sequence[int]) -> int:
    count = 0
    pixels: np.ndarray | None = None
    height, width = read_size(path)
    for scale in scales:
        if min(height, width) < scale:
            raise DataError(f"{path}: {height}x{width} pixels, too small for scale {scale}")
        target = output / f"X{scale}" / f"{path.stem}x{scale}.png"
        if _has_size(target, height // scale, width // scale):
            continue
        if pixels is None:
            pixels = read_rgb(path)
        write_rgb(target, low_resolution(pixels, scale))
        count += 1
    return count


def _has_size(path: Path, height: int, width: int) -> bool:
    if not path.is_file():
        return False
    try:
        return read_size(path) == (height, width)
    except DataError:
        return False
