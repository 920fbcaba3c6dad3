"""Drawing with Pillow: text, boxes, colour scales, line charts. Everything is RGB, 8 bits."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

SURFACE: Colour = (252, 252, 251)
INK: Colour = (11, 11, 11)
INK_SOFT: Colour = (82, 81, 78)
INK_FAINT: Colour = (137, 135, 129)
GRID: Colour = (225, 224, 217)
MARK: Colour = (227, 73, 72)
# Told apart by people with any kind of colour vision, in this order.
SERIES: tuple[Colour, ...] = (
    (42, 120, 214),
    (235, 104, 52),
    (27, 175, 122),
    (237, 161, 0),
    (74, 58, 167),
    (227, 73, 72),
    (0, 131, 0),
    (232, 123, 164),
)
# From no error to the largest, light to dark.
ERROR_STOPS = np.array(
    [[252, 252, 251], [253, 219, 176], [243, 151, 92], [205, 72, 60], [122, 17, 58], [43, 5, 42]],
    dtype=np.float64,
)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface, so that no font has to be installed."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> float:
    return font(size).getlength(text)


def fitted(text: str, size: int, width: float) -> str:
    """The text, its middle left out where it is wider than that."""
    if text_width(text, size) <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        short = f"{text[: (keep + 1) // 2]}…{text[-(keep // 2) :]}"
        if text_width(short, size) <= width:
            return short
    return "…"


def error_colours(error: np.ndarray, largest: float) -> np.ndarray:
    """Errors (H, W) from 0 to largest, and beyond, as colours: uint8 (H, W, 3)."""
    position = np.clip(error / max(largest, 1e-9), 0, 1) * (len(ERROR_STOPS) - 1)
    low = np.minimum(position.astype(int), len(ERROR_STOPS) - 2)
    part = (position - low)[..., None]
    colours = ERROR_STOPS[low] * (1 - part) + ERROR_STOPS[low + 1] * part
    return np.round(colours).astype(np.uint8)


@dataclass(frozen=True)
class Line:
    """One line of a chart: points (x, y), and rings (x, y) that belong to it."""

    label: str
    points: tuple[tuple[float, float], ...]
    rings: tuple[tuple[float, float], ...] = ()


def nice_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers that cover [low, high]."""
    span = max(high - low, 1e-6)
    rough = span / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * i for i in range(first, last + 1)]


class Axes:
    """Where values stand on the paper, in pixels."""

    def __init__(
        self,
        box: tuple[int, int, int, int],
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        log_x: bool,
    ) -> None:
        self.left, self.top, self.right, self.bottom = box
        self.log_x = log_x
        self.x_low, self.x_high = (self.forward(value) for value in x_range)
        self.y_low, self.y_high = y_range

    def forward(self, x: float) -> float:
        return math.log2(x) if self.log_x else x

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1.0
        part = (self.forward(value) - self.x_low) / span if self.x_high > self.x_low else 0.5
        inset = 0.03 * (self.right - self.left)
        return self.left + inset + part * (self.right - self.left - 2 * inset)

    def y(self, value: float) -> float:
        part = (value - self.y_low) / (self.y_high - self.y_low)
        return self.bottom - part * (self.bottom - self.top)


def line_chart(
    title: str,
    subtitle: str,
    lines: Sequence[Line],
    x_label: str,
    rings_label: str = "",
    size: tuple[int, int] = (760, 1200),
) -> Image.Image:
    """A chart of several lines over common x values.

    Args:
        lines: at least one with a point.
        rings_label: what the rings are, for the legend.
        size: (height, width).
    """
    grain = 2  # drawn larger and shrunk, for smooth edges
    height, width = size[0] * grain, size[1] * grain
    paper = Image.new("RGB", (width, height), SURFACE)
    draw = ImageDraw.Draw(paper)
    everything = [point for line in lines for point in (*line.points, *line.rings)]
    xs = sorted({x for x, _ in everything})
    ys = nice_ticks(min(y for _, y in everything), max(y for _, y in everything))
    margin = 36 * grain
    draw.text((margin, 26 * grain), title, fill=INK, font=font(26 * grain))
    draw.text((margin, 62 * grain), subtitle, fill=INK_SOFT, font=font(16 * grain))
    legend_bottom = draw_legend(draw, lines, rings_label, margin, 96 * grain, width, grain)
    box = (margin + 44 * grain, legend_bottom + 24 * grain, width - margin, height - 74 * grain)
    axes = Axes(box, (xs[0], xs[-1]), (ys[0], ys[-1]), log_x=xs[-1] > 5 * xs[0])
    draw_frame(draw, axes, xs, ys, x_label, grain)
    for number, line in enumerate(lines):
        draw_line(draw, axes, line, SERIES[number % len(SERIES)], grain)
    return paper.resize((size[1], size[0]), Image.Resampling.LANCZOS)


