"""Photographs in files: reading whatever cameras and programs made, writing without loss.

Files are decoded by libvips, and by Pillow where libvips can't (`decoding`). Pillow alone won't
do: it turns 16-bit RGB into 8 bits as it reads and can't write it.
It encodes them too (`encoders`), from the rows that rendering has made (`writers`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .decoding import MAX_PIXELS, loader_of_file, open_picture
from .encoders import to_8_bits
from .metadata import read_metadata
from .writers import WRITTEN_SUFFIXES, Writer

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "WRITTEN_SUFFIXES",
    "Photo",
    "loader_of_file",
    "open_writer",
    "page_count",
    "read_photo",
    "read_rgb",
    "read_size",
    "write_photo",
    "write_rgb",
]

PathLike = str | os.PathLike[str]

# What is taken for a picture in a folder; what a file is, its content tells.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".avif", ".heic", ".heif"),
)
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
        path: any kind of file that docs/files.md lists.
        max_pixels: a picture with more pixels is refused undecoded.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DataError: no such file, not readable, no image, damaged, or too large.
    """
    pixels = open_picture(Path(path), max_pixels).decode()
    if pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    pixels = to_8_bits(pixels)
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    return np.ascontiguousarray(pixels)


def read_photo(path: PathLike, max_pixels: int = MAX_PIXELS, setting: str = "max_pixels") -> Photo:
    """A photograph with all that its file holds; CMYK and palettes become RGB, grey stays grey.

    Arguments and errors as for `read_rgb`; `setting` is what raises the limit, for the message.
    """
    picture = open_picture(Path(path), max_pixels, setting)
    metadata, frames = read_metadata(Path(path), picture.image)
    pixels = np.ascontiguousarray(picture.decode())
    return Photo(pixels, picture.icc, picture.dpi, metadata, max(frames, picture.pages))


def read_size(path: PathLike, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the upright picture, from its header alone. Raises as `read_rgb`."""
    return open_picture(Path(path), max_pixels).size


def page_count(path: PathLike) -> int:
    """How many frames or pages a file's header promises; 1 where it doesn't say. Raises so too."""
    return open_picture(Path(path)).pages


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

    The file appears under its name when it is whole; the rows wait in another beside it. PNG and
    TIFF keep 16 bits and alpha, JPEG and WebP have 8 bits. All but WebP need memory for a few rows
    only. Missing folders are made.

    Args:
        path: ends in .png, .tif, .tiff, .jpg, .jpeg or .webp.
        height, width, channels, dtype: of the picture; 1 to 4 channels as in `Photo`, uint8 or
            uint16.
        like: the photograph whose profile, resolution and metadata the picture inherits; not the
            profile where one of them is grey and the other isn't.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        DataError: the format isn't written, can't hold the picture, or there is no writing here.
    """
    like = like or Photo(np.empty((0, 0, channels), np.uint8))
    same_kind = (like.pixels.shape[2] <= 2) == (channels <= 2)
    icc = like.icc if same_kind else None
    shape = (height, width, channels)
    return Writer(Path(path), shape, np.dtype(dtype), icc, like.dpi, like.metadata, quality)
