"""Draw docs/images/gallery.png: photographs of four kinds, bicubic beside the bundled model.

    python scripts/draw_gallery.py

scikit-image carries the pictures: a cat, coffee, cells under a microscope and a printed page. Each
detail is reduced by MATLAB's bicubic, then enlarged to its old size.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.resize import resize_matlab, resize_pil
from engine.evaluate.panels import INK, SURFACE, font
from engine.render import ContinuousImage
from engine.runtime import run_script, say

SCALE = 4
# scikit-image's name, what it shows, and the upper left corner of a detail of SIDE pixels.
PICTURES = (
    ("chelsea", "a cat", 50, 105),
    ("coffee", "coffee", 60, 140),
    ("immunohistochemistry", "microscope", 100, 100),
    ("page", "text", 20, 20),
)
SIDE, GAP, CAPTION = 160, 8, 24


def row(pixels: np.ndarray, model: str | None) -> list[Image.Image]:
    """The input, bicubic, LIIF, and the original, each SIDE pixels on a side."""
    small = resize_matlab(pixels, (SIDE // SCALE, SIDE // SCALE))
    rendered = ContinuousImage.represent(small, model).render(SIDE, SIDE)
    liif = (rendered.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    size = (SIDE, SIDE)
    panels = resize_pil(small, size, "nearest"), resize_pil(small, size), liif, pixels
    return [Image.fromarray(panel) for panel in panels]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the gallery of the README.")
    parser.add_argument("--model", help="a checkpoint, or the name of weights")
    parser.add_argument("--output", type=Path, default=Path("docs/images/gallery.png"))
    options = parser.parse_args()
    columns, rows = 2 * 4, len(PICTURES) // 2
    width = columns * SIDE + (columns - 1) * GAP + 2 * GAP
    sheet = Image.new("RGB", (width, rows * (SIDE + CAPTION + GAP) - GAP), SURFACE)
    draw = ImageDraw.Draw(sheet)
    for number, (name, shown, top, left) in enumerate(PICTURES):
        picture = getattr(skimage.data, name)()
        picture = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
        detail = np.ascontiguousarray(picture[top : top + SIDE, left : left + SIDE])
        captions = f"{shown}, input", "bicubic", f"LIIF, x{SCALE}", "original"
        for column, (panel, caption) in enumerate(
            zip(row(detail, options.model), captions, strict=True)
        ):
            half = number % 2
            x = (4 * half + column) * (SIDE + GAP) + 2 * GAP * half
            y = number // 2 * (SIDE + CAPTION + GAP)
            sheet.paste(panel, (x, y))
            draw.text((x + SIDE // 2, y + SIDE + CAPTION // 2), caption, INK, font(13), "mm")
    sheet.save(options.output, optimize=True)
    say(f"{options.output}: {sheet.width}x{sheet.height}")


if __name__ == "__main__":
    run_script(main)
