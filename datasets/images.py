"""Photographs in files: reading whatever cameras and programs made, writing without loss.

Files are decoded by libvips: the wheel `pyvips[binary]` is 8 MB to fetch, 19 MB installed, and
takes 10 MB of memory and 0.03 s to import. Pillow turns 16-bit RGB into 8 bits as it reads and
can't write it. torchvision's decoders with tifffile are larger (26 MB, 165 MB of memory) and leave
orientation, profiles and resolution to be read by code for each format.
PNG and TIFF are written here (`encoders`): libvips pulls pictures, but rendering pushes rows.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyvips

from utils import DataError

from .encoders import MM_PER_INCH, to_8_bits
from .metadata import read_metadata
from .writers import WRITTEN_SUFFIXES, Writer

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "WRITTEN_SUFFIXES",
    "Photo",
    "open_writer",
    "read_photo",
    "read_rgb",
    "read_size",
    "write_photo",
    "write_rgb",
]

# pyvips hands the decoders' warnings to logging; what matters comes as an exception.
logging.getLogger("pyvips").addHandler(logging.NullHandler())
logging.getLogger("pyvips").propagate = False


def lenient_text(text: object) -> str:
    """What libvips says, with whatever bytes a file has put into it."""
    return "" if text == pyvips.ffi.NULL else pyvips.ffi.string(text).decode("utf-8", "replace")


# pyvips takes for granted that this is UTF-8, and prints a traceback where it is not.
pyvips._to_string = lenient_text
pyvips.error._to_string = lenient_text
# Else libvips would remember what it read under a name, also when the file has changed.
pyvips.cache_set_max(0)

PathLike = str | os.PathLike[str]

# Larger pictures are refused before they are decoded: a small file can claim any size.
MAX_PIXELS = 2**28
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".gif")
STRIP_ROWS = 256
NO_RESOLUTION = (1.0, 1.0)  # pixels per mm
# The second: a name that can't be handed on.
READ_ERRORS = (pyvips.Error, UnicodeError)
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Photo:
    """A photograph, upright, with what its file says of it.

    Attributes:
        pixels: uint8 or uint16 (H, W, C); C is 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for
            RGB and alpha (colours not multiplied by it).
        icc: ICC profile of the colours.
        dpi: pixels per inch along (rows, columns).
        metadata: blocks and comments under the names that libvips gives them: `exif-data` (starts
            with "Exif" and two zeros; no orientation, for the pixels are upright, no thumbnail),
            `xmp-data`, `iptc-data` as bytes, `png-comment-NUMBER-NAME` as str, whatever the format.
        pictures: how many frames or pages the file holds; this is the first.
    """

    pixels: np.ndarray
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    metadata: dict[str, bytes | str] = field(default_factory=dict)
    pictures: int = 1


def read_rgb(path: PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as the network sees it: upright, 8-bit RGB; alpha and profile are dropped.

    Args:
        path: PNG, JPEG, TIFF, WebP or GIF; grey, palette, CMYK and 16-bit ones too.
        max_pixels: a picture with more pixels is refused undecoded.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DataError: no such file, not readable, no image, damaged, or too large.
    """
    pixels = decode(path, open_image(path, max_pixels)).pixels
    if pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    if pixels.dtype == np.uint16:
        pixels = to_8_bits(pixels)
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    return np.ascontiguousarray(pixels)


def read_photo(path: PathLike, max_pixels: int = MAX_PIXELS, setting: str = "max_pixels") -> Photo:
    """A photograph with all that its file holds; CMYK and palettes become RGB, grey stays grey.

    Arguments and errors as for `read_rgb`; `setting` is what raises the limit, for the message.
    """
    image = open_image(path, max_pixels, setting)
    metadata, pictures = read_metadata(Path(path), image)
    return replace(decode(path, image), metadata=metadata, pictures=pictures)


def decode(path: PathLike, image: pyvips.Image) -> Photo:
    """The upright pixels of an opened picture with their profile and resolution."""
    orientation = orientation_of(image)
    try:
        converted = to_rgb_or_grey(image)
        icc = profile_of(image) if converted.interpretation == image.interpretation else None
        dpi = resolution_of(image)
        pixels = fetch(converted)
    except READ_ERRORS as error:
        raise DataError(damaged(path, error)) from None
    if dpi is not None and orientation >= 5:
        dpi = dpi[::-1]
    return Photo(np.ascontiguousarray(upright(pixels, orientation)), icc, dpi)


