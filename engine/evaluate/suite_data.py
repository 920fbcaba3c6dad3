"""The data sets of the paper's tables: where they are, and a picture of one at any scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.degrade import Degrade, damage_of
from datasets.image_folder import Folders, ImageFolder, listed_pictures
from datasets.known import how_to_get, low_folder
from datasets.listing import match_pairs, user_path
from datasets.resize import resize_matlab
from datasets.transforms import Plan, cut, resized
from datasets.wrappers import SRImplicitDownsampled, SRImplicitPaired
from engine.evaluate import ciaosr_protocol
from engine.evaluate.metrics import EvalType, scale_text
from utils import ConfigError, DataError, did_you_mean

Image = np.ndarray  # uint8 (height, width, 3)
Scale = tuple[float, float]  # of rows, of columns

LR_SOURCES = {
    "supplied": "supplied (MATLAB bicubic)",
    "matlab": "MATLAB bicubic, made on the fly",
    "pil": "PIL bicubic, made on the fly",
}
PROTOCOLS = ("paper", "ciaosr")
# Of these scales the data sets bring low-resolution pictures, and the paper uses them.
SUPPLIED_SCALES = ((2.0, 2.0), (3.0, 3.0), (4.0, 4.0))


PAPER_SCALES = {"benchmark": (2, 3, 4, 6, 8), "div2k": (2, 3, 4, 6, 12, 18, 24, 30)}
BENCHMARKS = {"set5": "Set5", "set14": "Set14", "b100": "B100", "urban100": "Urban100"}
SUITES = (*BENCHMARKS, "div2k")


@dataclass(frozen=True)
class SuiteData:
    """One data set: high-resolution pictures, and perhaps low-resolution ones of some scales.

    Attributes:
        kind: that of the `eval_type`, "benchmark" or "div2k".
        high: folder of the high-resolution pictures.
        low: folder of the folders X2, X3 and so on.
        protocol: one of PROTOCOLS, how figures are taken: as in LIIF's paper, or in CiaoSR's.
        degrade: what low-resolution pictures are damaged by, each by draws of its own.
    """

    name: str
    title: str
    kind: str
    high: Path
    low: Path
    protocol: str = "paper"
    degrade: Degrade | None = None

    @property
    def published(self) -> str:
        """The name under which figures of such pictures are published; "" where none can be."""
        return self.name if self.degrade is None else ""

    @property
    def scales(self) -> list[Scale]:
        """Those of the paper's tables."""
        return [(float(scale), float(scale)) for scale in PAPER_SCALES[self.kind]]

    def eval_type(self, scale: Scale) -> EvalType:
        return EvalType(self.kind, scale).by(self.protocol)

    def low_folder(self, scale: Scale) -> Path:
        return self.low / f"X{scale_text(scale)}"


def find_suite(name: str, data_root: Path) -> SuiteData:
    """The data set of that name below the data root; or of a folder, when the name is one.

    A folder holds photographs, or `HR` and perhaps `LR_bicubic/X2` and so on, as the benchmarks do.
    Low-resolution ones may also lie where `prepare_data.py lr` writes them.

    Raises:
        ConfigError: neither a known name nor a folder.
    """
    key = name.lower()
    if key in BENCHMARKS:
        title = BENCHMARKS[key]
        folder = data_root / "benchmark" / title
        return SuiteData(key, title, "benchmark", folder / "HR", folder / "LR_bicubic")
    if key == "div2k":
        high = data_root / "div2k" / "DIV2K_valid_HR"
        low = data_root / "div2k" / "DIV2K_valid_LR_bicubic"
        return SuiteData(key, "DIV2K validation", "div2k", high, low)
    folder = user_path(name)
    if not folder.is_dir():
        hint = did_you_mean(key, SUITES)
        raise ConfigError(f"--suite: {name!r} given; allowed: {', '.join(SUITES)}, a folder{hint}")
    high = folder / "HR" if (folder / "HR").is_dir() else folder
    inside = folder / "LR_bicubic"
    low = inside if inside.is_dir() else low_folder(high)
    return SuiteData(str(folder), str(folder), "benchmark", high, low)


def check_protocol(protocol: str, scales: Sequence[Scale], source: str, prefix: str = "") -> None:
    """Raise ConfigError for what the protocol "ciaosr" can't have.

    Args:
        source: that of low-resolution pictures, as `Pictures` takes it.
        prefix: of the names `scales` and `lr` in messages.
    """
    if protocol != "ciaosr":
        return
    for scale in scales:
        if not all(factor.is_integer() for factor in scale):
            given = f"{prefix}scales: {scale_text(scale)} given"
            raise ConfigError(f"{given}; allowed with protocol ciaosr: whole numbers")
    if source == "supplied":  # they are of pictures that are not cut
        given = f"{prefix}lr: supplied given"
        raise ConfigError(f"{given}; allowed with protocol ciaosr: paper, matlab, pil")


