"""File formats of pictures that come row by row.

PNG and TIFF rows go to the file as they come, so that memory doesn't grow with the picture. JPEG
and WebP hold the picture until its last row.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import pyvips

# Of filtered photographs; level 6 takes three times as long for one percent less.
COMPRESSION = 3
MM_PER_INCH = 25.4
TIFF_STRIP_BYTES = 2**20
CLASSIC_TIFF_LIMIT = 2**32 - 2**24


class Encoder(Protocol):
    """A file format: rows in, bytes out."""

    def write(self, rows: np.ndarray) -> None:
        """The next rows (n, W, C), in the dtype agreed on."""

    def finish(self) -> None:
        """Everything that follows the last row."""


class PngEncoder:
    """PNG of 8 or 16 bits, grey or RGB, each with or without alpha; every row Paeth-filtered."""

    def __init__(
        self,
        file: BinaryIO,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        icc: bytes | None,
        dpi: tuple[float, float] | None,
    ) -> None:
        height, width, channels = shape
        self.file = file
        self.pixel_bytes = channels * dtype.itemsize
        self.dtype = dtype.newbyteorder(">")
        self.above = np.zeros(width * self.pixel_bytes, np.uint8)
        self.deflate = zlib.compressobj(COMPRESSION, strategy=zlib.Z_FILTERED)
        file.write(b"\x89PNG\r\n\x1a\n")
        colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        self.chunk(
            b"IHDR",
            struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, colour_type, 0, 0, 0),
        )
        if icc is not None:
            self.chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc))
        if dpi is not None:
            rows, columns = (round(value * 1000 / MM_PER_INCH) for value in dpi)
            self.chunk(b"pHYs", struct.pack(">IIB", columns, rows, 1))

    def chunk(self, name: bytes, content: bytes) -> None:
        checksum = zlib.crc32(content, zlib.crc32(name))
        self.file.write(struct.pack(">I", len(content)) + name + content)
        self.file.write(struct.pack(">I", checksum))

    def write(self, rows: np.ndarray) -> None:
        # A few rows at a time keep the filter's intermediate results in the processor's cache.
        step = max(1, 2**18 // len(self.above))
        for top in range(0, len(rows), step):
            plain = np.ascontiguousarray(rows[top : top + step], self.dtype).view(np.uint8)
            content = self.deflate.compress(self.filtered(plain.reshape(len(plain), -1)).data)
            if content:
                self.chunk(b"IDAT", content)

    def filtered(self, current: np.ndarray) -> np.ndarray:
        """Bytes (n, row length) less what the Paeth filter predicts, each row after its 4."""
        n, length = current.shape
        padded = np.zeros((n + 1, length + self.pixel_bytes), np.int16)
        padded[0, self.pixel_bytes :] = self.above
        padded[1:, self.pixel_bytes :] = current
        self.above = current[-1].copy()
        up, left = padded[:-1, self.pixel_bytes :], padded[1:, :length]
        up_left = padded[:-1, :length]
        to_left, to_up = (
            up - up_left,
            left - up_left,
        )  # p - left and p - up, p = left + up - up_left
        to_up_left = np.abs(to_left + to_up)
        np.abs(to_left, out=to_left)
        np.abs(to_up, out=to_up)
        predicted = np.where(to_up <= to_up_left, up, up_left)
        np.copyto(predicted, left, where=(to_left <= to_up) & (to_left <= to_up_left))
        result = np.empty((n, length + 1), np.uint8)
        result[:, 0] = 4
        np.subtract(current, predicted, out=result[:, 1:], casting="unsafe")
        return result

    def finish(self) -> None:
        self.chunk(b"IDAT", self.deflate.flush())
        self.chunk(b"IEND", b"")


class TiffEncoder:
    """TIFF of 8 or 16 bits in deflated strips, BigTIFF where 4 GB might not do."""

    def __init__(
        self,
        file: BinaryIO,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        icc: bytes | None,
        dpi: tuple[float, float] | None,
    ) -> None:
        self.file, self.shape, self.icc, self.dpi = file, shape, icc, dpi
        self.dtype = dtype.newbyteorder("<")
        height, width, channels = shape
        row_bytes = width * channels * dtype.itemsize
        self.strip_rows = max(1, TIFF_STRIP_BYTES // row_bytes)
        self.big = height * row_bytes > CLASSIC_TIFF_LIMIT
        self.waiting = np.empty((0, width, channels), self.dtype)
        self.offsets: list[int] = []
        self.lengths: list[int] = []
        # The place of the directory is filled in at the end.
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if self.big else b"II*\0\0\0\0\0")

    def write(self, rows: np.ndarray) -> None:
        waiting = np.concatenate([self.waiting, rows.astype(self.dtype)])
        whole = len(waiting) // self.strip_rows * self.strip_rows
        for top in range(0, whole, self.strip_rows):
            self.strip(waiting[top : top + self.strip_rows])
        self.waiting = waiting[whole:]

    def strip(self, rows: np.ndarray) -> None:
        differences = rows.copy()
        np.subtract(rows[:, 1:], rows[:, :-1], out=differences[:, 1:])  # wraps, as it should
        content = zlib.compress(differences.data, COMPRESSION)
        self.offsets.append(self.file.tell())
        self.lengths.append(len(content))
        self.file.write(content)

    def finish(self) -> None:
        if len(self.waiting):
            self.strip(self.waiting)
        self.file.write(b"\0" * (self.file.tell() % 2))
        directory = self.directory()
        start = self.file.tell()
        self.file.write(directory)
        self.file.seek(8 if self.big else 4)
        self.file.write(struct.pack("<Q" if self.big else "<I", start))

    def directory(self) -> bytes:
        """The directory of tags; values that don't fit into it are written before it."""
        height, width, channels = self.shape
        place = "Q" if self.big else "I"
        tags: list[tuple[int, str, Sequence[int] | bytes]] = [
            (256, "I", [width]),
            (257, "I", [height]),
            (258, "H", [8 * self.dtype.itemsize] * channels),
            (259, "H", [8]),  # deflate
            (262, "H", [2 if channels >= 3 else 1]),  # RGB, or black is zero
            (273, place, self.offsets),
            (277, "H", [channels]),
            (278, "I", [self.strip_rows]),
            (279, place, self.lengths),
            (284, "H", [1]),  # channels side by side
            (317, "H", [2]),  # differences from the pixel to the left
        ]
        if self.dpi is not None:
            rows, columns = (round(value * 1000) for value in self.dpi)
            tags += [(282, "R", [columns, 1000]), (283, "R", [rows, 1000]), (296, "H", [2])]
        if channels in (2, 4):
            tags.append((338, "H", [2]))  # alpha, colours not multiplied by it
        if self.icc is not None:
            tags.append((34675, "B", self.icc))
        entries = [self.entry(*tag) for tag in sorted(tags)]
        count = struct.pack("<Q" if self.big else "<H", len(entries))
        return count + b"".join(entries) + bytes(8 if self.big else 4)

    def entry(self, tag: int, kind: str, values: Sequence[int] | bytes) -> bytes:
        code = {"B": 7, "H": 3, "I": 4, "Q": 16, "R": 5}[kind]
        number = len(values) // 2 if kind == "R" else len(values)
        letter = "I" if kind == "R" else kind
        content = (
            values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{letter}", *values)
        )
        field = 8 if self.big else 4
        if len(content) > field:
            position = self.file.tell()
            self.file.write(content + b"\0" * (len(content) % 2))
            content = struct.pack("<Q" if self.big else "<I", position)
        return struct.pack("<HHQ" if self.big else "<HHI", tag, code, number) + content.ljust(
            field, b"\0"
        )


