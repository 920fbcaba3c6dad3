"""Damage as photographs have it: blur, noise, JPEG, a second resize (docs/degradations.md).

A list of steps is read once into a `Degrade`. Each step maps an 8-bit picture to one of the same
size, as programs do to photographs one after the other, and draws all that is random from the
generator that is handed in.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from registry import UNREAD, AtLeast, AtMost, Reader, read_dataclass, read_value, show, unknown
from utils import ConfigError

from .resize import resize_pil

Pixels = np.ndarray  # uint8 (H, W, 3)
Share = Annotated[float, AtLeast(0), AtMost(1)]
Sigma = Annotated[float, AtLeast(0), AtMost(50)]
Levels = Annotated[float, AtLeast(0), AtMost(255)]
Photons = Annotated[float, AtLeast(1), AtMost(1e6)]
Quality = Annotated[int, AtLeast(1), AtMost(100)]
Ratio = Annotated[float, AtLeast(1), AtMost(16)]
Subsampling = Literal["4:4:4", "4:2:0"]
Filter = Literal["bicubic", "bilinear", "lanczos", "nearest"]

SIGMAS = 4  # of a blur's kernel from its centre to its end
THINNEST = 0.01  # pixels; below it a kernel's axis is that of a point
LUMA = np.array([0.299, 0.587, 0.114])
BLOCK = {"4:4:4": 8, "4:2:0": 16}  # pixels of JPEG's smallest unit


@dataclass(frozen=True, kw_only=True)
class Step:
    """What every step has. A range is one number or [low, high], drawn from uniformly.

    Attributes:
        prob: how often it is applied.
        before: act on the large picture, before its reduction.
        shuffle: exchange places, at random, with the other such steps on the same side of the
            reduction.
    """

    prob: Share = 1.0
    before: bool = False
    shuffle: bool = False

    def check_ranges(self) -> Iterator[str]:
        for key, value in vars(self).items():
            if isinstance(value, tuple) and value[0] > value[-1]:
                yield f"{key}: {show([*value])} given; allowed: the smaller number first"

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """The damaged picture; numbers are drawn in an order that never changes."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Blur(Step):
    """Convolution with a Gaussian; beyond its borders the picture is mirrored.

    Attributes:
        sigma: standard deviation in pixels of the picture that it acts on.
        anisotropic: how often the Gaussian has two sigmas, each drawn, and any direction.
    """

    sigma: Sigma | tuple[Sigma, Sigma]
    anisotropic: Share = 0.0

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        along = across = uniform(rng, self.sigma)
        angle = 0.0
        if rng.random() < self.anisotropic:
            across, angle = uniform(rng, self.sigma), rng.uniform(0, math.pi)
        return convolve(pixels, gaussian(along, across, angle))


@dataclass(frozen=True, kw_only=True)
class Noise(Step):
    """Noise of the light itself (Poisson), of what reads it (Gaussian), or first one, then both.

    Attributes:
        sigma: standard deviation of Gaussian noise in levels of 0 to 255.
        photons: Poisson noise: how many photons make white, drawn uniformly in their logarithm.
        grey: how often the noise is the same in the three channels.
    """

    sigma: Levels | tuple[Levels, Levels] | None = None
    photons: Photons | tuple[Photons, Photons] | None = None
    grey: Share = 0.0

    def check_kind(self) -> Iterator[str]:
        if self.sigma is None and self.photons is None:
            yield "sigma: missing, and so is photons; allowed: one of the two, or both"

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        grey = rng.random() < self.grey
        levels = pixels.astype(np.float32)
        if self.photons is not None:
            low, high = ends(self.photons)
            white = math.exp(rng.uniform(math.log(low), math.log(high)))
            levels += shot_noise(pixels @ LUMA.astype(np.float32) if grey else levels, white, rng)
        if self.sigma is not None:
            shape = (*pixels.shape[:2], 1) if grey else pixels.shape
            spread = np.float32(uniform(rng, self.sigma))
            levels += spread * rng.standard_normal(shape, np.float32)
        return rounded(levels)


