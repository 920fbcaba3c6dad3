"""Pixels of a raw file as PNG, TIFF, JPEG or WebP.

libvips maps the raw file, so that memory doesn't grow with the picture. Left to itself it would
invent a resolution and change or drop EXIF and comments, so these are written around its pixels.
"""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyvips
from PIL import Image
from PIL.PngImagePlugin import putchunk

from utils import DataError

from .exif import exif_to_write, rewrite_tiff_directory

# Of enlargements, whose rows are smooth; level 6 takes twice as long for three percent less.
COMPRESSION = 4
MM_PER_INCH = 25.4
CLASSIC_TIFF_LIMIT = 2**32 - 2**24
LARGEST_SEGMENT = 2**16 - 3
XMP_OF_JPEG = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class Raw:
    """Pixels in a file, (H, W, C) of uint8 or uint16, and what belongs to them.

    `icc`, `dpi` and `metadata` are as in `datasets.images.Photo`; `quality` is of JPEG and WebP.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    icc: bytes | None
    dpi: tuple[float, float] | None
    metadata: dict[str, bytes | str]
    quality: int

    def image(self, *blocks: str) -> pyvips.Image:
        """The pixels, mapped, with their profile, resolution and these blocks of metadata."""
        height, width, channels = self.shape
        kind, grey, colour = ("uchar", "b-w", "srgb")
        if self.dtype == np.uint16:
            kind, grey, colour = ("ushort", "grey16", "rgb16")
        interpretation = grey if channels <= 2 else colour
        path = os.fsencode(self.path)  # of a str pyvips would make UTF-8
        image = pyvips.Image.rawload(
            path, width, height, channels, format=kind, interpretation=interpretation
        )
        dpi = self.dpi or (MM_PER_INCH, MM_PER_INCH)
        image = image.copy(xres=dpi[1] / MM_PER_INCH, yres=dpi[0] / MM_PER_INCH)
        found = {"icc-profile-data": self.icc, **{name: self.block(name) for name in blocks}}
        for name, content in found.items():
            if content:
                image.set_type(pyvips.GValue.blob_type, name, content)
        return image

    def block(self, name: str) -> bytes:
        """The metadata of that name, empty where there are none."""
        content = self.metadata.get(name, b"")
        return content.encode() if isinstance(content, str) else content

    def comments(self) -> list[tuple[str, bytes]]:
        """(name, text) of each comment."""
        names = sorted(name for name in self.metadata if name.startswith("png-comment-"))
        return [(name.split("-", 3)[3], self.block(name)) for name in names]

    def exif(self, **others: Any) -> Image.Exif:
        return exif_to_write(self.block("exif-data"), self.shape[:2], **others)


def exif_bytes(exif: Image.Exif) -> bytes:
    """From "Exif" and two zeros on; empty where there is no EXIF."""
    return exif.tobytes() if exif else b""


def write_png(raw: Raw, file: BinaryIO) -> None:
    height, width, channels = raw.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * raw.dtype.itemsize, kind, 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n")
    putchunk(file, b"IHDR", header)
    if raw.icc:
        putchunk(file, b"iCCP", b"icc\0\0" + zlib.compress(raw.icc))
    if raw.dpi:
        rows, columns = (round(value * 1000 / MM_PER_INCH) for value in raw.dpi)
        putchunk(file, b"pHYs", struct.pack(">IIB", columns, rows, 1))
    if exif := exif_bytes(raw.exif()):
        putchunk(file, b"eXIf", exif[6:])
    for name, text in [("XML:com.adobe.xmp", raw.block("xmp-data")), *raw.comments()]:
        if text:
            keyword = name.encode("latin-1", "replace")[:79]
            putchunk(file, b"iTXt", keyword + bytes(5) + text)
    save = functools.partial(
        raw.image().pngsave_target, compression=COMPRESSION, filter="up", keep="none"
    )
    encode(file, save, lambda start: start.index(b"IDAT") - 4)


def write_jpeg(raw: Raw, file: BinaryIO) -> None:
    """What is transparent becomes white."""
    rows, columns = (min(round(value), 2**16 - 1) for value in raw.dpi or (1, 1))
    density = struct.pack(">BHH", raw.dpi is not None, columns, rows)  # 1: dpi, 0: shape of pixels
    xmp = raw.block("xmp-data")
    segments = [
        (0xE0, b"JFIF\0\1\1" + density + bytes(2)),
        (0xE1, exif_bytes(raw.exif())),
        (0xE1, xmp and XMP_OF_JPEG + xmp),
        *((0xFE, text) for _, text in raw.comments()),
    ]
    file.write(b"\xff\xd8")
    for marker, content in segments:
        if content and len(content) <= LARGEST_SEGMENT:
            file.write(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)
    image = raw.image("iptc-data")
    if image.hasalpha():
        image = image.flatten(background=[255])
    save = functools.partial(
        image.jpegsave_target, Q=raw.quality, subsample_mode="off", keep="icc:iptc"
    )
    encode(file, save, lambda start: 4 + start[5] if start[3] == 0xE0 else 2)  # its own JFIF


def write_webp(raw: Raw, file: BinaryIO) -> None:
    """By Pillow, which leaves EXIF as it is; libwebp holds the whole picture in any case."""
    pixels: np.ndarray = np.memmap(raw.path, raw.dtype, "r", shape=raw.shape)
    if raw.shape[2] <= 2:
        pixels = pixels[..., [0, 0, 0, 1][: raw.shape[2] + 2]]
    (comment,) = [text for _, text in raw.comments()][:1] or [b""]
    exif = exif_bytes(raw.exif(comment=comment, dpi=raw.dpi))
    Image.fromarray(pixels).save(
        file,
        "WEBP",
        quality=raw.quality,
        icc_profile=raw.icc or b"",
        exif=exif,
        xmp=raw.block("xmp-data"),
    )


def write_tiff(raw: Raw, file: BinaryIO) -> None:
    """Deflated strips; BigTIFF where 4 GB might not do."""
    big = raw.path.stat().st_size > CLASSIC_TIFF_LIMIT
    save = functools.partial(
        raw.image("xmp-data", "iptc-data").tiffsave_target,
        compression="deflate",
        predictor="horizontal",
        bigtiff=big,
        level=COMPRESSION,
    )
    encode(file, save)
    (comment,) = [text for _, text in raw.comments()][:1] or [b""]
    rewrite_tiff_directory(file, big, raw.exif(comment=comment), raw.dpi is not None)


ENCODERS: dict[str, Callable[[Raw, BinaryIO], None]] = {
    ".png": write_png,
    ".tif": write_tiff,
    ".tiff": write_tiff,
    ".jpg": write_jpeg,
    ".jpeg": write_jpeg,
    ".webp": write_webp,
}


def encode(
    file: BinaryIO,
    save: Callable[[pyvips.Target], object],
    start_of: Callable[[bytes], int] = lambda start: 0,
) -> None:
    """Let libvips encode to a file, from where it stands.

    It works in another thread, so that a signal can end it.

    Args:
        file: open for reading and writing.
        save: the encoder, given where it is to write.
        start_of: given the encoder's first bytes, how many of them to leave out.

    Raises:
        OSError: the file can't be written.
        DataError: in a process forked from one that has encoded before.
    """
    if encoding_process() != os.getpid():
        raise DataError(
            "a forked process can't write pictures after its parent has (the threads of libvips "
            "do not survive a fork); start it by the method spawn"
        )
    problems: list[BaseException] = []
    begun = False

    def write(content: Any) -> int:
        nonlocal begun
        try:
            file.write(content if begun else bytes(content)[start_of(bytes(content)) :])
            begun = True
            return -1 if problems else len(content)
        except Exception as error:  # C could not hand it on
            problems.append(error)
            return -1

    target = pyvips.TargetCustom()
    target.on_write(write)
    target.on_seek(file.seek)
    target.on_read(file.read)
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(save, target).result()
        except BaseException as error:
            problems.append(error)
    if problems:
        raise problems[0]


@functools.cache
def encoding_process() -> int:
    """The process that encoded first, in which the threads of libvips run."""
    return os.getpid()


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """8 bits as they are, 16 to the nearest of 8: 65535 becomes 255."""
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) * 255 + 32895) >> 16).astype(np.uint8)
