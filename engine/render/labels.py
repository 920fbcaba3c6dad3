"""Text on pictures."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface, so that no font has to be installed."""
    return ImageFont.load_default(size)


def fitted(text: str, size: int, width: float) -> str:
    """The text, its middle left out if it is wider than that."""
    short, keep = text, len(text)
    while font(size).getlength(short) > width and keep > 2:
        keep -= 1
        short = f"{text[: (keep + 1) // 2]}…{text[-(keep // 2) :]}"
    return short


def label_height(size: int) -> int:
    """Rows of a line of letters of this size."""
    return round(1.7 * size)


def draw_labels(texts: list[str], width: int, gap: int, size: int) -> np.ndarray:
    """Texts in a row, black on white: uint8 (label_height(size), ., 3).

    Args:
        width, gap: of the column below each, and between them.
        size: of the letters in pixels, smaller where a text wouldn't fit.
    """
    pages = len(texts) * (width + gap) - gap
    strip = Image.new("RGB", (pages, label_height(size)), "white")
    space = width - size // 2
    for number, text in enumerate(texts):
        fitting = min(size, max(10, int(size * space / font(size).getlength(text))))
        place = number * (width + gap) + size // 4, strip.height / 2
        ImageDraw.Draw(strip).text(
            place, fitted(text, fitting, space), "black", font(fitting), anchor="lm"
        )
    return np.asarray(strip)
