"""Draw docs/images/readme.png: one small photograph, enlarged from one representation.

    python scripts/draw_readme_picture.py --model edsr-baseline-liif

The photograph is NASA's portrait of Eileen Collins, in the public domain, which scikit-image
carries; `python scripts/prepare_data.py sample` puts it in place.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.images import read_rgb
from datasets.resize import resize_matlab, resize_pil
from engine.evaluate.panels import INK, SURFACE, font
from engine.render import ContinuousImage
from engine.runtime import run_script, say

Box = tuple[int, int, int, int]
REDUCTION = 4
# What is shown, in pixels of the small photograph: top, left, bottom, right.
DETAILS = ((6, 34, 46, 74), (14, 86, 34, 106))
SIDE, GAP, CAPTION = 232, 10, 26


def panel(pixels: np.ndarray) -> Image.Image:
    """Exactly SIDE pixels on a side, by repeating pixels where it is smaller."""
    return Image.fromarray(resize_pil(pixels, (SIDE, SIDE), "nearest"))


def cut(pixels: np.ndarray, box: Box, factor: int = 1) -> np.ndarray:
    top, left, bottom, right = (factor * value for value in box)
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def row(
    small: np.ndarray, original: np.ndarray, image: ContinuousImage, box: Box
) -> list[tuple[str, Image.Image]]:
    """(caption, picture) of each panel for one detail."""
    scale = SIDE / (box[2] - box[0])
    height, width = (round(side * scale) for side in small.shape[:2])
    bicubic = resize_pil(small, (height, width))
    top, left = (round(value * scale) for value in box[:2])
    rendered = image.render(SIDE, SIDE, box=box)
    liif = (rendered.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return [
        ("input", panel(cut(small, box))),
        (f"bicubic, x{scale:.3g}", panel(bicubic[top : top + SIDE, left : left + SIDE])),
        (f"LIIF, x{scale:.3g}", panel(liif)),
        (f"original, {REDUCTION} times the input", panel(cut(original, box, REDUCTION))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the picture of the README.")
    parser.add_argument("--model", help="a checkpoint, or the name of published weights")
    parser.add_argument("--photo", default="load/sample/valid/astronaut.png")
    parser.add_argument("--output", type=Path, default=Path("docs/images/readme.png"))
    options = parser.parse_args()
    original = read_rgb(options.photo)
    height, width = (side // REDUCTION for side in original.shape[:2])
    original = original[: height * REDUCTION, : width * REDUCTION]
    small = resize_matlab(original, (height, width))
    image = ContinuousImage.represent(small, options.model)
    rows = [row(small, original, image, box) for box in DETAILS]
    size = (4 * SIDE + 3 * GAP, len(rows) * (SIDE + CAPTION + GAP) - GAP)
    sheet = Image.new("RGB", size, SURFACE)
    draw = ImageDraw.Draw(sheet)
    for y, panels in enumerate(rows):
        for x, (caption, picture) in enumerate(panels):
            left, top = x * (SIDE + GAP), y * (SIDE + CAPTION + GAP)
            sheet.paste(picture, (left, top))
            draw.text((left + SIDE // 2, top + SIDE + CAPTION // 2), caption, INK, font(14), "mm")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.output, optimize=True)
    say(f"{options.output}: {size[0]}x{size[1]}")


if __name__ == "__main__":
    run_script(main)