def draw_legend(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[Line],
    rings_label: str,
    left: int,
    top: int,
    width: int,
    grain: int,
) -> int:
    """Key of the lines, in rows; gives where it ends."""
    size, row = 16 * grain, 26 * grain
    x, y = float(left), top
    entries = [(line.label, SERIES[number % len(SERIES)]) for number, line in enumerate(lines)]
    entries += [(rings_label, None)] if any(line.rings for line in lines) else []  # type: ignore[list-item]
    for label, colour in entries:
        label = fitted(label, size, width - 2 * left - 40 * grain)
        needed = 34 * grain + text_width(label, size) + 26 * grain
        if x + needed > width - left and x > left:
            x, y = float(left), y + row
        middle = y + 10 * grain
        if colour is None:
            draw_ring(draw, x + 12 * grain, middle, INK_SOFT, grain)
        else:
            draw.line((x, middle, x + 24 * grain, middle), fill=colour, width=3 * grain)
            draw_dot(draw, x + 12 * grain, middle, colour, grain)
        draw.text((x + 34 * grain, middle), label, fill=INK_SOFT, font=font(size), anchor="lm")
        x += needed
    return y + row


def draw_frame(
    draw: ImageDraw.ImageDraw,
    axes: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    x_label: str,
    grain: int,
) -> None:
    """Grid lines and numbers of both axes."""
    small = font(15 * grain)
    decimals = max(0, -math.floor(math.log10(ys[1] - ys[0]) + 1e-9))
    for value in ys:
        y = axes.y(value)
        draw.line((axes.left, y, axes.right, y), fill=GRID, width=grain)
        text = f"{value:.{decimals}f}"
        draw.text((axes.left - 10 * grain, y), text, fill=INK_FAINT, font=small, anchor="rm")
    last = -math.inf
    for value in xs:
        x, text = axes.x(value), f"x{value:.3g}"
        draw.line((x, axes.bottom, x, axes.bottom + 6 * grain), fill=INK_FAINT, width=grain)
        if x - last > text_width(text, 15 * grain) + 8 * grain:
            place = (x, axes.bottom + 10 * grain)
            draw.text(place, text, fill=INK_FAINT, font=small, anchor="mt")
            last = x
    draw.line((axes.left, axes.bottom, axes.right, axes.bottom), fill=INK_FAINT, width=grain)
    middle = ((axes.left + axes.right) / 2, axes.bottom + 36 * grain)
    draw.text(middle, x_label, fill=INK_SOFT, font=font(16 * grain), anchor="mt")


def draw_line(
    draw: ImageDraw.ImageDraw, axes: Axes, line: Line, colour: Colour, grain: int
) -> None:
    places = [(axes.x(x), axes.y(y)) for x, y in line.points]
    if len(places) > 1:
        draw.line(places, fill=colour, width=3 * grain, joint="curve")
    for x, y in places:
        draw_dot(draw, x, y, colour, grain)
    for x, y in line.rings:
        draw_ring(draw, axes.x(x), axes.y(y), colour, grain)


def draw_dot(draw: ImageDraw.ImageDraw, x: float, y: float, colour: Colour, grain: int) -> None:
    for radius, fill in ((7 * grain, SURFACE), (5 * grain, colour)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def draw_ring(draw: ImageDraw.ImageDraw, x: float, y: float, colour: Colour, grain: int) -> None:
    radius = 9 * grain
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=2 * grain)
