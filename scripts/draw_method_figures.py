"""Draw the figures of docs/method.md: python scripts/draw_method_figures.py [--output docs/images]

Geometry and curves come from the project's own functions, so that the figures stay true.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from engine.evaluate.tables import paper_tables
from utils import make_coord

INK, GREY, PALE, WHITE = "#202124", "#80868b", "#e3e6ea", "#ffffff"
RED, BLUE, GREEN, ORANGE = "#c5221f", "#1a5fb4", "#188038", "#e37400"
FINE = 3  # drawn this much larger, then reduced: smooth lines
Point = tuple[float, float]


class Canvas:
    """A white picture; positions are (x, y) in its own pixels, as drawing libraries have it."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        self.image = Image.new("RGB", (width * FINE, height * FINE), WHITE)
        self.draw = ImageDraw.Draw(self.image)

    def line(self, points: Sequence[Point], colour: str = INK, width: float = 1.5) -> None:
        scaled = [(x * FINE, y * FINE) for x, y in points]
        self.draw.line(scaled, colour, round(width * FINE), joint="curve")

    def box(
        self, start: Point, end: Point, fill: str | None = None, edge: str | None = INK
    ) -> None:
        (x0, x1), (y0, y1) = (sorted((start[axis], end[axis])) for axis in (0, 1))
        corners = (x0 * FINE, y0 * FINE, x1 * FINE, y1 * FINE)
        self.draw.rectangle(corners, fill, edge, round(1.2 * FINE))

    def dot(self, at: Point, colour: str = INK, radius: float = 5) -> None:
        x, y = at
        corners = [(value + sign * radius) * FINE for sign in (-1, 1) for value in (x, y)]
        self.draw.ellipse(corners, colour)

    def text(
        self, at: Point, words: str, colour: str = INK, size: int = 15, anchor: str = "mm"
    ) -> None:
        font = ImageFont.load_default(size * FINE)
        self.draw.text((at[0] * FINE, at[1] * FINE), words, colour, font, anchor)

    def save(self, path: Path) -> None:
        self.image.resize(self.size, Image.Resampling.LANCZOS).save(path, optimize=True)
        print(path)


def draw_coordinates(path: Path) -> None:
    """Pixel centres of a picture of 2 x 4 pixels on the square [-1, 1] x [-1, 1]."""
    canvas = Canvas(860, 420)
    left, top, wide, high = 90, 60, 680, 300
    height, width = 2, 4

    def place(y: float, x: float) -> Point:
        return left + (x + 1) / 2 * wide, top + (y + 1) / 2 * high

    for row in range(height):
        for column in range(width):
            y0, x0 = 2 * row / height - 1, 2 * column / width - 1
            fill = PALE if (row + column) % 2 else WHITE
            canvas.box(place(y0, x0), place(y0 + 2 / height, x0 + 2 / width), fill)
    for y, x in make_coord((height, width)).tolist():
        canvas.dot(place(y, x), BLUE)
        px, py = place(y, x)
        canvas.text((px, py + 20), f"({y:+.2f}, {x:+.2f})", BLUE)
    for y, x, words in ((-1, -1, "(-1, -1)"), (1, 1, "(1, 1)")):
        canvas.dot(place(y, x), RED, 4)
        canvas.text((place(y, x)[0], place(y, x)[1] + 16 * y), words, RED)
    canvas.line([(left - 30, top), (left - 30, top + high)], GREY)
    canvas.text((left - 45, top + high / 2), "y", GREY, 17)
    canvas.line([(left, top + high + 45), (left + wide, top + high + 45)], GREY)
    canvas.text((left + wide / 2, top + high + 30), "x", GREY, 17)
    canvas.text((left + wide / 2, 24), "height 2, width 4: coordinates are (y, x)", INK, 17)
    canvas.save(path)


def draw_ensemble(path: Path) -> None:
    """A query between four codes, the four areas, and which code each of them weighs."""
    canvas = Canvas(860, 440)
    side, query = 300, (0.3, 0.36)  # of the way down, of the way to the right
    colours = (RED, ORANGE, GREEN, BLUE)
    names = ("0", "1", "2", "3")  # in the order of look-up: y outer, x inner
    tints = ("#f6d5d4", "#fbe3c9", "#d3e9da", "#d3e0f2")
    for panel, (left, title) in enumerate(((60, "area next to code"), (500, "weight of code"))):
        top = 80
        centre = (left + query[1] * side, top + query[0] * side)
        corners = [(left + x * side, top + y * side) for y in (0, 1) for x in (0, 1)]
        for index, corner in enumerate(corners):
            shown = 3 - index if panel else index
            canvas.box(corner, centre, tints[shown], None)
            middle = tuple((a + b) / 2 for a, b in zip(corner, centre, strict=True))
            label = f"w{names[shown]}" if panel else f"area {names[shown]}"
            canvas.text((middle[0], middle[1]), label, colours[shown])
        canvas.box(corners[0], corners[3])
        canvas.line([(left, centre[1]), (left + side, centre[1])], INK, 1)
        canvas.line([(centre[0], top), (centre[0], top + side)], INK, 1)
        for index, (x, y) in enumerate(corners):
            canvas.dot((x, y), colours[index], 9)
            canvas.text((x, y + (24 if index > 1 else -24)), f"code {names[index]}", colours[index])
        canvas.dot(centre, INK, 6)
        canvas.text((centre[0] + 14, centre[1] + 14), "q", INK, 17)
        canvas.text((left + side / 2, 28), title, INK, 17)
    canvas.text((430, 230), "swap", GREY, 16)
    canvas.line([(405, 245), (455, 245)], GREY)
    canvas.line([(447, 240), (455, 245), (447, 250)], GREY)
    canvas.save(path)


