"""Line charts, drawn by matplotlib on a canvas of their own: no windows, no state kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID = "#0b0b0b", "#52514e", "#e1e0d9"
# The colours of Okabe and Ito, chosen for every kind of colour vision, without their yellow, which
# is too pale on white. Hollow markers and dashes show lines that lie below others.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#000000")
MARKERS = "os^Dv*ph"
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
DOTS_PER_INCH = 150


@dataclass(frozen=True)
class Line:
    """One line of a chart: points (x, y), and published figures (x, y) drawn as dots."""

    label: str
    points: tuple[tuple[float, float], ...]
    published: tuple[tuple[float, float], ...] = ()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    # Here, because most commands draw nothing and the import takes a while.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure((width, height), dpi=DOTS_PER_INCH, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def figure_pixels(figure: Figure) -> np.ndarray:
    """What a figure of `new_figure` looks like, uint8 (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    assert isinstance(figure.canvas, FigureCanvasAgg)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def line_chart(
    title: str, subtitle: str, lines: Sequence[Line], ticks: Sequence[tuple[float, str]]
) -> Figure:
    """A chart of several lines against the enlargement factor.

    Args:
        lines: at least one with a point.
        ticks: (x, label) of each enlargement factor.
    """
    figure = new_figure(10, 5.6)
    axes = figure.add_subplot()
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(
            *zip(*sorted(line.points), strict=True),
            color=colour,
            label=f"line {number}",
            linestyle=DASHES[number % len(DASHES)],
            linewidth=1.8,
            marker=MARKERS[number % len(MARKERS)],
            markersize=9,
            markerfacecolor="none",
            markeredgewidth=1.6,
        )
        for x, y in line.published:
            axes.plot(x, y, "o", ms=4, color=colour)
    if any(line.published for line in lines):
        axes.plot([], [], "o", ms=4, color=SOFT, label="published")
    axes.set_title(shown(title, 80), loc="left", color=INK, fontsize=15, pad=30, parse_math=False)
    axes.text(0, 1.03, subtitle, color=SOFT, transform=axes.transAxes)
    axes.set_xlabel("enlargement factor S", color=SOFT)
    axes.grid(axis="y", color=GRID)
    axes.tick_params(colors=SOFT)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    legend = figure.legend(loc="outside right center", frameon=False, labelcolor=INK)
    for text, line in zip(legend.get_texts(), lines, strict=False):
        # Only now, because matplotlib leaves out labels that begin with an underscore.
        text.set(text=shown(line.label, 40), parse_math=False)
    if ticks[-1][0] > 5 * ticks[0][0]:
        axes.set_xscale("log")
    # Two labels at one place need two places for matplotlib.
    axes.set_xticks([x * (1 + 1e-9 * number) for number, (x, _) in enumerate(ticks)])
    axes.set_xticks([], minor=True)
    figure.draw_without_rendering()  # lays the axes out, so that ticks have a place
    axes.set_xticklabels(spread_labels(axes, ticks))
    return figure


def spread_labels(axes: Axes, ticks: Sequence[tuple[float, str]]) -> list[str]:
    """Labels of the ticks, moved down by lines where they would lie on each other."""
    ends: list[float] = []  # of each line, in dots
    labels = []
    for x, label in ticks:
        middle = axes.transData.transform((x, 0))[0]
        half = 0.06 * DOTS_PER_INCH * len(label)
        row = next((n for n, end in enumerate(ends) if end < middle - half), len(ends))
        ends[row : row + 1] = [middle + half]
        labels.append("\n" * row + label)
    return labels


def shown(text: str, longest: int) -> str:
    """A text that fonts can show, its middle left out if it is longer than that."""
    text = os.fsencode(text).decode(errors="replace")  # names of files need not be UTF-8
    half = longest // 2
    return text if len(text) <= longest else f"{text[: half - 1]}…{text[-half:]}"
