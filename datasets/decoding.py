"""Opening and decoding picture files: libvips first, Pillow for what it lacks.

What a file is, is told from its first bytes, whatever its name says.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyvips
from PIL import Image, ImageOps, features

from utils import DataError

from .exif import ORIENTATION
from .files import file_errors
from .metadata import field_of, pillow_resolution, resolution_of
from .tiff import Layout, damaged, read_layout

# They hand the decoders' warnings to logging; what matters comes as an exception.
for name in ("pyvips", "tifffile", "PIL"):
    logging.getLogger(name).addHandler(logging.NullHandler())
    logging.getLogger(name).propagate = False
# Pillow prints a warning for odd tags.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Its libtiff prints what comes as an exception too; on Windows there is no stopping it so.
with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS, or what the user gives, is checked instead


def lenient_text(text: object) -> str:
    """What libvips says, with whatever bytes a file has put into it."""
    return "" if text == pyvips.ffi.NULL else pyvips.ffi.string(text).decode("utf-8", "replace")


# pyvips takes for granted that this is UTF-8, and prints a traceback where it is not.
pyvips._to_string = lenient_text
pyvips.error._to_string = lenient_text
# Else libvips would remember what it read under a name, also when the file has changed.
pyvips.cache_set_max(0)

# Larger pictures are refused before they are decoded: a small file can claim any size.
MAX_PIXELS = 2**28
READ = "PNG, JPEG, TIFF, WebP, GIF, AVIF, HEIC, BMP, PPM and JPEG 2000"
PILLOW_FORMATS = ("BMP", "PPM", "JPEG2000", "TIFF", "AVIF")
HEIF_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
STRIP_ROWS = 256
SWAPPED = (5, 6, 7, 8)  # EXIF orientations that exchange rows and columns
# The second: a name that can't be handed on.
LIBVIPS_ERRORS = (pyvips.Error, UnicodeError)
DTYPES = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32}


@dataclass(frozen=True)
class Picture:
    """A file that is open, not yet decoded.

    Attributes:
        size: (height, width), upright.
        decode: gives the upright pixels (H, W, 1 to 4) as for `Photo`. Raises DataError.
        icc: ICC profile of these pixels.
        dpi: pixels per inch along upright (rows, columns).
        pages: how many frames or pages the header promises; 1 where it doesn't say.
        image: as libvips sees it, where it reads the file.
    """

    size: tuple[int, int]
    decode: Callable[[], np.ndarray]
    icc: bytes | None
    dpi: tuple[float, float] | None
    pages: int
    image: pyvips.Image | None


def loader_of(start: bytes) -> str | None:
    """Who reads a file whose first 16 bytes are these: a loader of libvips, "pillow", or nobody."""
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "pngload"
    if start.startswith(b"\xff\xd8\xff"):
        return "jpegload"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiffload"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "webpload"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "gifload"
    if start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS:
        return "heifload"
    if start[:2] == b"BM" or start[4:8] == b"jP  " or start[:4] == b"\xff\x4f\xff\x51":
        return "pillow"
    if start[:1] == b"P" and start[1:2] in b"123456f" and start[2:3] in b" \t\r\n#":
        return "pillow"
    return None


def loader_of_file(path: Path) -> str | None:
    """`loader_of` a file, by its content; None where it can't be read."""
    try:
        with path.open("rb") as file:
            return loader_of(file.read(16))
    except OSError:
        return None


def open_picture(path: Path, max_pixels: int = MAX_PIXELS, setting: str = "max_pixels") -> Picture:
    """A file's picture, its header checked; arguments and errors as for `images.read_photo`."""
    with file_errors(path, "read"), path.open("rb") as file:
        start = file.read(16)
    loader = loader_of(start)
    if loader is None:
        what = "an empty file" if not start else "no image"
        raise DataError(f"{path}: {what}; {READ} are read")
    layout = read_layout(path) if loader == "tiffload" else None
    if loader == "pillow" or (layout and layout.by_pillow):
        picture = open_by_pillow(path, layout)
    else:
        picture = open_by_libvips(path, loader, layout)
    if loader == "heifload" and features.check("avif") and is_avif_of_8_bits(picture.image):
        # Pillow interpolates colours of half resolution, libvips repeats them.
        picture = replace(open_by_pillow(path, None), image=picture.image)
    height, width = picture.size
    if height * width > max_pixels:
        raise DataError(
            f"{path}: {height}x{width} pixels, more than the limit of {max_pixels} ({setting})"
        )
    return picture


