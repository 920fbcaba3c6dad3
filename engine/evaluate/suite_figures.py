"""Pictures that a suite leaves behind: predictions, comparisons, and PSNR against scale."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.files import fitting_name, make_folder
from datasets.images import write_rgb
from engine.evaluate.charts import Line, figure_pixels, line_chart
from engine.evaluate.evaluate import Picture, to_uint8
from engine.evaluate.metrics import scale_text
from engine.evaluate.panels import PanelColumn, comparison_panel, with_baselines
from engine.evaluate.suite_data import Image, Pictures, Scale
from engine.evaluate.tables import Series, published_rows
from engine.render.jobs import target_names


class SuiteFigures:
    """Where the pictures of a suite go; either folder may be None.

    `save_images`/METHOD/SUITE/xS/NAME.png holds predictions, `panels`/SUITE-xS-NAME.png
    comparisons, and `panels`/SUITE-psnr.png the chart.
    """

    def __init__(
        self,
        save_images: Path | None,
        panels: Path | None,
        suites: Sequence[Pictures],
        labels: Sequence[str],
    ) -> None:
        self.save_images, self.panels = save_images, panels
        folders = distinct([file_part(label) for label in labels])
        self.methods = dict(zip(labels, folders, strict=True))
        parts = distinct([file_part(pictures.data.name) for pictures in suites])
        self.parts = dict(zip([pictures.data.name for pictures in suites], parts, strict=True))
        self.stems = {
            pictures.data.name: file_stems([pictures.name(i) for i in range(len(pictures))])
            for pictures in suites
        }
        for folder in (save_images, panels):
            if folder is not None:
                make_folder(folder)

    def paths(
        self, pictures: Pictures, index: int, scale: Scale, labels: Sequence[str]
    ) -> tuple[list[Path], list[Path]]:
        """Files of these methods' predictions, and of the comparison, as far as wanted."""
        suite, at = pictures.data.name, f"x{scale_text(scale)}"
        part, stem = self.parts[suite], self.stems[suite][index]
        images, panels = [], []
        if self.save_images is not None:
            folders = [self.save_images / self.methods[label] / part / at for label in labels]
            images = [folder / fitting_name(stem, ".png") for folder in folders]
        if self.panels is not None:
            panels = [self.panels / fitting_name(f"{part}-{at}-{stem}", ".png")]
        return images, panels

    def wants(
        self, pictures: Pictures, index: int, scale: Scale, labels: Sequence[str], known: bool
    ) -> bool:
        """Whether a file of this photograph at this scale is missing, or not of these methods.

        Args:
            labels: those of the methods.
            known: whether all its results are; a new one means that files show another method.
        """
        images, panels = self.paths(pictures, index, scale, labels)
        return any(not known or not file.exists() for file in [*images, *panels])

    def write(
        self,
        pictures: Pictures,
        index: int,
        scale: Scale,
        pair: tuple[Image, Image],
        predictions: Sequence[Picture],
        records: Sequence[dict[str, Any]],
    ) -> None:
        """Write the predictions of all methods, and their comparison.

        Args:
            pair: the photograph in low and in high resolution.
        """
        labels = [record["method"] for record in records]
        images, panels = self.paths(pictures, index, scale, labels)
        shown = [
            PanelColumn(
                record["method"], to_uint8(prediction), f"{record['values']['psnr']:.2f} dB"
            )
            for record, prediction in zip(records, predictions, strict=True)
        ]
        for path, method in zip(images, shown, strict=False):
            write_rgb(path, method.picture)
        for path in panels:
            data = pictures.data
            title = f"{data.title}, {pictures.name(index)}, x{scale_text(scale)}"
            compared = with_baselines(*pair, shown, data.eval_type(scale))
            write_rgb(path, comparison_panel(title, *pair, compared))

    def write_chart(self, pictures: Pictures, note: str, methods: Sequence[Series]) -> None:
        """Write the chart of mean PSNR over the scales, if panels are wanted and it has two.

        A scale that differs per axis stands at its geometric mean.

        Args:
            note: how PSNR is taken.
            methods: in the order of their colours.
        """
        if self.panels is None or len(pictures.scales) < 2:
            return
        xs = [math.sqrt(math.prod(scale)) for scale in pictures.scales]
        names = [scale_text(scale) for scale in pictures.scales]
        known = published_rows(pictures.data.published, names, pictures.data.protocol)
        comparable = {row: one.values for row, one in known.items() if one.comparable}
        lines = []
        for series in methods:
            published = comparable.get(series.row, [None] * len(xs))
            points = [
                tuple((x, y) for x, y in zip(xs, ys, strict=True) if y is not None)
                for ys in (series.values, published)
            ]
            lines.append(Line(series.label, *points))
        ticks = sorted(zip(xs, [f"x{name}" for name in names], strict=True))
        figure = line_chart(pictures.data.title, f"PSNR in dB; {note}", lines, ticks)
        path = self.panels / fitting_name(f"{self.parts[pictures.data.name]}-psnr", ".png")
        write_rgb(path, figure_pixels(figure))


def file_part(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "unnamed"


def file_stems(names: Sequence[str]) -> list[str]:
    """What the result of each photograph is called, without its suffix: never two the same."""
    targets = target_names([Path(name) for name in names], [".png"])
    return distinct([Path(target).stem for target in targets])


def distinct(parts: Sequence[str]) -> list[str]:
    """Parts of file names, numbered where a file system that ignores case takes two for one."""
    result: dict[str, str] = {}
    for part in parts:
        name, number = part, 1
        while name.casefold() in result:
            number += 1
            name = f"{part}-{number}"
        result[name.casefold()] = fitting_name(name, "")
    return list(result.values())
