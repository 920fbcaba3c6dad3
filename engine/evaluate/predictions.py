"""Pictures that any other program has made of a suite's low-resolution ones, scored like a model's.

They lie in DIR/SUITE/xS (as `--save-images` writes them), in DIR/xS where one suite is tested, and
in DIR/SUITE or DIR itself where one scale is. Case does not count in the names of folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.image_folder import listed_pictures
from datasets.images import read_rgb, read_size
from datasets.listing import match_some, pictures_in, user_path
from datasets.transforms import to_picture
from engine.evaluate.evaluate import Picture
from engine.evaluate.metrics import scale_text
from engine.evaluate.suite_data import Pictures, Scale
from engine.evaluate.suite_figures import file_part
from utils import ConfigError, DataError


class Predictions:
    """The pictures of one program, found, and their sizes compared with the truth's.

    Attributes:
        missing: suites and scales without a folder, as (suite, scale, reason).

    Raises:
        DataError: there are none at all, or a picture is missing or of another size.
    """

    def __init__(self, label: str, root: Path, suites: Sequence[Pictures]) -> None:
        self.label, self.root = label, root
        self.files: dict[tuple[str, Scale], list[Path]] = {}
        self.missing: list[tuple[Pictures, Scale, str]] = []
        for pictures in suites:
            for scale in pictures.scales:
                folder = next(self.folders(pictures, scale, len(suites) == 1), None)
                if folder is None:
                    wanted = root / file_part(pictures.data.name) / f"x{scale_text(scale)}"
                    self.missing.append((pictures, scale, f"{label} has no folder {wanted}"))
                    continue
                files = match_some(listed_pictures(folder), pictures.high.paths[0])
                check_sizes(files, pictures, scale)
                self.files[pictures.data.name, scale] = files
        if not self.files:
            raise DataError(f"--predictions: {self.missing[0][2]}")

    def folders(self, pictures: Pictures, scale: Scale, is_only_suite: bool) -> Iterator[Path]:
        """Where the pictures of a suite at a scale may be, the most special place first."""
        data = pictures.data
        names = [file_part(data.name), data.title, Path(data.name).name]
        places = [*subfolders(self.root, names), *([self.root] if is_only_suite else [])]
        for place in places:
            yield from subfolders(place, [f"x{scale_text(scale)}"])
        if len(pictures.scales) == 1:
            yield from (place for place in places if pictures_in(place))

    def has(self, pictures: Pictures, scale: Scale) -> bool:
        return (pictures.data.name, scale) in self.files

    def path(self, pictures: Pictures, index: int, scale: Scale) -> Path:
        """The file of a photograph's prediction."""
        return self.files[pictures.data.name, scale][index]

    def stamp(self, pictures: Pictures, index: int, scale: Scale) -> str:
        """Changes when the file does."""
        status = self.path(pictures, index, scale).stat()
        return f"{status.st_size}.{status.st_mtime_ns}"

    def read(self, pictures: Pictures, index: int, scale: Scale) -> Picture:
        """(3, H, W) in [0, 1], of 8 bits."""
        return to_picture(read_rgb(self.path(pictures, index, scale)))


def find_predictions(given: str, suites: Sequence[Pictures]) -> Predictions:
    """The predictions that an option NAME=DIR names.

    Raises:
        ConfigError: it is no such text.
        DataError: as `Predictions`.
    """
    label, separator, folder = given.partition("=")
    if not (label.strip() and separator and folder):
        raise ConfigError(f"--predictions: {given!r} given; allowed: NAME=DIR")
    root = user_path(folder)
    if not root.is_dir():
        raise DataError(f"--predictions: {root}: no such folder")
    return Predictions(label.strip(), root, suites)


def subfolders(place: Path, names: Sequence[str]) -> list[Path]:
    """The folders in a place that have one of these names but for case."""
    wanted = {name.casefold() for name in names}
    found = [name for name in sorted(os.listdir(place)) if name.casefold() in wanted]
    return [place / name for name in found if (place / name).is_dir()]


def check_sizes(files: Sequence[Path], pictures: Pictures, scale: Scale) -> None:
    """Raises DataError for a prediction that has not the size of what it is compared with."""
    for index, file in enumerate(files):
        size, truth = read_size(file), pictures.truth_size(index, scale)
        if size != truth:
            raise DataError(
                f"{file}: {size[0]}x{size[1]} pixels; allowed: {truth[0]}x{truth[1]}, as the "
                f"low-resolution picture of {pictures.name(index)} times {scale_text(scale)}"
            )
