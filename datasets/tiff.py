"""Which TIFF files are read, by whom, and what their channels mean.

TIFF is a container for nearly anything; readers differ in what they take for granted. This is
the rule here, told from the tags of the first page alone; docs/files.md has it as a table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from utils import DataError

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
ASSOCIATED, UNASSOCIATED = 1, 2
SEPARATE_PLANES = 2
CMYK = 1
UNTOLD = (-1,)
# Tags that are looked at, and what they mean where absent: bits, compression, colour model,
# channels, planes, palette, tile width, ink set, meaning of extra channels, kind of number,
# subsampling.
ABSENT: dict[int, tuple[int, ...]] = {
    **{258: (1,), 259: (1,), 262: UNTOLD, 277: (1,), 284: (1,), 320: (), 322: UNTOLD, 332: (CMYK,)},
    **{338: (), 339: (UNSIGNED,), 530: UNTOLD},
}


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
    tags = read_tags(path)
    photometric, compression = tags[262][0], tags[259][0]
    kind, bits, samples, extras = tags[339][0], tags[258][0], tags[277][0], tags[338]
    if photometric not in COLOURS:
        raise refusal(path, f"its colour model, {name_of(tifffile.PHOTOMETRIC, photometric)}")
    if len(set(tags[258])) > 1 or len(set(tags[339])) > 1:
        raise refusal(path, "channels of different kinds")
    model = name_of(tifffile.PHOTOMETRIC, photometric)
    if (kind, bits) not in READ[photometric]:
        raise refusal(path, f"{model} of {bits} bits, {NUMBERS.get(kind, 'unknown')}")
    colours = COLOURS[photometric]
    more = samples - colours
    if more < 0 or (more > 1 and colours == 1) or (more and photometric in (PALETTE, YCBCR, LAB)):
        raise refusal(path, f"{model} with {samples} channels")
    if more and colours == 1 and tags[284][0] == SEPARATE_PLANES:  # neither reader gets it right
        raise refusal(path, f"{model} with {samples} channels in separate planes")
    if photometric == PALETTE and len(tags[320]) < 3 * 2**bits:  # libvips would show the indices
        raise damaged(path, ValueError(f"{len(tags[320])} of the palette's {3 * 2**bits} numbers"))
    if ASSOCIATED in extras[1:]:
        raise refusal(path, "alpha that isn't the first channel after the colours")
    if photometric == INKS and tags[332][0] != CMYK:
        raise refusal(path, "other inks than cyan, magenta, yellow and black")
    plain_ycbcr = photometric == YCBCR and compression != JPEG
    if plain_ycbcr and tags[530] == UNTOLD:
        raise refusal(path, "YCBCR that doesn't say its subsampling")
    by_pillow = (
        compression not in LIBVIPS_COMPRESSIONS
        or photometric == LAB
        or (plain_ycbcr and tags[530] == (1, 1))
        or (ASSOCIATED in extras and more > 1)
        or (tags[284][0] == SEPARATE_PLANES and tags[322] != UNTOLD)
    )
    if by_pillow and colours > 1 and (kind, bits) != (UNSIGNED, 8):
        how = name_of(tifffile.COMPRESSION, compression)
        raise refusal(path, f"{model} of {bits} bits stored so ({how})")
    # RGB and something that no tag explains: alpha, as everywhere.
    alpha = more > 0 and (extras[0] in (ASSOCIATED, UNASSOCIATED) if extras else colours == 3)
    channels = 3 + alpha if photometric == INKS else colours + alpha  # inks become RGB
    inverted = photometric == WHITE_IS_ZERO and (kind == FLOAT or (by_pillow and bits == 16))
    return Layout(by_pillow, None if by_pillow or photometric == PALETTE else channels, inverted)


def read_tags(path: Path) -> dict[int, tuple[int, ...]]:
    """The numbers of the tags in ABSENT, of a TIFF's first page. Raises DataError."""
    tags = dict(ABSENT)
    try:
        with tifffile.TiffFile(path) as file:
            for tag in file.pages.first.tags:
                if tag.code in tags:
                    numbers = tuple(map(int, np.ravel(tag.value)))
                    tags[tag.code] = numbers or ABSENT[tag.code]
    except Exception as error:  # of damaged tags tifffile may raise nearly any exception
        raise damaged(path, error) from None
    return tags


def name_of(names: type[enum.IntEnum], number: int) -> str:
    """What a number in a tag is called."""
    return names(number).name if number in list(names) else str(number)


def damaged(path: Path, error: Exception) -> DataError:
    """One line for a file that a decoder gave up on."""
    text = str(getattr(error, "detail", error))
    details = [line.strip() for line in text.splitlines() if line.strip()]
    reason = details[0] if details else "no details"
    return DataError(f"{path}: damaged or not supported ({reason})")


def refusal(path: Path, what: str) -> DataError:
    return DataError(f"{path}: TIFF with {what}: not read (docs/files.md lists what is)")
