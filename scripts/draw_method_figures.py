"""Draw the figures of docs/method.md: python scripts/draw_method_figures.py [--output docs/images]

Geometry and curves come from the project's own functions, so that the figures stay true.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from datasets.images import write_rgb
from engine.evaluate.charts import COLOURS, GRID, INK, SOFT, figure_pixels, new_figure
from engine.evaluate.tables import paper_tables
from engine.runtime import run_script, say
from utils import make_coord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREEN, ORANGE = COLOURS[:4]


def box(axes: Axes, corner: tuple[float, float], width: float, height: float, **style: Any) -> None:
    """Add a rectangle to a drawing; corner is (x, y), and its size may be negative."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(corner, width, height, **style))


def draw_coordinates() -> Figure:
    """Pixel centres of a picture of 2 x 4 pixels on the square [-1, 1] x [-1, 1]."""
    figure = new_figure(8.6, 4.2)
    axes = figure.add_subplot(title="height 2, width 4: coordinates are (y, x)")
    height, width = 2, 4
    for row in range(height):
        for column in range(width):
            corner = (2 * column / width - 1, 2 * row / height - 1)
            fill = GRID if (row + column) % 2 else "white"
            box(axes, corner, 2 / width, 2 / height, facecolor=fill, edgecolor=INK)
    for y, x in make_coord((height, width)).tolist():
        axes.plot(x, y, "o", color=BLUE)
        axes.text(x, y + 0.1, f"({y:+.2f}, {x:+.2f})", color=BLUE, ha="center", va="top")
    for end, align in ((-1, "bottom"), (1, "top")):
        axes.plot(end, end, "o", color=RED, clip_on=False)
        axes.text(end, 1.06 * end, f"({end}, {end})", color=RED, ha="center", va=align)
    axes.set(xlim=(-1, 1), ylim=(1, -1), xlabel="x", xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
    axes.set_ylabel("y", rotation=0)
    axes.tick_params(colors=SOFT)
    return figure


def draw_ensemble() -> Figure:
    """A query between four codes, the four areas, and which code each of them weighs."""
    figure = new_figure(8.6, 4.4)
    y, x = 0.3, 0.36  # of the query, in parts of the way down and to the right
    corners = [(0, 0), (1, 0), (0, 1), (1, 1)]  # in the order of look-up: y outer, x inner
    colours = (RED, ORANGE, GREEN, BLUE)
    for number, title in enumerate(("area next to code", "weight of code")):
        axes = figure.add_subplot(1, 2, number + 1, aspect="equal")
        axes.set_axis_off()
        axes.set_title(title, pad=24)
        for index, (left, top) in enumerate(corners):
            shown, name = (3 - index, "w") if number else (index, "area ")
            style = {"facecolor": colours[shown], "alpha": 0.2}
            box(axes, (left, top), x - left, y - top, **style)
            middle = ((left + x) / 2, (top + y) / 2)
            axes.text(*middle, f"{name}{shown}", color=INK, ha="center", va="center", fontsize=12)
            axes.plot(left, top, "o", ms=12, color=colours[index], clip_on=False)
            place = (left, 1.09 if top else -0.09)
            axes.text(*place, f"code {index}", color=colours[index], ha="center", va="center")
        box(axes, (0, 0), 1, 1, fill=False, edgecolor=INK)
        axes.axhline(y, color=INK, linewidth=1)
        axes.axvline(x, color=INK, linewidth=1)
        axes.plot(x, y, "o", ms=8, color=INK)
        axes.text(x + 0.04, y + 0.06, "q", fontsize=13, va="center")
        axes.set(xlim=(0, 1), ylim=(1, 0))
        if number:
            arrow = {"arrowstyle": "->", "color": SOFT}
            axes.annotate("", (-0.22, 0.5), (-0.5, 0.5), arrowprops=arrow, annotation_clip=False)
            axes.text(-0.36, 0.45, "swap", color=SOFT, ha="center")
    return figure


def draw_cell() -> Figure:
    """The pixel that is asked for, in the units of one latent code, at three scales."""
    figure = new_figure(8.6, 3.3)
    for number, scale in enumerate((1, 2, 4)):
        axes = figure.add_subplot(1, 3, number + 1, aspect="equal")
        axes.set_title(f"scale {scale}: cell = {2 / scale:g}", color=BLUE)
        cell = 2 / scale
        for step in range(1, scale):
            axes.axhline(step * cell - 1, color=GRID)
            axes.axvline(step * cell - 1, color=GRID)
        style = {"facecolor": "#cce3f0", "edgecolor": BLUE, "clip_on": False, "zorder": 3}
        box(axes, (1 - cell, -1), cell, cell, linewidth=2, **style)
        axes.plot(0, 0, "o", ms=8, color=RED, zorder=4)
        axes.set(xlim=(-1, 1), ylim=(1, -1), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        axes.tick_params(colors=SOFT)
    words = "square: the domain of one latent code (dot), 2 x 2 code units"
    figure.supxlabel(words, color=SOFT, fontsize=11)
    return figure


def decoder_on_a_line(ensemble: bool, x: torch.Tensor) -> torch.Tensor:
    """Predictions of a decoder of random weights along a row of six codes, (Q,)."""
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


def draw_continuity() -> Figure:
    """One row of a prediction, with the ensemble and with the nearest code alone."""
    figure = new_figure(8.6, 3.6)
    axes = figure.add_subplot(xlim=(-1, 1), xticks=(-1, 0, 1), yticks=())
    x = make_coord((1200,))[:, 0]
    for border in range(1, 6):
        axes.axvline(2 * border / 6 - 1, color=GRID)
    words = ("nearest code alone: jumps where it changes", "local ensemble: continuous")
    nearest = decoder_on_a_line(False, x).view(6, 200)
    for code in range(6):
        label = words[0] if code == 0 else None
        axes.plot(x.view(6, 200)[code], nearest[code], "--", color=RED, linewidth=2, label=label)
    axes.plot(x, decoder_on_a_line(True, x), color=BLUE, linewidth=2, label=words[1])
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    axes.set_xlabel("x, with the borders between six codes", color=SOFT)
    axes.tick_params(colors=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_beyond() -> Figure:
    """The paper's gain over bicubic on DIV2K, at trained and untrained scales."""
    figure = new_figure(8.6, 3.8)
    table = paper_tables()["div2k"]
    rows = (table["rows"]["edsr-baseline-liif"], table["rows"]["bicubic"])
    gains = [liif - bicubic for liif, bicubic in zip(*rows, strict=True)]
    axes = figure.add_subplot(xlim=(0, 31), ylim=(0, 4.2), yticks=range(5))
    axes.axvspan(1, 4, color=GREEN, alpha=0.15, linewidth=0)
    axes.text(1.2, 4.15, "trained", color=GREEN, va="top")
    axes.plot(table["scales"], gains, "o-", color=BLUE)
    for place in zip(table["scales"], gains, strict=True):
        words = f"{place[1]:.2f}"
        axes.annotate(words, place, (5, 6), textcoords="offset points", color=BLUE)
    axes.set_xticks(table["scales"], [f"x{scale:g}" for scale in table["scales"]])
    axes.yaxis.set_major_formatter("+{x:.0f}")
    axes.tick_params(colors=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    words = "PSNR above bicubic in dB, DIV2K validation (figures of the paper)"
    axes.set_xlabel(words, color=SOFT)
    return figure


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
        path = output / f"method-{name}.png"
        write_rgb(path, figure_pixels(draw()))
        say(str(path))


if __name__ == "__main__":
    run_script(main)
