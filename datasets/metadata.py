"""What a picture's file says besides its pixels: EXIF, XMP, IPTC, comments, number of pictures.

libvips reads most of it; Pillow adds EXIF of TIFF, comments of JPEG and GIF, and the number of
pictures in APNG and MPO.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyvips
from PIL import Image

from .encoders import MM_PER_INCH
from .exif import DESCRIPTION, DETAILS, GPS, ORIENTATION, RESOLUTION, load_exif

BLOCKS = ("exif-data", "xmp-data", "iptc-data")
COMMENT = "png-comment-"  # a number and the comment's name follow
# What describes the photograph in the directory of a TIFF, rather than how its pixels are stored:
# description, maker, model, software, date, artist, copyright, EXIF and GPS.
TIFF_TAGS = (DESCRIPTION, 271, 272, 305, 306, 315, 33432, DETAILS, GPS)
# Descriptions with which programs note how many pages, channels and dimensions are stored.
STORAGE_NOTES = ("ImageJ=", '{"shape"', "<?xml")
NO_RESOLUTION = (1.0, 1.0)  # pixels per mm
LARGEST_RESOLUTION = 1e6  # pixels per mm, of libvips


def read_metadata(path: Path, image: pyvips.Image | None) -> tuple[dict[str, bytes | str], int]:
    """Metadata as for `Photo.metadata`, and how many frames Pillow finds in what libvips doesn't.

    Metadata that make no sense are left out: they are no reason to refuse a photograph.

    Args:
        path: the file.
        image: as libvips has opened it, where it can.
    """
    found: dict[str, bytes | str] = {}
    frames = 1
    fields: list[str] = []
    if image is not None:
        fields = image.get_fields()
        kept = [name for name in fields if name in BLOCKS or name.startswith(COMMENT)]
        found = {name: image.get(name) for name in kept}
    try:
        with Image.open(path) as opened:
            frames = 1 if "n-pages" in fields else getattr(opened, "n_frames", 1)
            for name, content in pillow_metadata(opened).items():
                found.setdefault(name, content)
    except Exception:  # Pillow can't read it, and may say so by nearly any exception
        pass
    block = found.pop("exif-data", None)
    if isinstance(block, bytes) and (upright := upright_exif(block)):
        found["exif-data"] = upright
    return found, frames


def pillow_metadata(opened: Image.Image) -> dict[str, bytes | str]:
    """Metadata of a file that Pillow has opened, under the names of libvips."""
    found: dict[str, bytes | str] = {}
    exif = opened.getexif()
    if opened.format == "TIFF":
        kept = Image.Exif()
        for tag in TIFF_TAGS:
            if tag in exif:
                kept[tag] = exif.get_ifd(tag) if tag in (DETAILS, GPS) else exif[tag]
        if str(kept.get(DESCRIPTION, "")).startswith(STORAGE_NOTES):
            del kept[DESCRIPTION]
        exif = kept
    if exif:
        found["exif-data"] = exif.tobytes()
    if isinstance(opened.info.get("xmp"), bytes):
        found["xmp-data"] = opened.info["xmp"]
    comment = opened.info.get("comment")
    if comment and opened.format != "PNG":  # of which libvips reads all
        text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
        found[f"{COMMENT}0-Comment"] = text
    return found


def upright_exif(block: bytes) -> bytes | None:
    """An EXIF block ("Exif", two zeros, then as in TIFF) without orientation and thumbnail."""
    try:
        exif = load_exif(block)
        exif.pop(ORIENTATION, None)
        return exif.tobytes() if exif else None
    except Exception:  # of damaged blocks Pillow may raise nearly any exception
        return None


def field_of(image: pyvips.Image, name: str, absent: Any = None) -> Any:
    """What libvips has found in a file under a name."""
    return image.get(name) if image.get_typeof(name) else absent


def resolution_of(path: Path, image: pyvips.Image) -> tuple[float, float] | None:
    """Pixels per inch along (rows, columns); libvips gives files that don't say 1 per mm or 72."""
    per_mm = image.yres, image.xres
    loader, unit = (field_of(image, name) for name in ("vips-loader", "resolution-unit"))
    inches = {round(value * MM_PER_INCH, 1) for value in per_mm}
    if inches == {72.0} and loader != "tiffload" and not says_resolution(path):
        return None
    if per_mm == NO_RESOLUTION:
        if loader == "pngload" or (loader == "tiffload" and unit is not None):
            return MM_PER_INCH, MM_PER_INCH  # these say so
        per_mm = exif_resolution_of(image)
    if per_mm == NO_RESOLUTION:
        return None
    return possible_resolution(per_mm[0] * MM_PER_INCH, per_mm[1] * MM_PER_INCH)


def possible_resolution(rows: float, columns: float) -> tuple[float, float] | None:
    """Pixels per inch, rounded; None for what no picture can have or be written with."""
    dpi = round(rows, 3), round(columns, 3)
    return dpi if all(0 < value < LARGEST_RESOLUTION * MM_PER_INCH for value in dpi) else None


def says_resolution(path: Path) -> bool:
    """Whether a PNG or JPEG says its resolution, as far as Pillow can tell."""
    try:
        with Image.open(path) as opened:
            by_png = opened.format == "PNG" and "dpi" in opened.info
            by_itself = by_png or bool(opened.info.get("jfif_unit", 0))
            return by_itself or RESOLUTION[0] in opened.getexif()  # EXIF may be damaged
    except Exception:  # Pillow may say so by nearly any exception
        return False


def exif_resolution_of(image: pyvips.Image) -> tuple[float, float]:
    """Pixels per mm along (rows, columns) as EXIF says, which libvips passes over in WebP."""
    exif = Image.Exif()
    try:
        exif.load(image.get("exif-data"))
        mm = {2: MM_PER_INCH, 3: 10.0}[exif[0x0128]]
        return float(exif[0x011B]) / mm, float(exif[0x011A]) / mm
    except Exception:  # there is none; or it is damaged, of which Pillow may raise anything
        return NO_RESOLUTION


def pillow_resolution(opened: Image.Image) -> tuple[float, float] | None:
    """The same of a file that Pillow has opened, which gives a TIFF that doesn't say 1 per inch."""
    columns, rows = opened.info.get("dpi", (0, 0))
    return possible_resolution(float(rows), float(columns)) if min(columns, rows) > 1 else None
