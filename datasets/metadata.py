"""What a picture's file says besides its pixels: EXIF, XMP, IPTC, comments, number of pictures.

libvips reads most of it; Pillow adds EXIF of TIFF, comments of JPEG and GIF, and the number of
pictures in APNG and MPO.
"""

from __future__ import annotations

from pathlib import Path

import pyvips
from PIL import Image

BLOCKS = ("exif-data", "xmp-data", "iptc-data")
COMMENT = "png-comment-"  # a number and the comment's name follow
ORIENTATION = 0x0112
# What describes the photograph in the directory of a TIFF, rather than how its pixels are stored:
# description, maker, model, software, date, artist, copyright, EXIF and GPS.
DESCRIPTION = 270
TIFF_TAGS = (DESCRIPTION, 271, 272, 305, 306, 315, 33432, 0x8769, 0x8825)
# Descriptions with which programs note how many pages, channels and dimensions are stored.
STORAGE_NOTES = ("ImageJ=", '{"shape"', "<?xml")


def read_metadata(path: Path, image: pyvips.Image | None) -> tuple[dict[str, bytes | str], int]:
    """Metadata as for `Photo.metadata`, and the number of pictures in a file (frames, pages).

    Metadata that make no sense are left out: they are no reason to refuse a photograph.

    Args:
        path: the file.
        image: as libvips has opened it, where it can.
    """
    found: dict[str, bytes | str] = {}
    pictures = 1
    if image is not None:
        fields = image.get_fields()
        names = [name for name in fields if name in BLOCKS or name.startswith(COMMENT)]
        found = {name: image.get(name) for name in names}
        pictures = image.get("n-pages") if "n-pages" in fields else 1
    try:
        with Image.open(path) as opened:
            pictures = max(pictures, getattr(opened, "n_frames", 1))
            for name, content in pillow_metadata(opened).items():
                found.setdefault(name, content)
    except Exception:  # Pillow can't read it, and may say so by nearly any exception
        pass
    block = found.pop("exif-data", None)
    if isinstance(block, bytes) and (upright := upright_exif(block)):
        found["exif-data"] = upright
    return found, pictures


def pillow_metadata(opened: Image.Image) -> dict[str, bytes | str]:
    """Metadata of a file that Pillow has opened, under the names of libvips."""
    found: dict[str, bytes | str] = {}
    exif = opened.getexif()
    if opened.format == "TIFF":
        kept = Image.Exif()
        for tag in TIFF_TAGS:
            if tag in exif:
                kept[tag] = exif.get_ifd(tag) if tag in (0x8769, 0x8825) else exif[tag]
        if str(kept.get(DESCRIPTION, "")).startswith(STORAGE_NOTES):
            del kept[DESCRIPTION]
        exif = kept
    if exif:
        found["exif-data"] = exif.tobytes()
    if isinstance(opened.info.get("xmp"), bytes):
        found["xmp-data"] = opened.info["xmp"]
    comment = opened.info.get("comment")
    if comment:
        text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
        found[f"{COMMENT}0-Comment"] = text
    return found


def upright_exif(block: bytes) -> bytes | None:
    """An EXIF block ("Exif", two zeros, then as in TIFF) without orientation and thumbnail."""
    exif = Image.Exif()
    try:
        exif.load(block)
        exif.pop(ORIENTATION, None)
        return exif.tobytes() if exif else None
    except Exception:  # of damaged blocks Pillow may raise nearly any exception
        return None