class WholeEncoder:
    """JPEG and WebP, 8 bits: the picture is held until it is whole.

    JPEG has no alpha: what is transparent becomes white.
    """

    def __init__(
        self,
        path: Path,
        suffix: str,
        shape: tuple[int, int, int],
        icc: bytes | None,
        dpi: tuple[float, float] | None,
        quality: int,
    ) -> None:
        self.path, self.suffix, self.icc, self.dpi = path, suffix, icc, dpi
        self.quality = quality
        self.pixels = np.empty(shape, np.uint8)
        self.filled = 0

    def write(self, rows: np.ndarray) -> None:
        self.pixels[self.filled : self.filled + len(rows)] = (
            to_8_bits(rows) if rows.dtype == np.uint16 else rows
        )
        self.filled += len(rows)

    def finish(self) -> None:
        height, width, channels = self.pixels.shape
        image = pyvips.Image.new_from_memory(self.pixels.data, width, height, channels, "uchar")
        image = image.copy(interpretation="b-w" if channels <= 2 else "srgb")
        if self.suffix != ".webp" and channels in (2, 4):
            image = image.flatten(background=[255])
        if self.dpi is not None:
            image = image.copy(xres=self.dpi[1] / MM_PER_INCH, yres=self.dpi[0] / MM_PER_INCH)
        if self.icc is not None:
            image.set_type(pyvips.GValue.blob_type, "icc-profile-data", self.icc)
        if self.suffix == ".webp":
            encoded = image.webpsave_buffer(Q=self.quality)
        else:
            encoded = image.jpegsave_buffer(Q=self.quality, subsample_mode="off")
        self.path.write_bytes(encoded)  # libvips would not say why it can't write


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """16 bits to the nearest of 8: 65535 becomes 255."""
    return ((pixels.astype(np.uint32) * 255 + 32895) >> 16).astype(np.uint8)
