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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.images import read_rgb
from datasets.resize import resize_matlab, resize_pil
from datasets.transforms import to_bytes
from engine.render import ContinuousImage
from engine.runtime import run_script, say
from scripts.draw_gallery import sheet

Box = tuple[int, int, int, int]
REDUCTION = 4
# What is shown, in pixels of the small photograph: top, left, bottom, right.
DETAILS = ((6, 34, 46, 74), (14, 86, 34, 106))
SIDE = 232


def panel(pixels: np.ndarray) -> np.ndarray:
    """Exactly SIDE pixels on a side, by repeating pixels where it is smaller."""
    return resize_pil(pixels, (SIDE, SIDE), "nearest")


def cut(pixels: np.ndarray, box: Box, factor: int = 1) -> np.ndarray:
    top, left, bottom, right = (factor * value for value in box)
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def row(
    small: np.ndarray, original: np.ndarray, image: ContinuousImage, box: Box
) -> list[tuple[np.ndarray, str]]:
    """Each panel for one detail, and its caption."""
    scale = SIDE / (box[2] - box[0])
    height, width = (round(side * scale) for side in small.shape[:2])
    bicubic = resize_pil(small, (height, width))
    top, left = (round(value * scale) for value in box[:2])
    rendered = image.render(SIDE, SIDE, box=box)
    return [
        (panel(cut(small, box)), "input"),
        (bicubic[top : top + SIDE, left : left + SIDE], f"bicubic, x{scale:.3g}"),
        (to_bytes(rendered.permute(1, 2, 0).numpy()), f"LIIF, x{scale:.3g}"),
        (panel(cut(original, box, REDUCTION)), f"original, {REDUCTION} times the input"),
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
    drawn = sheet(rows, gap=10, line=26, letters=14)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    drawn.save(options.output, optimize=True)
    say(f"{options.output}: {drawn.width}x{drawn.height}")


if __name__ == "__main__":
    run_script(main)