def open_by_libvips(path: Path, loader: str, layout: Layout | None) -> Picture:
    """A file that libvips reads. Raises DataError."""
    try:
        load = getattr(pyvips.Image, loader)
        image = load(os.fsencode(path), access="sequential", fail_on="error")
    except LIBVIPS_ERRORS as error:
        raise damaged(path, error) from None
    icc = field_of(image, "icc-profile-data")
    has_inks = image.interpretation == "cmyk"
    has_profile = icc is not None and icc[16:20] == b"CMYK"  # viewers ignore one of other colours
    orientation = field_of(image, "orientation", 1)  # may be any number

    def decode() -> np.ndarray:
        try:
            # Inks with a profile become what it says, others what browsers and Pillow show.
            pixels = fetch(image.colourspace("srgb") if has_inks and has_profile else image)
        except LIBVIPS_ERRORS as error:
            raise damaged(path, error) from None
        if has_inks and not has_profile:
            pixels = inks_to_rgb(pixels)
        if loader == "heifload" and pixels.dtype == np.uint16:
            bits = image.get("bits-per-sample")  # they come as the upper ones of 16
            pixels = ((pixels >> (16 - bits)) * (65535 / (2**bits - 1))).round().astype(np.uint16)
        return upright(plain_channels(path, pixels, layout), orientation)

    size, dpi = (image.height, image.width), resolution_of(path, image)
    if orientation in SWAPPED:
        size, dpi = size[::-1], dpi and dpi[::-1]
    pages = field_of(image, "n-pages", 1)
    return Picture(size, decode, None if has_inks else icc, dpi, pages, image)


def is_avif_of_8_bits(image: pyvips.Image) -> bool:
    return image.format == "uchar" and image.get("heif-compression") == "av1"


def fetch(image: pyvips.Image) -> np.ndarray:
    """Decode: (H, W, C).

    Through a region, in this thread: libvips' own thread pool does not survive a fork, and loader
    workers that use it would wait forever.
    """
    if image.format not in DTYPES:
        raise pyvips.Error("", f"numbers of the kind {image.format}")
    dtype = np.dtype(DTYPES[image.format])
    pixels = np.empty((image.height, image.width, image.bands), dtype)
    region = pyvips.Region.new(image)
    for top in range(0, image.height, STRIP_ROWS):
        rows = min(STRIP_ROWS, image.height - top)
        strip = np.frombuffer(region.fetch(0, top, image.width, rows), dtype)
        pixels[top : top + rows] = strip.reshape(rows, image.width, image.bands)
    return pixels


def open_by_pillow(path: Path, layout: Layout | None) -> Picture:
    """A file that libvips doesn't read, or reads wrongly. Raises DataError."""
    try:
        with Image.open(path, formats=PILLOW_FORMATS) as opened:
            width, height = opened.size
            if opened.format == "TIFF":  # some releases of Pillow give the upright size already
                width, height = opened.tag_v2[256], opened.tag_v2[257]
            orientation = opened.getexif().get(ORIENTATION)
            dpi = pillow_resolution(opened)
            pages = getattr(opened, "n_frames", 1)
            icc = None if opened.mode in ("CMYK", "LAB") else opened.info.get("icc_profile")
    except Exception as error:  # of damaged files Pillow raises nearly any exception
        raise damaged(path, error) from None

    def decode() -> np.ndarray:
        try:
            with Image.open(path, formats=PILLOW_FORMATS) as opened:
                pixels = pillow_pixels(ImageOps.exif_transpose(opened))
        except Exception as error:
            raise damaged(path, error) from None
        return plain_channels(path, pixels, layout)

    size = (height, width)
    if orientation in SWAPPED:
        size, dpi = size[::-1], dpi and dpi[::-1]
    return Picture(size, decode, icc, dpi, pages, None)


def pillow_pixels(image: Image.Image) -> np.ndarray:
    """The pixels (H, W, C) of a picture in any of Pillow's colour models."""
    mode = image.mode
    if mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif mode in ("1", "La", "RGBa", "PA"):
        image = image.convert({"1": "L", "La": "LA"}.get(mode, "RGBA"))
    elif mode in ("RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if mode == "I":  # of PGM with more than 8 bits, whose numbers Pillow spreads over 16
        pixels = pixels.clip(0, 65535)
    if mode.startswith("I"):
        pixels = pixels.astype(np.uint16)
    return pixels.reshape(image.height, image.width, -1)


def plain_channels(path: Path, pixels: np.ndarray, layout: Layout | None) -> np.ndarray:
    """Decoded channels as those of a `Photo`: extra ones left out, uint8 or uint16."""
    if layout is not None and layout.channels is not None:
        pixels = pixels[..., : layout.channels]
    if pixels.shape[2] > 4:
        raise DataError(f"{path}: {pixels.shape[2]} channels; allowed: 1 to 4")
    if pixels.dtype == np.float32:
        low, high = pixels.min(), pixels.max()
        if not (low >= 0 and high <= 1):  # nor where one is no number
            raise DataError(
                f"{path}: float values from {low:g} to {high:g}; allowed: 0 (black) to 1 (white)"
            )
        pixels = (pixels * 65535).round().astype(np.uint16)
    if layout is not None and layout.inverted:
        pixels = np.concatenate([~pixels[..., :1], pixels[..., 1:]], axis=2)
    return pixels


def inks_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Cyan, magenta, yellow, black and perhaps alpha (H, W, 4 or 5) as RGB, as browsers do it."""
    top = np.iinfo(pixels.dtype).max
    rgb = np.delete(pixels, 3, axis=2)
    for row, inks in zip(rgb, pixels, strict=True):  # one at a time: wide numbers need memory
        light = top - inks[:, 3:4].astype(np.uint32)
        row[:, :3] = light - (inks[:, :3] * light + top // 2) // top
    return rgb


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of pixels (H, W, C) turned as EXIF orientation says."""
    if orientation in SWAPPED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
