"""What CiaoSR's authors measure otherwise than LIIF's (`test.py --suite ... --protocol ciaosr`).

High-resolution pictures are cut to multiples of 12, and low-resolution ones are made of these, up
to x4 by MATLAB's bicubic. Models see tiles up to x4, each a picture of its own, and predictions
are rounded to 8 bits. Borders are of S pixels, on DIV2K too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from torch import Tensor

from utils import ConfigError

Image = np.ndarray  # uint8 (height, width, 3)
Enlarge = Callable[[Image, tuple[int, int]], Tensor]

MULTIPLE = 12
TILE, OVERLAP = 192, 32  # pixels of the low-resolution picture
LARGEST_TILED = 4
NOTE = (
    f"CiaoSR's protocol: HR cut to multiples of {MULTIPLE}; predictions rounded to 8 bits, those "
    f"of models made in tiles of {TILE} pixels up to x{LARGEST_TILED}"
)


def cut_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of what remains of a picture: multiples of 12, perhaps 0."""
    return size[0] - size[0] % MULTIPLE, size[1] - size[1] % MULTIPLE


def enlarge_in_tiles(enlarge: Enlarge, image: Image, size: tuple[int, int]) -> Tensor:
    """A picture enlarged up to x4 in square tiles, beyond as a whole.

    Tiles are as large as the picture allows, at most 192 pixels. They overlap by 32, the last one
    by more, and the mean is taken where they do. A picture of 32 rows or columns and fewer, along
    which such tiles would not advance, is enlarged whole.

    Args:
        enlarge: maps a picture and (height, width) to (3, height, width), not clamped.
        size: up to x4 a whole number of times that of the picture, per axis.

    Raises:
        ConfigError: it is not.
    """
    height, width = image.shape[:2]
    side = min(TILE, height, width)
    if max(size[0] / height, size[1] / width) > LARGEST_TILED or side <= OVERLAP:
        return enlarge(image, size)
    scale = size[0] // height, size[1] // width
    if size != (scale[0] * height, scale[1] * width):
        given = f"{height}x{width} to {size[0]}x{size[1]} pixels given"
        raise ConfigError(f"protocol ciaosr: {given}; allowed up to x4: whole numbers of times")
    asked = scale[0] * side, scale[1] * side
    places = [*itertools.product(starts(height, side), starts(width, side))]
    tiles = [enlarge(image[y : y + side, x : x + side], asked) for y, x in places]
    total, count = tiles[0].new_zeros(3, *size), tiles[0].new_zeros(size)
    for (top, left), tile in zip(places, tiles, strict=True):
        rows = slice(scale[0] * top, scale[0] * top + asked[0])
        columns = slice(scale[1] * left, scale[1] * left + asked[1])
        total[:, rows, columns] += tile
        count[rows, columns] += 1
    return total / count


def enlarge_by(
    protocol: str,
    enlarge: Callable[[Image, tuple[int, int], bool], Tensor],
    image: Image,
    size: tuple[int, int],
) -> Tensor:
    """A model's picture as a protocol, "paper" or "ciaosr", takes it: (3, height, width) in [0, 1].

    Args:
        enlarge: maps a picture, (height, width), and whether to clamp to (3, height, width).
    """
    if protocol == "paper":
        return enlarge(image, size, True)
    # Clamped once the mean of tiles is taken.
    return round_to_8_bits(
        enlarge_in_tiles(lambda part, asked: enlarge(part, asked, False), image, size)
    )


def starts(length: int, side: int) -> list[int]:
    """Where tiles begin along an axis; the last one ends with it."""
    return [*range(0, length - side, side - OVERLAP), length - side]


def round_to_8_bits(picture: Tensor) -> Tensor:
    """Colours clamped to [0, 1], at the nearest of 256 steps."""
    return (picture.clamp(0, 1) * 255).round() / 255
