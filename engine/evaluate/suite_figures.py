"""Pictures that a suite leaves behind: predictions, comparisons, and PSNR against scale."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import make_folder
from datasets.images import write_rgb
from engine.evaluate.charts import Line, figure_pixels, line_chart
from engine.evaluate.evaluate import Picture, to_uint8
from engine.evaluate.metrics import scale_text
from engine.evaluate.panels import Shown, comparison_panel, with_resizers
from engine.evaluate.suite import Comparison, Method
from engine.evaluate.suite_data import Scale, SuiteData
from engine.evaluate.tables import published_values
from utils import parse_scale


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W, 3).

    Raises:
        DataError: it can't be written.
    """
    make_folder(path.parent)
    write_rgb(path, pixels)


def save_picture(path: Path, picture: Picture) -> None:
    """Write a prediction (3, H, W) in [0, 1], rounded to 8 bits; errors as `save_png`."""
    save_png(path, to_uint8(picture))


def file_part(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "unnamed"


class SuitePictures:
    """Where the pictures go; either folder may be None.

    `save_images`/METHOD/SUITE/xS/NAME.png holds predictions, `panels`/SUITE-xS-NAME.png
    comparisons, and `panels`/SUITE-psnr.png the chart.
    """

    def __init__(
        self, save_images: Path | None, panels: Path | None, methods: Sequence[Method]
    ) -> None:
        self.save_images, self.panels = save_images, panels
        self.labels = [method.label for method in methods]
        for folder in (save_images, panels):
            if folder is not None:
                make_folder(folder)

    def wants(self, suite: SuiteData, name: str, scale: Scale, known: bool) -> bool:
        """Whether a file of this photograph at this scale is missing, or not of these methods.

        known: all its figures are; a new one means that what is there shows another method.
        """
        if not known:
            return True
        files = [self.image_path(suite, name, scale, label) for label in self.labels]
        files.append(self.panel_path(suite, name, scale))
        return any(file is not None and not file.exists() for file in files)

    def image_path(self, suite: SuiteData, name: str, scale: Scale, label: str) -> Path | None:
        if self.save_images is None:
            return None
        folder = self.save_images / file_part(label) / file_part(suite.name)
        return folder / f"x{scale_text(scale)}" / f"{Path(name).stem}.png"

    def panel_path(self, suite: SuiteData, name: str, scale: Scale) -> Path | None:
        if self.panels is None:
            return None
        return self.panels / f"{file_part(suite.name)}-x{scale_text(scale)}-{Path(name).stem}.png"

    def add(self, comparison: Comparison) -> None:
        """Write what belongs to it."""
        suite, name, scale = comparison.suite, comparison.name, comparison.scale
        for label, picture in comparison.pictures.items():
            path = self.image_path(suite, name, scale, label)
            if path is not None:
                save_picture(path, picture)
        panel = self.panel_path(suite, name, scale)
        if panel is not None:
            save_png(panel, panel_of(comparison))

    def charts(
        self, suites: Sequence[SuiteData], methods: Sequence[Method], records: list[dict[str, Any]]
    ) -> None:
        """PSNR against scale, a chart per data set with at least two scales."""
        assert self.panels is not None
        for suite in suites:
            mine = [record for record in records if record["suite"] == suite.name]
            scales = list(dict.fromkeys(record["scale"] for record in mine))
            if len(scales) > 1:
                chart = scale_chart(suite, scales, methods, mine)
                save_png(self.panels / f"{file_part(suite.name)}-psnr.png", chart)


def panel_of(comparison: Comparison) -> np.ndarray:
    """The panel of one photograph at one scale, uint8 (height, width, 3)."""
    suite, scale = comparison.suite, comparison.scale
    shown = [
        Shown(label, to_uint8(picture), f"{comparison.records[label]['values']['psnr']:.2f} dB")
        for label, picture in comparison.pictures.items()
    ]
    low, truth = comparison.low, comparison.truth
    everything = with_resizers(low, truth, shown, suite.eval_type(scale))
    title = f"{suite.title}, {comparison.name}, x{scale_text(scale)}"
    return comparison_panel(title, low, truth, everything)


def scale_chart(
    suite: SuiteData,
    scales: Sequence[str],
    methods: Sequence[Method],
    records: list[dict[str, Any]],
) -> np.ndarray:
    """Mean PSNR of each method over the scales; uint8 (H, W, 3).

    A scale that differs per axis stands at its geometric mean.
    """
    places = {scale: math.sqrt(math.prod(parse_scale(scale))) for scale in scales}
    # Models have the first colours: a baseline added to the comparison changes none.
    ordered = sorted(methods, key=lambda method: method.key.startswith("baseline:"))
    lines = []
    for method in ordered:
        points = []
        for scale in scales:
            values = [
                record["values"]["psnr"]
                for record in records
                if record["method"] == method.label and record["scale"] == scale
            ]
            points.append((places[scale], sum(values) / len(values)))
        known = zip(scales, published_values(suite.name, method.row, scales), strict=True)
        published = tuple((places[scale], value) for scale, value in known if value is not None)
        lines.append(Line(method.label, tuple(points), published))
    kind = suite.eval_type((1, 1))
    cut = "scale + 6" if suite.kind == "div2k" else "scale"
    subtitle = f"PSNR in dB of {kind.colour}, border of {cut} pixels cut"
    ticks = [(place, f"x{scale}") for scale, place in places.items()]
    return figure_pixels(line_chart(suite.title, subtitle, lines, sorted(ticks)))
