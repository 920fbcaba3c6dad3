"""Pictures that a suite leaves behind: predictions, comparisons, and PSNR against scale."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.files import fitting_name, make_folder
from datasets.images import write_rgb
from engine.evaluate.charts import Line, figure_pixels, line_chart
from engine.evaluate.evaluate import Picture, to_uint8
from engine.evaluate.metrics import scale_text
from engine.evaluate.panels import Shown, comparison_panel, with_baselines
from engine.evaluate.suite_data import Image, Pictures, Scale, SuiteData
from engine.evaluate.tables import Series, published_values


class SuiteFigures:
    """Where the pictures of a suite go; either folder may be None.

    `save_images`/METHOD/SUITE/xS/NAME.png holds predictions, `panels`/SUITE-xS-NAME.png
    comparisons, and `panels`/SUITE-psnr.png the chart.
    """

    def __init__(
        self,
        save_images: Path | None,
        panels: Path | None,
        suites: Sequence[tuple[SuiteData, Pictures]],
        labels: Sequence[str],
    ) -> None:
        self.save_images, self.panels, self.labels = save_images, panels, labels
        self.method_parts = distinct({label: file_part(label) for label in labels}).values()
        self.parts = distinct({data.name: file_part(data.name) for data, _ in suites})
        self.stems = {
            data.name: file_stems([pictures.name(index) for index in range(len(pictures))])
            for data, pictures in suites
        }
        self.scales = {data.name: pictures.scales for data, pictures in suites}
        for folder in (save_images, panels):
            if folder is not None:
                make_folder(folder)

    def paths(self, suite: SuiteData, name: str, scale: Scale) -> tuple[list[Path], list[Path]]:
        """Files of the predictions, in the order of methods, and of the comparison, if wanted."""
        part, at, stem = (
            self.parts[suite.name],
            f"x{scale_text(scale)}",
            self.stems[suite.name][name],
        )
        images, panels = [], []
        if self.save_images is not None:
            folders = [self.save_images / method / part / at for method in self.method_parts]
            images = [folder / fitting_name(stem, ".png") for folder in folders]
        if self.panels is not None:
            panels = [self.panels / fitting_name(f"{part}-{at}-{stem}", ".png")]
        return images, panels

    def wants(self, suite: SuiteData, name: str, scale: Scale, known: bool) -> bool:
        """Whether a file of this photograph at this scale is missing, or not of these methods.

        Args:
            known: whether all its results are; a new one means that files show another method.
        """
        images, panels = self.paths(suite, name, scale)
        return not known or not all(file.exists() for file in [*images, *panels])

    def write(
        self,
        suite: SuiteData,
        name: str,
        scale: Scale,
        pair: tuple[Image, Image],
        predictions: Sequence[Picture],
        records: Sequence[dict[str, Any]],
    ) -> None:
        """Write the predictions of all methods, and their comparison.

        Args:
            pair: the photograph in low and in high resolution.
        """
        pictures = [to_uint8(prediction) for prediction in predictions]
        images, panels = self.paths(suite, name, scale)
        for path, picture in zip(images, pictures, strict=False):
            save_picture(path, picture)
        for path in panels:
            shown = [
                Shown(label, picture, f"{record['values']['psnr']:.2f} dB")
                for label, picture, record in zip(self.labels, pictures, records, strict=True)
            ]
            title = f"{suite.title}, {name}, x{scale_text(scale)}"
            compared = with_baselines(*pair, shown, suite.eval_type(scale))
            save_picture(path, comparison_panel(title, *pair, compared))

    def write_chart(self, suite: SuiteData, note: str, methods: Sequence[Series]) -> None:
        """Write the chart of mean PSNR over the scales, if panels are wanted and it has two.

        A scale that differs per axis stands at its geometric mean.

        Args:
            note: how PSNR is taken.
            methods: in the order of their colours.
        """
        scales = self.scales[suite.name]
        if self.panels is None or len(scales) < 2:
            return
        xs = [math.sqrt(math.prod(scale)) for scale in scales]
        names = [scale_text(scale) for scale in scales]
        lines = []
        for series in methods:
            published = published_values(suite.name, series.row, names)
            points = [
                tuple((x, y) for x, y in zip(xs, ys, strict=True) if y is not None)
                for ys in (series.values, published)
            ]
            lines.append(Line(series.label, *points))
        ticks = sorted(zip(xs, [f"x{name}" for name in names], strict=True))
        figure = line_chart(suite.title, f"PSNR in dB; {note}", lines, ticks)
        path = self.panels / fitting_name(f"{self.parts[suite.name]}-psnr", ".png")
        save_picture(path, figure_pixels(figure))


def save_picture(path: Path, pixels: Image) -> None:
    """Write uint8 (H, W, 3), its folder made where it is missing."""
    make_folder(path.parent)
    write_rgb(path, pixels)


def file_part(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "unnamed"


def file_stems(names: Sequence[str]) -> dict[str, str]:
    """What the result of each photograph is called, without its suffix: never two the same.

    "a.png" gives "a", but "a.png" where there is an "a.jpg" as well.
    """
    stems = {name: Path(name).stem for name in names}
    count = Counter(stem.casefold() for stem in stems.values())
    return distinct(
        {name: stem if count[stem.casefold()] == 1 else name for name, stem in stems.items()}
    )


def distinct(parts: dict[str, str]) -> dict[str, str]:
    """The values, numbered where two of them are the same to a file system that ignores case."""
    result: dict[str, str] = {}
    taken: set[str] = set()
    for key, part in parts.items():
        name, number = part, 1
        while name.casefold() in taken:
            number += 1
            name = f"{part}-{number}"
        taken.add(name.casefold())
        result[key] = fitting_name(name, "")
    return result