@dataclass(frozen=True, kw_only=True)
class Jpeg(Step):
    """Written as a JPEG file and read again, by Pillow.

    Attributes:
        quality: 1 to 100, a whole number.
        subsampling: of colours; one is drawn where several are given.
        offset: the blocks begin at a random place, as in a part of a larger photograph; without
            it in the top left corner, as in a file.
    """

    quality: Quality | tuple[Quality, Quality]
    subsampling: Subsampling | list[Subsampling] = "4:2:0"
    offset: bool = True

    def check_subsampling(self) -> Iterator[str]:
        if not self.subsampling:
            yield "subsampling: [] given; allowed: 4:4:4, 4:2:0, or both"

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        low, high = ends(self.quality)
        quality = int(rng.integers(low, high + 1))
        kinds = [self.subsampling] if isinstance(self.subsampling, str) else self.subsampling
        kind = kinds[rng.integers(len(kinds))]
        top, left = rng.integers(0, BLOCK[kind], 2).tolist() if self.offset else (0, 0)
        padded = np.pad(pixels, ((top, 0), (left, 0), (0, 0)), mode="edge")
        file = io.BytesIO()
        Image.fromarray(padded).save(file, "JPEG", quality=quality, subsampling=kind)
        return np.asarray(Image.open(file, formats=["JPEG"]))[top:, left:]


@dataclass(frozen=True, kw_only=True)
class Resize(Step):
    """Reduced once more, and enlarged to the size it had.

    Attributes:
        scale: how many times smaller.
        filters: of Pillow; one is drawn for each of the two.
    """

    scale: Ratio | tuple[Ratio, Ratio]
    filters: Filter | list[Filter] = "bicubic"

    def check_filters(self) -> Iterator[str]:
        if not self.filters:
            yield "filters: [] given; allowed: some of bicubic, bilinear, lanczos, nearest"

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        size, scale = (pixels.shape[0], pixels.shape[1]), uniform(rng, self.scale)
        names = [self.filters] if isinstance(self.filters, str) else self.filters
        down, up = (names[number] for number in rng.integers(len(names), size=2))
        small = max(1, round(size[0] / scale)), max(1, round(size[1] / scale))
        return resize_pil(resize_pil(pixels, small, down), size, up)


STEPS: dict[str, type[Step]] = {"blur": Blur, "noise": Noise, "jpeg": Jpeg, "resize": Resize}


class StepReader(Reader):
    """Reads a step, `{name, ...}`: a copy of it, its values as the step's class takes them."""

    def read(self, value: Any, path: str, problems: list[str]) -> Any:
        if not isinstance(value, Mapping):
            problems.append(f"{path}: {show(value)} given; allowed: {self}")
            return UNREAD
        name = value.get("name")
        if "name" not in value:
            problems.append(f"{path}.name: missing; allowed: {', '.join(STEPS)}")
            return UNREAD
        if not isinstance(name, str) or name not in STEPS:
            problems.append(unknown(f"{path}.name", "step", name, STEPS))
            return UNREAD
        args = without_name(value)
        made = read_dataclass(STEPS[name], args, path, problems)
        return {"name": name, **{key: getattr(made, key) for key in args if hasattr(made, key)}}

    def __str__(self) -> str:
        return f"a step as {{name, ...}}, its name one of {', '.join(STEPS)}"


StepSpecs = list[Annotated[dict, StepReader()]]
"""The type of an argument that takes a list of steps."""


