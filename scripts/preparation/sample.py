"""Photographs that scikit-image carries, as a small data set that needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from datasets.images import read_rgb, write_rgb
from datasets.listing import pictures_in
from engine.runtime import say
from utils import DataError

# Sharp photographs; all are in the public domain or under CC0. The two motorcycles are one scene
# seen by a stereo pair, so they stay on the same side of the split.
TRAIN = (
    "motorcycle_left.png",
    "motorcycle_right.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "camera.png",
    "brick.png",
    "ihc.png",
    "coins.png",
)
VALID = ("astronaut.png",)
TILE = 256  # training photographs are cut to about this, so that large ones are drawn more often


def prepare_sample(folder: Path) -> bool:
    """Write folder/train (tiles) and folder/valid (whole photographs) as PNG, 8-bit RGB.

    Returns False where all of them were there already.

    Raises:
        DataError: the installed scikit-image lacks a photograph, or the folder can't be written.
    """
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise DataError("the sample photographs come with scikit-image, which is not installed")
    source = Path(package.origin).parent / "data"
    made = 0
    for part, names in (("train", TRAIN), ("valid", VALID)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        new = sum(_write(source / name, folder / part, cut=part == "train") for name in names)
        made += new
        have = len(pictures_in(folder / part))
        say(f"{folder / part}: {have} pictures" + ("" if new else ", already there"))
    return made > 0


def tiles(pixels: np.ndarray, side: int = TILE) -> Iterator[np.ndarray]:
    """Cut (H, W, 3) into a grid of near-equal parts of about side x side, row by row."""
    rows, columns = (max(1, round(length / side)) for length in pixels.shape[:2])
    for row in np.array_split(pixels, rows, axis=0):
        yield from np.array_split(row, columns, axis=1)


def _write(photograph: Path, folder: Path, cut: bool) -> int:
    """Write a photograph, or its tiles, where they are missing; return how many were."""
    if not photograph.is_file():
        raise DataError(f"the installed scikit-image does not carry {photograph.name}")
    pixels = read_rgb(photograph)
    if cut:
        pictures = {
            f"{photograph.stem}-{number}.png": tile for number, tile in enumerate(tiles(pixels))
        }
    else:
        pictures = {f"{photograph.stem}.png": pixels}
    missing = [name for name in pictures if not (folder / name).is_file()]
    for name in missing:
        write_rgb(folder / name, np.ascontiguousarray(pictures[name]))
    return len(missing)
