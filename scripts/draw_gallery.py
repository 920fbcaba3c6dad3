"""Draw details of photographs: bicubic beside the bundled model, or the bundled models compared.

    python scripts/draw_gallery.py                   docs/images/gallery.png
    python scripts/draw_gallery.py --which-model     docs/images/which-model.webp

scikit-image carries the pictures. Each detail is reduced by MATLAB's bicubic and, for the second,
damaged, then enlarged to its old size.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.degrade import Degrade, damage_of
from datasets.resize import resize_matlab, resize_pil
from datasets.transforms import to_bytes
from engine.evaluate.panels import INK, SURFACE, font
from engine.render import ContinuousImage
from engine.runtime import run_script, say

# scikit-image's name, what it shows, the upper left corner of a detail of SIDE pixels, the damage.
Kind = tuple[str, str, int, int, list[dict[str, Any]]]
GALLERY: list[Kind] = [
    ("chelsea", "a cat", 50, 105, []),
    ("coffee", "coffee", 60, 140, []),
    ("immunohistochemistry", "microscope", 100, 100, []),
    ("page", "text", 20, 20, []),
]
WHICH_MODEL: list[Kind] = [
    ("coffee", "JPEG of quality 40", 60, 140, [{"name": "jpeg", "quality": 40, "offset": False}]),
    ("rocket", "high ISO", 190, 230, [{"name": "noise", "photons": 500, "sigma": 4}]),
    ("chelsea", "clean", 50, 105, []),
    ("page", "clean text", 20, 20, []),
    ("astronaut", "a face, JPEG 75", 30, 145, [{"name": "jpeg", "quality": 75, "offset": False}]),
]
SIDE = 160
MODELS = "compact-liif", "compact-liif-photo"


def panels(kind: Kind, scale: int, models: Sequence[str | None]) -> list[np.ndarray]:
    """The input, bicubic, each model, and the original, each SIDE pixels on a side."""
    name, _, top, left, steps = kind
    picture = getattr(skimage.data, name)()
    picture = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    detail = np.ascontiguousarray(picture[top : top + SIDE, left : left + SIDE])
    reduce = functools.partial(resize_matlab, size=(SIDE // scale, SIDE // scale))
    small = damage_of(Degrade(steps), name).apply(detail, reduce)
    size = (SIDE, SIDE)
    shown = [resize_pil(small, size, "nearest"), resize_pil(small, size)]
    for model in models:
        rendered = ContinuousImage.represent(small, model).render(SIDE, SIDE)
        shown.append(to_bytes(rendered.permute(1, 2, 0).numpy()))
    return [*shown, detail]


def sheet(
    rows: Sequence[Sequence[tuple[np.ndarray, str]]],
    gap: int = 8,
    line: int = 24,
    letters: int = 13,
) -> Image.Image:
    """Rows of square panels, each above its caption in a line of so many pixels."""
    side = len(rows[0][0][0])
    across, down = side + gap, side + line + gap
    image = Image.new("RGB", (len(rows[0]) * across - gap, len(rows) * down - gap), SURFACE)
    draw = ImageDraw.Draw(image)
    for number, row in enumerate(rows):
        for column, (panel, caption) in enumerate(row):
            x, y = column * across, number * down
            image.paste(Image.fromarray(panel), (x, y))
            draw.text((x + side // 2, y + side + line // 2), caption, INK, font(letters), "mm")
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the README's gallery.")
    parser.add_argument("--which-model", action="store_true", help="the guide's panels instead")
    parser.add_argument("--model", help="of the gallery: a checkpoint, or the name of weights")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.which_model:
        name, kinds, scale = "which-model.webp", WHICH_MODEL, 2
        models: dict[str, str | None] = {model: model for model in MODELS}
    else:
        name, kinds, scale = "gallery.png", GALLERY, 4
        models = {f"LIIF, x{scale}": options.model}
    rows = []
    for kind in kinds:
        captions = kind[1], "bicubic", *models, "original"
        rows.append([*zip(panels(kind, scale, [*models.values()]), captions, strict=True)])
    if not options.which_model:  # two in a line
        rows = [first + second for first, second in zip(rows[::2], rows[1::2], strict=True)]
    output = options.output or Path(f"docs/images/{name}")
    image = sheet(rows)
    image.save(output, optimize=True, quality=95)
    say(f"{output}: {image.width}x{image.height}")


if __name__ == "__main__":
    run_script(main)