def read_size(path: PathLike, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the upright picture, from its header alone. Raises as `read_rgb`."""
    image = open_image(path, max_pixels)
    size = (image.height, image.width)
    return size[::-1] if orientation_of(image) >= 5 else size


def write_rgb(path: PathLike, pixels: np.ndarray) -> None:
    """Write plain pixels, uint8 or uint16 (H, W, C). Raises as `open_writer`."""
    write_photo(path, Photo(pixels))


def write_photo(path: PathLike, photo: Photo, quality: int = JPEG_QUALITY) -> None:
    """Write a photograph; the name's ending decides the format. Raises as `open_writer`."""
    height, width, channels = photo.pixels.shape
    dtype = photo.pixels.dtype
    with open_writer(path, height, width, channels, dtype, photo, quality) as writer:
        writer.write(photo.pixels)


def open_writer(
    path: PathLike,
    height: int,
    width: int,
    channels: int,
    dtype: np.dtype | type,
    like: Photo | None = None,
    quality: int = JPEG_QUALITY,
) -> Writer:
    """Start a picture whose rows follow: `with open_writer(...) as writer: writer.write(rows)`.

    The file appears under its name when it is whole. PNG and TIFF keep 16 bits and alpha, and
    need memory for a few rows only; JPEG and WebP hold the picture, and have 8 bits.

    Args:
        path: ends in .png, .tif, .tiff, .jpg, .jpeg or .webp.
        height, width, channels, dtype: of the picture; 1 to 4 channels as in `Photo`, uint8 or
            uint16.
        like: the photograph whose profile and resolution the picture inherits; not the profile
            where one of them is grey and the other isn't.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        DataError: the format isn't written, can't hold the picture, or there is no writing here.
    """
    icc = dpi = None
    if like is not None:
        same_kind = (like.pixels.shape[2] <= 2) == (channels <= 2)
        icc, dpi = like.icc if same_kind else None, like.dpi
    shape = (height, width, channels)
    return Writer(Path(path), shape, np.dtype(dtype), icc, dpi, quality)


def loader_of(start: bytes) -> str | None:
    """The libvips loader for a file that starts so; only formats that are expected here."""
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "pngload"
    if start.startswith(b"\xff\xd8\xff"):
        return "jpegload"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiffload"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "webpload"
    return "gifload" if start[:6] in (b"GIF87a", b"GIF89a") else None


def open_image(path: PathLike, max_pixels: int, setting: str = "max_pixels") -> pyvips.Image:
    """An undecoded picture, its header checked."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    loader = loader_of(start)
    if loader is None:
        what = "an empty file" if not start else "no image"
        raise DataError(f"{path}: {what}; PNG, JPEG, TIFF, WebP and GIF are read")
    try:
        load = getattr(pyvips.Image, loader)
        image = load(os.fsencode(path), access="sequential", fail_on="error")
    except READ_ERRORS as error:
        raise DataError(damaged(path, error)) from None
    if image.width * image.height > max_pixels:
        raise DataError(
            f"{path}: {image.height}x{image.width} pixels, more than the limit of {max_pixels} "
            f"({setting})"
        )
    return image


def damaged(path: PathLike, error: Exception) -> str:
    """One line for a file that libvips gave up on."""
    text = str(getattr(error, "detail", error))
    details = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{path}: damaged or not supported ({details[0] if details else 'no details'})"


def orientation_of(image: pyvips.Image) -> int:
    """EXIF orientation, 1 to 8."""
    value = image.get("orientation") if image.get_typeof("orientation") else 1
    return value if value in range(1, 9) else 1


def profile_of(image: pyvips.Image) -> bytes | None:
    """The ICC profile, as it stands in the file."""
    return image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else None


def resolution_of(image: pyvips.Image) -> tuple[float, float] | None:
    """Pixels per inch along (rows, columns); libvips gives most files that don't say 1 per mm."""
    per_mm = image.yres, image.xres
    if per_mm == NO_RESOLUTION:
        loader = image.get("vips-loader") if image.get_typeof("vips-loader") else ""
        if loader == "pngload" or (loader == "tiffload" and image.get_typeof("resolution-unit")):
            return MM_PER_INCH, MM_PER_INCH  # these say so
        per_mm = exif_resolution_of(image)
    if per_mm == NO_RESOLUTION or min(per_mm) <= 0:
        return None
    return round(per_mm[0] * MM_PER_INCH, 3), round(per_mm[1] * MM_PER_INCH, 3)


def exif_resolution_of(image: pyvips.Image) -> tuple[float, float]:
    """Pixels per mm along (rows, columns) as EXIF says, which libvips passes over in WebP."""
    numbers = []
    for tag in ("YResolution", "XResolution", "ResolutionUnit"):
        name = f"exif-ifd0-{tag}"
        text = str(image.get(name)) if image.get_typeof(name) else ""
        numbers.append(re.match(r"([0-9]{1,10})(?:/([0-9]{1,10}))? ", text))
    *resolution, unit = (int(n[1]) / (int(n[2] or 1) or 1) if n else 0.0 for n in numbers)
    mm = {2: MM_PER_INCH, 3: 10.0}.get(int(unit))
    return NO_RESOLUTION if mm is None else (resolution[0] / mm, resolution[1] / mm)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of pixels (H, W, C) turned as EXIF orientation says."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def to_rgb_or_grey(image: pyvips.Image) -> pyvips.Image:
    """8 or 16 bits, RGB or grey, each perhaps with alpha, whatever the file's colour space."""
    if image.interpretation not in ("b-w", "grey16", "rgb16", "srgb", "rgb", "multiband"):
        image = image.colourspace("srgb")
    if image.format not in ("uchar", "ushort") or image.bands not in (1, 2, 3, 4):
        raise pyvips.Error(
            "", f"{image.bands} channels of {image.format}: 1 to 4 of 8 or 16 bits are read"
        )
    return image


def fetch(image: pyvips.Image) -> np.ndarray:
    """Decode: (H, W, C), uint8 or uint16.

    Through a region, in this thread: libvips' own thread pool does not survive a fork, and loader
    workers that use it would wait forever.
    """
    dtype = np.dtype(np.uint8 if image.format == "uchar" else np.uint16)
    pixels = np.empty((image.height, image.width, image.bands), dtype)
    region = pyvips.Region.new(image)
    for top in range(0, image.height, STRIP_ROWS):
        rows = min(STRIP_ROWS, image.height - top)
        strip = np.frombuffer(region.fetch(0, top, image.width, rows), dtype)
        pixels[top : top + rows] = strip.reshape(rows, image.width, image.bands)
    return pixels
