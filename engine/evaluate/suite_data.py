"""The data sets of the paper's tables: where they are, and a picture of one at any scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import datasets
import utils
from datasets.resize import resize_matlab
from datasets.transforms import cut
from datasets.wrappers import SRImplicitDownsampled, SRImplicitPaired
from engine.evaluate.metrics import EvalType, scale_text
from utils import ConfigError, DataError

Image = np.ndarray  # uint8 (height, width, 3)
Scale = tuple[float, float]  # of rows, of columns

LR_SOURCES = {
    "supplied": "supplied (MATLAB bicubic)",
    "matlab": "MATLAB bicubic, made on the fly",
    "pil": "PIL bicubic, made on the fly",
}
# Of these scales the data sets bring low-resolution pictures, and the paper uses them.
SUPPLIED_SCALES = ((2.0, 2.0), (3.0, 3.0), (4.0, 4.0))


@dataclass(frozen=True)
class SuiteData:
    """One data set: high-resolution pictures, and perhaps low-resolution ones of some scales.

    kind is that of the `eval_type`, "benchmark" or "div2k"; `low` has a `{scale}` to fill in;
    `command` brings the data when they are absent.
    """

    name: str
    title: str
    kind: str
    high: Path
    low: str
    scales: tuple[Scale, ...]
    command: str

    def eval_type(self, scale: Scale) -> EvalType:
        return EvalType(self.kind, scale)

    def low_folder(self, scale: Scale) -> Path:
        return Path(self.low.format(scale=scale_text(scale)))


PAPER_SCALES = {"benchmark": (2, 3, 4, 6, 8), "div2k": (2, 3, 4, 6, 12, 18, 24, 30)}
BENCHMARKS = {"set5": "Set5", "set14": "Set14", "b100": "B100", "urban100": "Urban100"}
SUITES = (*BENCHMARKS, "div2k")


def find_suite(name: str, data_root: Path) -> SuiteData:
    """The data set of that name below the data root; or of a folder, when the name is one.

    A folder holds `HR` and perhaps `LR_bicubic/X2` and so on, as the benchmarks do, or pictures.

    Raises:
        ConfigError: neither a known name nor a folder.
    """
    if name.lower() in BENCHMARKS:
        title = BENCHMARKS[name.lower()]
        folder = data_root / "benchmark" / title
        high, low = folder / "HR", folder / "LR_bicubic" / "X{scale}"
        command = "python scripts/prepare_data.py benchmark"
        return suite_data(name.lower(), title, "benchmark", high, low, command)
    if name.lower() == "div2k":
        folder = data_root / "div2k"
        high = folder / "DIV2K_valid_HR"
        low = folder / "DIV2K_valid_LR_bicubic" / "X{scale}"
        command = "python scripts/prepare_data.py div2k"
        return suite_data("div2k", "DIV2K validation", "div2k", high, low, command)
    folder = Path(name)
    if not folder.is_dir():
        hint = utils.did_you_mean(name.lower(), SUITES)
        raise ConfigError(f"--suite: {name!r} given; allowed: {', '.join(SUITES)}, a folder{hint}")
    high = folder / "HR" if (folder / "HR").is_dir() else folder
    low = folder / "LR_bicubic" / "X{scale}"
    return suite_data(str(folder), str(folder), "benchmark", high, low, "")


def suite_data(name: str, title: str, kind: str, high: Path, low: Path, command: str) -> SuiteData:
    scales = tuple((float(scale), float(scale)) for scale in PAPER_SCALES[kind])
    return SuiteData(name, title, kind, high, str(low), scales, command)


class Pictures:
    """The high-resolution pictures of a suite, and the low-resolution ones that are there.

    Args:
        data: which.
        scales: those that will be asked for.
        source: "paper" (supplied at x2, x3, x4, else PIL), or one of LR_SOURCES for all scales.

    Raises:
        DataError: no pictures, or folders that can't be pairs. Low-resolution folders that are
            absent are no error; their scales are in `missing` with a line of explanation.
    """

    def __init__(self, data: SuiteData, scales: Sequence[Scale], source: str) -> None:
        self.data = data
        self.high = image_folder(data.high)
        self.low: dict[Scale, Any] = {}
        self.sources: dict[Scale, str] = {}
        self.missing: dict[Scale, str] = {}
        for scale in scales:
            chosen = source
            if source == "paper":
                chosen = "supplied" if scale in SUPPLIED_SCALES else "pil"
            if chosen == "supplied":
                folder = data.low_folder(scale)
                if not folder.is_dir():
                    command = f"{data.command}, or " if data.command else ""
                    self.missing[scale] = f"no folder {folder}; {command}--lr matlab"
                    continue
                self.low[scale] = image_folder(folder)
                self.check_count(folder, len(self.low[scale]))
            self.sources[scale] = chosen

    def check_count(self, folder: Path, count: int) -> None:
        if count != len(self.high):
            raise DataError(
                f"{folder} holds {count} pictures and {self.data.high} {len(self.high)}; "
                "allowed: as many, in the same natural order of names"
            )

    def __len__(self) -> int:
        return len(self.high)

    @property
    def scales(self) -> list[Scale]:
        """Those that can be had, in the order asked for."""
        return list(self.sources)

    def name(self, index: int) -> str:
        return Path(self.high.names(index)[0]).name

    def read(self, index: int) -> Image:
        """The high-resolution picture, uint8 (H, W, 3)."""
        return self.high.pixels(index)[0]

    def stamp(self, index: int, scale: Scale) -> str:
        """Changes when a file behind the picture does."""
        names = [self.high.names(index)[0]]
        names += [self.low[scale].names(index)[0]] if scale in self.low else []
        stats = [Path(name).stat() for name in names]
        return " ".join(f"{stat.st_size}.{stat.st_mtime_ns}" for stat in stats)

    def pair(self, index: int, high: Image, scale: Scale) -> tuple[Image, Image]:
        """(low, high) resolution, uint8 (h, w, 3) and (H, W, 3), as the paper's wrappers make them.

        Args:
            high: what `read(index)` gave.
        """
        rng = np.random.default_rng(0)  # whole pictures: nothing is drawn
        names = self.high.names(index)
        if self.sources[scale] == "supplied":
            low_names = self.low[scale].names(index)
            pictures = (self.low[scale].pixels(index)[0], high)
            held = Held(pictures, (low_names[0], names[0]))
            plan = SRImplicitPaired(held).plan(held.sizes(0), 0, rng)
            wanted = (pictures[0].shape[0] * scale[0], pictures[0].shape[1] * scale[1])
            if plan.gt.size != wanted:
                raise DataError(f"{low_names[0]}: not {names[0]} at x{scale_text(scale)}")
            return cut(pictures, plan.inp), cut(pictures, plan.gt)
        held = Held((high,), (names[0],))
        plan = SRImplicitDownsampled(held, scale_min=scale).plan(held.sizes(0), 0, rng)
        truth = cut((high,), plan.gt)
        if self.sources[scale] == "matlab":
            return resize_matlab(truth, plan.inp.size), truth
        return cut((high,), plan.inp), truth


class Held:
    """A data set of one item whose pictures are in memory already."""

    def __init__(self, pictures: tuple[Image, ...], names: tuple[Any, ...]) -> None:
        self.pictures, self.files = pictures, names

    def __len__(self) -> int:
        return 1

    def pixels(self, index: int) -> tuple[Image, ...]:
        return self.pictures

    def sizes(self, index: int) -> list[tuple[int, int]]:
        return [(picture.shape[0], picture.shape[1]) for picture in self.pictures]

    def names(self, index: int) -> tuple[Any, ...]:
        return self.files


def image_folder(folder: Path) -> Any:
    return datasets.make({"name": "image-folder", "args": {"root_path": str(folder)}})