def draw_cell(path: Path) -> None:
    """The pixel that is asked for, in the units of one latent code, at three scales."""
    canvas = Canvas(860, 330)
    side, top = 200, 70
    for number, scale in enumerate((1, 2, 4)):
        left = 60 + number * 275
        canvas.box((left, top), (left + side, top + side), "#f4f6f8")
        pixel = side / scale
        for step in range(1, scale):
            at = step * pixel
            canvas.line([(left + at, top), (left + at, top + side)], PALE, 1)
            canvas.line([(left, top + at), (left + side, top + at)], PALE, 1)
        x, y = left + side - pixel, top
        canvas.box((x, y), (x + pixel, y + pixel), "#d3e0f2", BLUE)
        canvas.dot((left + side / 2, top + side / 2), RED, 6)
        canvas.text((left + side / 2, 28), f"scale {scale}: cell = {2 / scale:g}", BLUE, 17)
    canvas.text(
        (430, 300), "grey square: the domain of one latent code (red), 2 x 2 code units", GREY, 16
    )
    canvas.save(path)


def chart(
    canvas: Canvas, frame: tuple[float, float, float, float], x: Point, y: Point
) -> Callable[[float, float], Point]:
    """Draw the axes of (left, top, right, bottom) over the ranges x and y; gives the mapping."""
    left, top, right, bottom = frame
    canvas.line([(left, top), (left, bottom), (right, bottom)], GREY)

    def place(a: float, b: float) -> Point:
        across = (a - x[0]) / (x[1] - x[0])
        up = (b - y[0]) / (y[1] - y[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    return place


def decoder_on_a_line(ensemble: bool, x: torch.Tensor) -> torch.Tensor:
    """What a decoder of random weights says along a row of six codes, (Q,)."""
    torch.manual_seed(8)
    spec = {
        "name": "liif",
        "args": {
            "encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 16,
                                                               "no_upsampling": True}},
            "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [32, 32]}},
            "local_ensemble": ensemble,
        },
    }  # fmt: skip
    model = models.make(spec)
    picture = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 8 - 4
    coord = torch.stack([torch.full_like(x, 1 / 6), x], dim=-1)[None]
    with torch.no_grad():
        return model(picture, coord, torch.full_like(coord, 2 / 48))[0, :, 0]


def draw_continuity(path: Path) -> None:
    """One row of a prediction, with the ensemble and with the nearest code alone."""
    canvas = Canvas(860, 360)
    x = torch.linspace(-1, 1, 1201)
    curves = [(decoder_on_a_line(False, x), RED, "nearest code alone: jumps where it changes")]
    curves += [(decoder_on_a_line(True, x), BLUE, "local ensemble: continuous")]
    values = torch.cat([curve for curve, _, _ in curves])
    margin = 0.1 * (values.max() - values.min()).item()
    limits = (values.min().item() - margin, values.max().item() + margin)
    place = chart(canvas, (50, 60, 830, 310), (-1, 1), limits)
    for border in range(1, 6):
        at = 2 * border / 6 - 1
        canvas.line([place(at, limits[0]), place(at, limits[1])], PALE, 1)
    for number, (curve, colour, words) in enumerate(curves):
        points = [place(a, b) for a, b in zip(x.tolist(), curve.tolist(), strict=True)]
        steps = (curve[1:] - curve[:-1]).abs()
        start = 0
        for index, step in enumerate(steps.tolist()):
            if step > 20 * steps.median().item() and colour == RED:
                canvas.line(points[start : index + 1], colour, 2)
                start = index + 1
        canvas.line(points[start:], colour, 2)
        canvas.text((60 + number * 400, 28), words, colour, 16, "lm")
    canvas.text((440, 335), "x, with the borders between six codes", GREY, 15)
    canvas.save(path)


def draw_beyond(path: Path) -> None:
    """The paper's gain over bicubic on DIV2K, at trained and untrained scales."""
    canvas = Canvas(860, 380)
    table = paper_tables()["div2k"]
    rows = (table["rows"]["edsr-baseline-liif"], table["rows"]["bicubic"])
    gains = {s: liif - bicubic for s, liif, bicubic in zip(table["scales"], *rows, strict=True)}
    place = chart(canvas, (70, 50, 830, 310), (0, 31), (0, 4))
    canvas.box(place(1, 0), place(4, 4), "#e6f1e9", None)
    canvas.text((place(1, 4)[0], 36), "trained", GREEN, 15, "lm")
    for step in range(5):
        canvas.text((place(0, step)[0] - 8, place(0, step)[1]), f"+{step}", GREY, 14, "rm")
    points = [place(scale, gain) for scale, gain in gains.items()]
    canvas.line(points, BLUE, 2)
    for (scale, gain), point in zip(gains.items(), points, strict=True):
        canvas.dot(point, BLUE)
        canvas.text((point[0] + 8, point[1] - 13), f"{gain:.2f}", BLUE, 13, "lm")
        canvas.text((point[0], place(0, 0)[1] + 14), f"x{scale:g}", GREY, 13)
    canvas.text((450, 355), "PSNR above bicubic in dB, DIV2K validation (figures of the paper)",
                GREY, 15)  # fmt: skip
    canvas.save(path)


FIGURES = {
    "coordinates": draw_coordinates,
    "ensemble": draw_ensemble,
    "cell": draw_cell,
    "continuity": draw_continuity,
    "beyond": draw_beyond,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of docs/method.md.")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        draw(output / f"method-{name}.png")


if __name__ == "__main__":
    main()
