"""Which TIFF files are read, by whom, and what their channels mean.

TIFF is a container for nearly anything; readers differ in what they take for granted. This is
the rule here, told from the tags of the first page alone; docs/files.md has it as a table.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import tifffile

from utils import DataError

# tifffile hands what it finds odd to logging; what matters comes as an exception.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, INKS: 4, YCBCR: 3, LAB: 3}
NUMBERS = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}
UNSIGNED, FLOAT = 1, 3
# What is read of each colour model, as (kind of number, bits).
SMALL = {(UNSIGNED, 1), (UNSIGNED, 2), (UNSIGNED, 4), (UNSIGNED, 8)}
LARGE = {(UNSIGNED, 8), (UNSIGNED, 16)}
FLOATS = {(FLOAT, 16), (FLOAT, 32)}
READ = {
    WHITE_IS_ZERO: SMALL | LARGE | FLOATS,
    BLACK_IS_ZERO: SMALL | LARGE | FLOATS,
    RGB: LARGE | FLOATS,
    PALETTE: SMALL,
    INKS: LARGE,
    YCBCR: {(UNSIGNED, 8)},
    LAB: {(UNSIGNED, 8)},
}
JPEG = 7
# None, three of fax machines, LZW, JPEG, deflate twice, PackBits.
LIBVIPS_COMPRESSIONS = {1, 2, 3, 4, 5, JPEG, 8, 32946, 32773}
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2
SEPARATE_PLANES = 2


@dataclass(frozen=True)
class Layout:
    """How a TIFF is read.

    Attributes:
        by_pillow: by Pillow, or else by libvips.
        channels: how many of the decoded channels are colours and alpha; None: all.
        inverted: white is zero, and the decoder leaves it so.
    """

    by_pillow: bool
    channels: int | None
    inverted: bool


def read_layout(path: Path) -> Layout:
    """How to read a TIFF. Raises DataError for what is refused, with the reason."""
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            tags = {tag.code: tag.value for tag in page.tags}
    except Exception as error:  # of damaged tags tifffile may raise nearly any exception
        raise DataError(f"{path}: damaged or not supported ({error})") from None
    photometric = tags.get(262)
    bits = as_tuple(tags.get(258, 1))
    kinds = as_tuple(tags.get(339, UNSIGNED))
    extras = as_tuple(tags.get(338, ()))
    compression = int(tags.get(259, 1))
    if photometric not in COLOURS:
        raise refusal(path, f"its colour model {getattr(photometric, 'name', photometric)}")
    if len(set(bits)) > 1 or len(set(kinds)) > 1:
        raise refusal(path, "channels of different kinds")
    number = (kinds[0], bits[0])
    model = photometric.name
    if number not in READ[photometric]:
        raise refusal(path, f"{model} of {bits[0]} bits, {NUMBERS.get(kinds[0], 'unknown')}")
    colours = COLOURS[photometric]
    more = tags.get(277, 1) - colours
    # RGB and something that no tag explains: alpha, as everywhere.
    alpha = more > 0 and (extras[0] in (ASSOCIATED, UNASSOCIATED) if extras else colours == 3)
    if more < 0 or (more > 1 and colours == 1) or (more and photometric in (PALETTE, YCBCR, LAB)):
        raise refusal(path, f"{model} with {tags.get(277, 1)} channels")
    if ASSOCIATED in extras[1:]:
        raise refusal(path, "alpha that isn't the first channel after the colours")
    if photometric == YCBCR and compression != JPEG and 530 not in tags:
        raise refusal(path, "YCBCR that doesn't say its subsampling")
    by_pillow = (
        compression not in LIBVIPS_COMPRESSIONS
        or photometric == LAB
        or (photometric == YCBCR and compression != JPEG and tuple(tags[530]) == (1, 1))
        or (ASSOCIATED in extras and more > 1)
        or (tags.get(284) == SEPARATE_PLANES and 322 in tags)
    )
    if by_pillow and colours > 1 and number != (UNSIGNED, 8):
        how = getattr(tags.get(259), "name", compression)
        raise refusal(path, f"{model} of {bits[0]} bits stored so ({how})")
    inverted = photometric == WHITE_IS_ZERO and (kinds[0] == FLOAT or (by_pillow and bits[0] == 16))
    channels = None if by_pillow or photometric == PALETTE else colours + alpha
    if photometric == INKS:
        channels = None if by_pillow else 3 + alpha  # once they are RGB
    return Layout(by_pillow, channels, inverted)


def as_tuple(value: object) -> tuple[int, ...]:
    """The numbers of a tag, which stands for itself where it has only one."""
    return tuple(map(int, value)) if isinstance(value, (tuple, list)) else (int(value),)  # type: ignore[call-overload]


def refusal(path: Path, what: str) -> DataError:
    return DataError(f"{path}: TIFF with {what}: not read (docs/files.md lists what is)")
