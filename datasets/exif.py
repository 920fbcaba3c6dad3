"""EXIF of pictures that are written: what describes the photograph, not how it was stored."""

from __future__ import annotations

import struct
from typing import BinaryIO

from PIL import Image

DESCRIPTION, ORIENTATION, DETAILS, GPS = 0x010E, 0x0112, 0x8769, 0x8825
RESOLUTION = (0x011B, 0x011A, 0x0128)  # of rows, of columns, their unit
PIXELS = (0xA003, 0xA002)  # rows, columns
INCH = 2


def load_exif(block: bytes) -> Image.Exif:
    """An EXIF block ("Exif", two zeros, then as in TIFF), for Pillow to write as it was.

    Raises:
        Exception: damaged; Pillow may raise nearly any.
    """
    exif = Image.Exif()
    exif.load(block)
    for tags in (exif, *(exif.get_ifd(tag) for tag in (DETAILS, GPS) if tag in exif)):
        for tag, value in list(tags.items()):
            if isinstance(value, str) and not value.isascii():
                tags[tag] = value.encode("latin-1")  # Pillow reads texts so, but writes ASCII
    return exif


def exif_to_write(
    block: bytes,
    size: tuple[int, int],
    comment: bytes = b"",
    dpi: tuple[float, float] | None = None,
) -> Image.Exif:
    """The EXIF of a photograph for a picture made from it.

    Args:
        block: the photograph's.
        size: (height, width) of the picture.
        comment: the description, if the block has none.
        dpi: pixels per inch along (rows, columns), where the format has no other place for it.
    """
    exif = load_exif(block) if block else Image.Exif()
    for tag in (ORIENTATION, *RESOLUTION):
        exif.pop(tag, None)
    details = exif.get_ifd(DETAILS) if DETAILS in exif else {}
    details.update({tag: n for tag, n in zip(PIXELS, size, strict=True) if tag in details})
    if comment and DESCRIPTION not in exif:
        exif[DESCRIPTION] = comment
    if dpi is not None:
        exif.update(zip(RESOLUTION, (*dpi, INCH), strict=True))
    return exif


def rewrite_tiff_directory(
    file: BinaryIO, big: bool, exif: Image.Exif, known_resolution: bool
) -> None:
    """Write the directory of a little-endian TIFF anew, after all else in its file.

    Args:
        file: open for reading and writing, with one directory.
        big: a BigTIFF. Its numbers are wider than those of EXIF, which it goes without.
        exif: tags to add, where the file has no such.
        known_resolution: keep the resolution, which libvips invents if it isn't given one.
    """
    place, number, start = ("<Q", "<Q", 8) if big else ("<I", "<H", 4)
    entries = read_entries(file, start, place, number)
    if not known_resolution:
        for tag in RESOLUTION:
            entries.pop(tag, None)
    if exif and not big:
        end = file.seek(0, 2) + 1 & ~1
        file.seek(end)
        exif.endian = "<"
        file.write(exif.tobytes(offset=end)[14:])  # without "Exif", two zeros, and a header
        entries = {**read_entries(file, end, "", number), **entries}
    end = file.seek(0, 2) + 1 & ~1
    file.seek(end)
    file.write(struct.pack(number, len(entries)))
    file.write(b"".join(entries[tag] for tag in sorted(entries)) + bytes(struct.calcsize(place)))
    file.seek(start)
    file.write(struct.pack(place, end))


def read_entries(file: BinaryIO, start: int, place: str, number: str) -> dict[int, bytes]:
    """The entries of a directory by tag; it begins at `start`, or where `start` says (`place`)."""

    def read(form: str) -> int:
        return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])

    file.seek(start)
    if place:
        file.seek(read(place))
    length = 20 if number == "<Q" else 12
    entries = [file.read(length) for _ in range(read(number))]
    return {int.from_bytes(entry[:2], "little"): entry for entry in entries}
