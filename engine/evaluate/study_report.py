"""What a study found, for people: a table in Markdown and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.evaluate import charts
from engine.evaluate.statistics import Interval, decimals
from engine.evaluate.study import Row, Study
from engine.evaluate.tables import TITLES
from utils import parse_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = {
    "weights": ("weights", "{:,.0f}"),
    "seconds_per_step": ("s per step", "{:.3g}"),
    "milliseconds_per_megapixel": ("ms per megapixel", "{:,.0f}"),
}
EXPLANATION = (
    "Differences are paired by picture and seed, and their mean is followed by two 95 % intervals: "
    "*seeds*, a t-interval over the seeds' mean differences, is what training again with other "
    "seeds would give on these pictures; *pictures*, a bootstrap over the pictures, is what these "
    "models would give on other pictures. All variants of a seed see the same photographs in the "
    "same order with the same draws, and start from the same encoder where theirs is the same."
)


def markdown(study: Study, rows: Sequence[Row], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole of `study.md`."""
    seeds = ", ".join(map(str, study.config.seeds))
    parts = [
        f"# {study.name}",
        f"{len(results)} of {len(study.runs)} runs; seeds {seeds}; compared with "
        f"`{study.config.reference}`. {EXPLANATION}",
    ]
    for suite, metric in dict.fromkeys((row.suite, row.metric) for row in rows):
        own = [row for row in rows if (row.suite, row.metric) == (suite, metric)]
        scales = sorted({row.scale for row in own}, key=enlargement)
        parts += [f"## {suite}, {metric}", figure_table(own, scales)]
        if any(row.difference is not None for row in own):
            parts.append(difference_table(own, scales))
    parts += ["## Cost", cost_table(study, results)]
    return "\n\n".join(parts) + "\n"


def figure_table(rows: Sequence[Row], scales: Sequence[str]) -> str:
    """Mean over pictures and seeds, and the standard deviation over seeds."""

    def cell(row: Row) -> str:
        digits = decimals(row.std)
        spread = "" if row.std is None else f" ± {row.std:.{digits}f}"
        return f"{row.mean:.{digits}f}{spread}"

    return table("mean ± deviation over seeds", rows, scales, cell)


def difference_table(rows: Sequence[Row], scales: Sequence[str]) -> str:
    """The difference to the reference with its intervals."""

    def cell(row: Row) -> str:
        if row.difference is None:
            return "–"
        halves = [span.half for span in (row.seeds, row.pictures) if span is not None]
        digits = decimals(max(halves, default=None))
        shown = [f"{row.difference:+.{digits}f}"]
        for label, span in (("seeds", row.seeds), ("pictures", row.pictures)):
            if span is not None:
                shown.append(f"{label} {span.low:+.{digits}f} to {span.high:+.{digits}f}")
        return "; ".join(shown)

    compared = [row for row in rows if row.difference is not None]
    return table("difference", compared, scales, cell)


def table(title: str, rows: Sequence[Row], scales: Sequence[str], cell: Any) -> str:
    by_place = {(row.variant, row.scale): row for row in rows}
    lines = [f"| {title} | {' | '.join(f'x{scale}' for scale in scales)} |"]
    lines.append("| --- |" + " ---: |" * len(scales))
    for variant in dict.fromkeys(row.variant for row in rows):
        found = [by_place.get((variant, scale)) for scale in scales]
        cells = ["" if row is None else cell(row) for row in found]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_table(study: Study, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Medians over the seeds."""
    lines = [f"| variant | {' | '.join(title for title, _ in COSTS.values())} |"]
    lines.append("| --- |" + " ---: |" * len(COSTS))
    for variant in study.config.variants:
        costs = [results[run.name]["cost"] for run in study.of(variant) if run.name in results]
        cells = []
        for key, (_, form) in COSTS.items():
            values = [cost[key] for cost in costs if cost[key] is not None]
            cells.append(form.format(np.median(values)) if values else "–")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def enlargement(scale: str) -> float:
    """A scale as one number, for an axis: that of the rows times that of the columns, rooted."""
    rows, columns = parse_scale(scale)
    return (rows * columns) ** 0.5


def chart(study: Study, rows: Sequence[Row]) -> Figure | None:
    """Differences against scale, a panel per suite and metric; None without any."""
    compared = [row for row in rows if row.difference is not None]
    places = [*dict.fromkeys((row.suite, row.metric) for row in compared)]
    if not places:
        return None
    figure = charts.new_figure(10, 0.8 + 4.2 * len(places))
    figure.suptitle(f"{study.name}: difference to {study.config.reference}", color=charts.INK)
    for number, (suite, metric) in enumerate(places, 1):
        axes = figure.add_subplot(len(places), 1, number)
        axes.axhline(0, color=charts.INK, linewidth=1)
        own = [row for row in compared if (row.suite, row.metric) == (suite, metric)]
        variants = [*dict.fromkeys(row.variant for row in own)]
        for index, variant in enumerate(variants):
            line = sorted(
                (row for row in own if row.variant == variant), key=lambda r: enlargement(r.scale)
            )
            draw_line(axes, line, index, 1 + 0.006 * (index - (len(variants) - 1) / 2))
        scales = sorted({row.scale for row in own}, key=enlargement)
        axes.set_xscale("log")
        axes.set_xticks([enlargement(scale) for scale in scales], [f"x{s}" for s in scales])
        axes.set_xticks([], minor=True)
        axes.set_title(suite, loc="left", fontsize=11, color=charts.INK)
        axes.set_ylabel(f"difference in {TITLES.get(metric, metric)}", color=charts.SOFT)
        axes.grid(axis="y", color=charts.GRID)
        axes.spines[["top", "right"]].set_visible(False)
        if number == 1:
            axes.legend(frameon=False, ncols=2, fontsize=9)
    figure.text(
        0.01,
        0.002,
        "bands: 95 % over seeds; bars: 95 % over pictures",
        fontsize=8,
        color=charts.SOFT,
    )
    return figure


def draw_line(axes: Any, line: Sequence[Row], index: int, shift: float) -> None:
    """One variant: its differences, a band over seeds, bars over pictures."""
    x = np.array([enlargement(row.scale) for row in line]) * shift
    y = np.array([row.difference for row in line], float)
    colour = charts.COLOURS[index % len(charts.COLOURS)]
    marker = charts.MARKERS[index % len(charts.MARKERS)]
    axes.plot(x, y, marker=marker, color=colour, label=line[0].variant, markersize=6)
    if all(row.seeds is not None for row in line):
        axes.fill_between(x, *edges([row.seeds for row in line]), color=colour, alpha=0.15, lw=0)
    if all(row.pictures is not None for row in line):
        low, high = edges([row.pictures for row in line])
        axes.errorbar(x, y, yerr=(y - low, high - y), color=colour, capsize=3, linestyle="none")


def edges(spans: Sequence[Interval | None]) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.array(spans, float).T
    return low, high