class Pictures:
    """The high-resolution pictures of a suite, and the low-resolution ones that are there.

    Args:
        data: which.
        scales: those that will be asked for.
        source: "paper" (supplied at x2, x3, x4, else PIL), or one of LR_SOURCES for all scales.
            Of a folder that is none of the paper's data sets, low-resolution pictures that are not
            supplied are made as the supplied ones were, by MATLAB's bicubic; so are all of
            protocol "ciaosr", whose high-resolution pictures are others.

    Raises:
        DataError: no pictures, or folders that can't be pairs. Low-resolution folders that are
            absent are no error; their scales are in `missing` with a line of explanation.
        ConfigError: damage before the reduction of pictures that are supplied reduced.
    """

    def __init__(self, data: SuiteData, scales: Sequence[Scale], source: str) -> None:
        self.data = data
        self.high = ImageFolder(str(data.high))
        self.pairs: dict[Scale, Folders] = {}
        self.sources: dict[Scale, str] = {}
        self.missing: dict[Scale, str] = {}
        for scale in scales:
            folder = data.low_folder(scale)
            chosen = source
            if source == "paper":
                chosen = "supplied" if scale in SUPPLIED_SCALES else "pil"
                plain = data.name not in SUITES and not folder.is_dir()
                if chosen == "supplied" and (plain or data.protocol == "ciaosr"):
                    chosen = "matlab"
            if chosen == "supplied":
                if not folder.is_dir():
                    self.missing[scale] = f"no folder {folder}{how_to_get(folder)}; or --lr matlab"
                    continue
                if data.degrade is not None and data.degrade.has_before:
                    at = f"supplied low-resolution pictures (x{scale_text(scale)})"
                    raise ConfigError(
                        f"--degrade: a step with before: true and {at}; "
                        "allowed with --lr pil or matlab"
                    )
                high = self.high.paths[0]
                self.pairs[scale] = Folders([match_pairs(listed_pictures(folder), high), high])
            self.sources[scale] = chosen

    def __len__(self) -> int:
        return len(self.high)

    @property
    def scales(self) -> list[Scale]:
        """Those that can be had, in the order asked for."""
        return list(self.sources)

    def name(self, index: int) -> str:
        return self.high.paths[0][index].name

    def read(self, index: int) -> Image:
        """The high-resolution picture, as far as the protocol takes it: uint8 (H, W, 3)."""
        pixels = self.high.pixels(index)[0]
        height, width = self.used(index, (pixels.shape[0], pixels.shape[1]))
        return pixels[:height, :width]

    def used(self, index: int, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the part at the top left that the protocol takes of that size.

        Raises:
            DataError: nothing.
        """
        if self.data.protocol != "ciaosr":
            return size
        cut_to = ciaosr_protocol.cut_size(size)
        if 0 in cut_to:
            least = "x".join([str(ciaosr_protocol.MULTIPLE)] * 2)
            given = f"{self.high.names(index)[0]}: {size[0]}x{size[1]} pixels"
            raise DataError(f"{given}; allowed with protocol ciaosr: {least} and more")
        return cut_to

    def stamp(self, index: int, scale: Scale) -> str:
        """Changes when a file behind the picture does."""
        files = self.high.names(index)
        if scale in self.pairs:
            files += self.pairs[scale].names(index)[:1]
        stats = [Path(file).stat() for file in files]
        return " ".join(f"{stat.st_size}.{stat.st_mtime_ns}" for stat in stats)

    def plan(self, index: int, size: tuple[int, int], scale: Scale) -> Plan:
        """Which parts of a photograph of that size, and of its low-resolution one, are used."""
        rng = np.random.default_rng(0)  # whole pictures: nothing is drawn
        if self.sources[scale] != "supplied":
            return SRImplicitDownsampled(self.high, scale_min=scale).plan([size], index, rng)
        pairs = self.pairs[scale]
        low = pairs.caches[0].size(index)
        plan = SRImplicitPaired(pairs).plan([low, size], index, rng)
        if plan.gt.size != (low[0] * scale[0], low[1] * scale[1]):
            names = pairs.names(index)
            raise DataError(f"{names[0]}: not {names[1]} at x{scale_text(scale)}")
        return plan

    def truth_size(self, index: int, scale: Scale) -> tuple[int, int]:
        """(height, width) of the part that predictions are compared with."""
        return self.plan(index, self.used(index, self.high.sizes(index)[0]), scale).gt.size

    def pair(self, index: int, high: Image, scale: Scale) -> tuple[Image, Image]:
        """(low, high) resolution, uint8 (h, w, 3) and (H, W, 3), as the paper's wrappers make them.

        The low one is damaged where the suite says so.

        Args:
            high: what `read(index)` gave.
        """
        plan = self.plan(index, (high.shape[0], high.shape[1]), scale)
        source = self.sources[scale]
        pictures: tuple[Image, ...] = (high,)
        if source == "supplied":
            pictures = (self.pairs[scale].caches[0].pixels(index), high)

        def reduced(pixels: Image) -> Image:
            if source == "supplied":
                return cut(pictures, plan.inp)
            if source == "matlab":
                return resize_matlab(pixels, plan.inp.size)
            return resized(pixels, plan.inp.sizes)

        truth = cut(pictures, plan.gt)
        if self.data.degrade is None:
            return reduced(truth), truth
        return damage_of(self.data.degrade, self.name(index)).apply(truth, reduced), truth