class Degrade:
    """A list of steps to be applied to pictures.

    Args:
        steps: mappings `{name, ...}`.
        path: what messages call the list.

    Attributes:
        given: the steps as they were given, read.
        has_before: some step acts before the reduction.

    Raises:
        ConfigError: lists every problem of the steps.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]], path: str = "degrade") -> None:
        problems: list[str] = []
        self.given = read_value(StepSpecs, steps, path, problems)
        if problems:
            raise ConfigError("; ".join(problems))
        self.steps = [STEPS[step["name"]](**without_name(step)) for step in self.given]
        self.has_before = any(step.before for step in self.steps)

    def apply(
        self, pixels: Pixels, reduce: Callable[[Pixels], Pixels], rng: np.random.Generator
    ) -> Pixels:
        """What becomes of the large picture: damaged, reduced, damaged; uint8 (h, w, 3)."""
        for step in self.drawn(True, rng):
            pixels = step.apply(pixels, rng)
        pixels = reduce(pixels)
        for step in self.drawn(False, rng):
            pixels = step.apply(pixels, rng)
        return pixels

    def drawn(self, before: bool, rng: np.random.Generator) -> list[Step]:
        """The steps of one side that are applied this time, in this time's order."""
        steps = [step for step in self.steps if step.before == before]
        places = [number for number, step in enumerate(steps) if step.shuffle]
        order = [*range(len(steps))]
        for place, number in zip(places, rng.permutation(places).tolist(), strict=True):
            order[place] = number
        chances = rng.random(len(steps))
        return [steps[n] for n in order if chances[n] < steps[n].prob]

    def document(self) -> list[dict[str, Any]]:
        """Every setting of every step, as YAML and JSON can hold them."""
        pairs = zip(self.given, self.steps, strict=True)
        made = [{"name": given["name"], **asdict(step)} for given, step in pairs]
        return json.loads(json.dumps(made))

    def __str__(self) -> str:
        """For people: "jpeg (quality 40, subsampling 4:2:0), noise (sigma 0 to 12)"."""
        return ", ".join(step_text(step) for step in self.given)

    @property
    def key(self) -> str:
        """Tells two lists of steps apart that may do different things: 16 hexadecimal digits."""
        text = json.dumps(self.document(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Damage:
    """The steps for one item, and the seed of what they draw."""

    degrade: Degrade
    seed: int

    def apply(self, pixels: Pixels, reduce: Callable[[Pixels], Pixels]) -> Pixels:
        return self.degrade.apply(pixels, reduce, np.random.default_rng(self.seed))


def draw_damage(rng: np.random.Generator, degrade: Degrade | None) -> Damage | None:
    """The damage of an item; nothing is drawn where there is none."""
    return None if degrade is None else Damage(degrade, int(rng.integers(2**63)))


def damage_of(degrade: Degrade, file: str | Path) -> Damage:
    """The damage that a picture has always: a function of its file's name alone."""
    digest = hashlib.sha256(Path(file).name.encode(errors="surrogateescape")).digest()
    return Damage(degrade, int.from_bytes(digest[:8], "big"))


def step_text(step: Mapping[str, Any]) -> str:
    """A step and what was said of it, for people."""
    words = []
    for key, value in without_name(step).items():
        joined = " to " if isinstance(value, tuple) else " or "
        several = isinstance(value, (tuple, list))
        words.append(f"{key} {joined.join(map(str, value)) if several else value}")
    return f"{step['name']} ({', '.join(words)})"


def without_name(step: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in step.items() if key != "name"}


def ends(bounds: Any) -> tuple[Any, Any]:
    """(low, high) of a range."""
    return bounds if isinstance(bounds, tuple) else (bounds, bounds)


def uniform(rng: np.random.Generator, bounds: float | tuple[float, float]) -> float:
    return float(rng.uniform(*ends(bounds)))


def gaussian(along: float, across: float, angle: float) -> np.ndarray:
    """A Gaussian at whole pixels, its sum 1: float32 (2r + 1, 2r + 1).

    Args:
        along, across: its standard deviations in pixels.
        angle: of the first one's direction, radians from the columns' axis to that of the rows.
    """
    radius = math.ceil(SIGMAS * max(along, across))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    cos, sin = math.cos(angle), math.sin(angle)
    u = (cos * x + sin * y) / max(along, THINNEST)
    v = (cos * y - sin * x) / max(across, THINNEST)
    kernel = np.exp(-(u**2 + v**2) / 2)
    return (kernel / kernel.sum()).astype(np.float32)


def convolve(pixels: Pixels, kernel: np.ndarray) -> Pixels:
    """uint8 (H, W, 3) convolved with a kernel (2r + 1, 2r + 1), mirrored about its border pixels.

    By Fourier transforms, so that its time hardly depends on the kernel.
    """
    import scipy.fft  # here: an eighth of a second that no other command has to wait for

    height, width = pixels.shape[:2]
    size = len(kernel) - 1
    edges = (size // 2, size // 2)
    padded = np.pad(pixels.transpose(2, 0, 1), ((0, 0), edges, edges), mode="reflect")
    shape = [scipy.fft.next_fast_len(side + size, real=True) for side in (height, width)]
    spectrum = scipy.fft.rfft2(padded.astype(np.float32), shape)
    spectrum *= scipy.fft.rfft2(kernel, shape)
    whole = scipy.fft.irfft2(spectrum, shape)[:, size : size + height, size : size + width]
    return rounded(whole.transpose(1, 2, 0))


def shot_noise(levels: np.ndarray, white: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise of a picture in which so many photons make white: float32 (H, W, C)."""
    levels = levels[..., None] if levels.ndim == 2 else levels
    rate = levels.astype(np.float64) * (white / 255)
    return ((rng.poisson(rate) - rate) * (255 / white)).astype(np.float32)


def rounded(levels: np.ndarray) -> Pixels:
    """Levels of 0 to 255 at the nearest whole ones, uint8."""
    return np.ascontiguousarray(np.rint(levels).clip(0, 255).astype(np.uint8))
