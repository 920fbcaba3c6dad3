"""Wrappers: turn photographs into items of coordinates and colours (section 4 of the paper).

Item i is a dictionary of float32 tensors: `inp` (3, h, w) and `gt` (Q, 3), colours in [0, 1];
`coord` (Q, 2), pixel centres as (y, x) in [-1, 1]; `cell` (Q, 2), (2/height, 2/width) of the
target grid.

`draw` makes every random decision and returns them as a `Plan`, `make_item` carries a plan out. So
the same draws can be carried out elsewhere (`device_batches`), and an item is a function of the
generator that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from registry import AtLeast
from utils import ConfigError, DataError

from .datasets import register
from .degrade import Degrade, StepSpecs, draw_damage
from .transforms import (
    Box,
    Flips,
    Item,
    Plan,
    View,
    draw_box,
    draw_flips,
    draw_samples,
    make_item,
)

Size = tuple[int, int]
Count = Annotated[int, AtLeast(1)]
Scale = Annotated[float, AtLeast(1)]
ROUNDING = 1e-3  # how far outside [0, 1] colours of a data set of the user's may lie


class Wrapper:
    """What the wrappers share; each adds how it plans an item.

    Args:
        dataset: has a length and items that are a picture (3, H, W) or a tuple of them, float in
            [0, 1] or uint8; its `pixels(i)`, `sizes(i)` and `names(i)` are used when it has them.
        pictures: number of pictures that an item of the data set must have.
        sample_q: number of target pixels, drawn without replacement; all when absent.
        sample_patch: these are a square patch, whose side is the root of sample_q; else they lie
            scattered. Losses that compare neighbours need it.
    """

    def __init__(
        self,
        dataset: Any,
        pictures: int,
        sample_q: int | None = None,
        sample_patch: bool = False,
    ) -> None:
        self.dataset = dataset
        self.pictures = pictures
        self.sample_q = sample_q
        self.sample_patch = sample_patch
        if hasattr(dataset, "names") and len(dataset) > 0:
            self.check_pictures(len(dataset.names(0)))

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        """What is wrong with arguments that are right one by one."""
        if args.get("sample_patch"):
            count = args["sample_q"]
            if count is None or count < 4 or math.isqrt(count) ** 2 != count:
                given = "missing" if count is None else f"{count} given"
                yield f"sample_q: {given}; allowed with sample_patch: squares such as 4 or 1024"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        """Item `index`, drawn with torch's global generator."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.sample(index, np.random.default_rng(int(torch.randint(2**62, ()))))

    def sample(self, index: int, rng: np.random.Generator) -> Item:
        """Item `index`, with every random decision drawn from `rng`.

        Raises:
            DataError: a file that can't be read, or a picture that the settings don't fit.
        """
        pictures = self.fetch(index)
        plan = self.plan([picture.shape[:2] for picture in pictures], index, rng)
        return make_item(pictures, plan)

    def draw(self, index: int, rng: np.random.Generator) -> Plan:
        """The random decisions that `sample` would make with the same `rng`."""
        return self.plan(self.sizes(index), index, rng)

    def sizes(self, index: int) -> Sequence[Size]:
        """(height, width) of each picture of an item; nothing is decoded where the set knows them.

        Raises:
            DataError: a file that can't be read.
        """
        if hasattr(self.dataset, "sizes"):
            return self.dataset.sizes(index)
        return [(picture.shape[0], picture.shape[1]) for picture in self.fetch(index)]

    def plan(self, sizes: Sequence[Size], index: int, rng: np.random.Generator) -> Plan:
        """The plan of item `index`, whose pictures have these sizes (height, width)."""
        raise NotImplementedError

    def fetch(self, index: int) -> tuple[np.ndarray, ...]:
        """The pictures (H, W, 3) of an item: uint8, or float32 where the data set has no `pixels`.

        Raises:
            DataError: they are none, or a file can't be read.
        """
        if hasattr(self.dataset, "pixels"):
            pictures = self.dataset.pixels(index)
            self.check_pictures(len(pictures))
            return pictures
        item = self.dataset[index]
        tensors = item if isinstance(item, (tuple, list)) else (item,)
        self.check_pictures(len(tensors))
        named = ((tensor, self.name(index, number)) for number, tensor in enumerate(tensors))
        return tuple(self.as_pixels(tensor, name) for tensor, name in named)

    def as_pixels(self, tensor: Any, name: str) -> np.ndarray:
        """A picture (3, H, W) of the data set's own as (H, W, 3), uint8 or float32.

        Raises:
            DataError: it is none, or has values outside [0, 1].
        """
        given = f"a {type(tensor).__name__}"
        if isinstance(tensor, Tensor):
            given = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            if tensor.ndim == 3 and len(tensor) == 3 and tensor.numel() > 0:
                if tensor.dtype == torch.uint8:
                    return tensor.permute(1, 2, 0).numpy()
                if tensor.is_floating_point():
                    low, high = (float(limit) for limit in tensor.aminmax())
                    if low >= -ROUNDING and high <= 1 + ROUNDING:
                        return tensor.permute(1, 2, 0).float().numpy()
                    given += f" of values from {low:.4g} to {high:.4g}"
        raise DataError(
            f"{name}: {type(self.dataset).__name__} gives {given}; allowed: a tensor (3, H, W), "
            "float in [0, 1] or uint8"
        )

    def check_pictures(self, count: int) -> None:
        if count != self.pictures:
            wanted = "pairs" if self.pictures == 2 else "single pictures"
            raise ConfigError(
                f"{type(self).__name__}: needs a data set of {wanted}; "
                f"{type(self.dataset).__name__} gives {count} per item"
            )

    def name(self, index: int, picture: int = 0) -> str:
        """The file behind a picture, for messages."""
        if hasattr(self.dataset, "names"):
            return str(self.dataset.names(index)[picture])
        return f"item {index}"

    def check_sample_q(self, smallest: Size, name: str) -> None:
        """Refuse more samples than the smallest crop that may come has pixels."""
        if self.sample_q is None:
            return
        if self.sample_q > smallest[0] * smallest[1]:
            raise DataError(
                f"{name}: sample_q {self.sample_q} is more than the {smallest[0]}x{smallest[1]} = "
                f"{smallest[0] * smallest[1]} pixels of a crop"
            )
        side = math.isqrt(self.sample_q)
        if self.sample_patch and side > min(smallest):
            raise DataError(
                f"{name}: sample_q {self.sample_q}, a patch of {side}x{side} pixels, does not fit "
                f"in a crop of {smallest[0]}x{smallest[1]}"
            )

    def draw_samples(self, rng: np.random.Generator, size: Size, flips: Flips) -> np.ndarray | None:
        """Numbers of the sampled pixels of targets of (height, width) `size` before the flips."""
        return draw_samples(rng, flips.size(size), self.sample_q, self.sample_patch)


@register("sr-implicit-paired")
class SRImplicitPaired(Wrapper):
    """Given pairs (low, high resolution) of one whole-numbered scale, s = H_hr // H_lr.

    Args:
        dataset: pairs.
        inp_size: side of a random square crop of the input, its counterpart the target; the whole
            pictures (the larger one cut to s times the smaller one) when absent.
        augment: flips and transpose, each with probability 1/2.
        sample_q, sample_patch: as of `Wrapper`.
    """

    def __init__(
        self,
        dataset: Any,
        inp_size: Count | None = None,
        augment: bool = False,
        sample_q: Count | None = None,
        sample_patch: bool = False,
    ) -> None:
        super().__init__(dataset, 2, sample_q, sample_patch)
        self.inp_size = inp_size
        self.augment = augment

    def plan(self, sizes: Sequence[Size], index: int, rng: np.random.Generator) -> Plan:
        scale = self.pair_scale(sizes, index)
        box = Box(0, 0, *sizes[0])
        if self.inp_size is not None:
            if self.inp_size > min(sizes[0]):
                raise DataError(
                    f"{self.name(index)}: {sizes[0][0]}x{sizes[0][1]} pixels, smaller than the "
                    f"crop of {self.inp_size}x{self.inp_size} (inp_size)"
                )
            box = draw_box(rng, sizes[0], (self.inp_size, self.inp_size))
        gt = View(1, Box(box.top * scale, box.left * scale, box.height * scale, box.width * scale))
        flips = draw_flips(rng) if self.augment else Flips()
        self.check_sample_q(gt.size, self.name(index, 1))
        return Plan(View(0, box), gt, flips, self.draw_samples(rng, gt.size, flips))

    def pair_scale(self, sizes: Sequence[Size], index: int) -> int:
        """How many times larger the second picture is; at most an incomplete cell is left over."""
        (height, width), (target_height, target_width) = sizes
        scale = target_height // height
        rest = (target_height - scale * height, target_width - scale * width)
        if scale < 1 or not (0 <= rest[0] < scale and 0 <= rest[1] < scale):
            raise DataError(
                f"{self.name(index)} ({height}x{width} pixels) and {self.name(index, 1)} "
                f"({target_height}x{target_width}) can't be a pair: the second must be a whole "
                "number of times larger, the same for rows and columns"
            )
        return scale


@register("sr-implicit-downsampled")
class SRImplicitDownsampled(Wrapper):
    """High-resolution pictures alone; the input is made from them at a random scale.

    Args:
        dataset: single pictures.
        inp_size: side n of the input: a random square of round(n * scale) pixels is resized to it.
            When absent the whole picture is used, cut at the right and below to what the scale
            needs.
        scale_min, scale_max: the scale is uniform between them; scale_max is scale_min when
            absent. Either may be a pair (rows, columns).
        augment: flips and transpose, each with probability 1/2.
        sample_q, sample_patch: as of `Wrapper`.
        degrade: steps that damage the input, as photographs are (`datasets.degrade`); a crop is
            damaged as a picture of its own.
    """

    def __init__(
        self,
        dataset: Any,
        inp_size: Count | None = None,
        scale_min: Scale | tuple[Scale, Scale] = 1,
        scale_max: Scale | tuple[Scale, Scale] | None = None,
        augment: bool = False,
        sample_q: Count | None = None,
        degrade: StepSpecs | None = None,
        sample_patch: bool = False,
    ) -> None:
        super().__init__(dataset, 1, sample_q, sample_patch)
        self.inp_size = inp_size
        self.scale_min = per_axis(scale_min)
        self.scale_max = self.scale_min if scale_max is None else per_axis(scale_max)
        self.augment = augment
        self.degrade = Degrade(degrade) if degrade else None

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        yield from Wrapper.check_args(args)
        low, high = args["scale_min"], args["scale_max"]
        if high is not None and any(
            a > b for a, b in zip(per_axis(low), per_axis(high), strict=True)
        ):
            yield f"scale_min: {low} given; allowed: at most scale_max, {high}"

    def plan(self, sizes: Sequence[Size], index: int, rng: np.random.Generator) -> Plan:
        size = sizes[0]
        scale = self.draw_scale(rng)
        if self.inp_size is None:
            inp_size, crop = self.whole_sizes(size, scale, index)
            box = Box(0, 0, *crop)
            self.check_sample_q(crop, self.name(index))
        else:
            inp_size = (self.inp_size, self.inp_size)
            self.check_crop(size, index)
            box = draw_box(rng, size, scaled(inp_size, scale))
        flips = draw_flips(rng) if self.augment else Flips()
        samples = self.draw_samples(rng, (box.height, box.width), flips)
        damage = draw_damage(rng, self.degrade)
        return Plan(View(0, box, (inp_size,)), View(0, box), flips, samples, damage)

    def draw_scale(self, rng: np.random.Generator) -> tuple[float, float]:
        """One draw for both axes, so that equal bounds give square pixels."""
        part = rng.random() if self.scale_max != self.scale_min else 0.0
        (low_y, low_x), (high_y, high_x) = self.scale_min, self.scale_max
        return low_y + (high_y - low_y) * part, low_x + (high_x - low_x) * part

    def whole_sizes(self, size: Size, scale: tuple[float, float], index: int) -> tuple[Size, Size]:
        """Sizes of the input and of the part of the picture that it is made from."""
        inp_size = (
            math.floor(size[0] / scale[0] + 1e-9),
            math.floor(size[1] / scale[1] + 1e-9),
        )
        if min(inp_size) < 1:
            raise DataError(
                f"{self.name(index)}: {size[0]}x{size[1]} pixels leave nothing at scale "
                f"{scale[0]:g}x{scale[1]:g}"
            )
        return inp_size, scaled(inp_size, scale)

    def check_crop(self, size: Size, index: int) -> None:
        """Refuse what some draw would not fit, whatever is drawn now: errors come at once."""
        assert self.inp_size is not None
        inp_size = (self.inp_size, self.inp_size)
        largest = scaled(inp_size, self.scale_max)
        if size[0] < largest[0] or size[1] < largest[1]:
            raise DataError(
                f"{self.name(index)}: {size[0]}x{size[1]} pixels, smaller than the crop of "
                f"{largest[0]}x{largest[1]} (inp_size {self.inp_size} at scale_max)"
            )
        self.check_sample_q(scaled(inp_size, self.scale_min), self.name(index))


@register("sr-implicit-paired-fast")
class SRImplicitPairedFast(SRImplicitPaired):
    """`sr-implicit-paired` as LTE's and SRNO's files name it: inp_size**2 target pixels.

    Their code folds the samples into a square; here they come row by row, the same for any model.
    """

    def __init__(self, dataset: Any, inp_size: Count | None = None, augment: bool = False) -> None:
        super().__init__(dataset, inp_size, augment, squared(inp_size))


@register("sr-implicit-downsampled-fast")
class SRImplicitDownsampledFast(SRImplicitDownsampled):
    """`sr-implicit-downsampled` as LTE's and SRNO's files name it: inp_size**2 target pixels."""

    def __init__(
        self,
        dataset: Any,
        inp_size: Count | None = None,
        scale_min: Scale | tuple[Scale, Scale] = 1,
        scale_max: Scale | tuple[Scale, Scale] | None = None,
        augment: bool = False,
    ) -> None:
        super().__init__(dataset, inp_size, scale_min, scale_max, augment, squared(inp_size))


@register("sr-implicit-uniform-varied")
class SRImplicitUniformVaried(Wrapper):
    """Square pairs of fixed sizes; the target's size grows with the index (section 4.3).

    Args:
        dataset: pairs, (low, high resolution).
        size_min, size_max: side of the target for the first and the last item; size_max is
            size_min when absent.
        augment: horizontal flip with probability 1/2.
        gt_resize: side that the target is then resized to.
        sample_q, sample_patch: as of `Wrapper`.
    """

    def __init__(
        self,
        dataset: Any,
        size_min: Count,
        size_max: Count | None = None,
        augment: bool = False,
        gt_resize: Count | None = None,
        sample_q: Count | None = None,
        sample_patch: bool = False,
    ) -> None:
        super().__init__(dataset, 2, sample_q, sample_patch)
        self.size_min = size_min
        self.size_max = size_min if size_max is None else size_max
        self.augment = augment
        self.gt_resize = gt_resize

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        yield from Wrapper.check_args(args)
        low, high = args["size_min"], args["size_max"]
        if high is not None and low > high:
            yield f"size_min: {low} given; allowed: at most size_max, {high}"

    def plan(self, sizes: Sequence[Size], index: int, rng: np.random.Generator) -> Plan:
        for picture, (height, width) in enumerate(sizes):
            if height != width:
                raise DataError(
                    f"{self.name(index, picture)}: {height}x{width} pixels; this wrapper takes "
                    "square pictures only"
                )
        part = index / max(1, len(self) - 1)
        side = round(self.size_min + (self.size_max - self.size_min) * part)
        sides = [side] if self.gt_resize is None else [side, self.gt_resize]
        gt = View(1, Box(0, 0, *sizes[1]), tuple((n, n) for n in sides))
        flips = Flips(horizontal=bool(rng.integers(2))) if self.augment else Flips()
        smallest = (self.gt_resize or self.size_min,) * 2
        self.check_sample_q(smallest, self.name(index, 1))
        samples = self.draw_samples(rng, gt.size, flips)
        return Plan(View(0, Box(0, 0, *sizes[0])), gt, flips, samples)


def squared(side: int | None) -> int | None:
    """Pixels of a square; None where it has no side."""
    return None if side is None else side**2


def per_axis(scale: float | tuple[float, float]) -> tuple[float, float]:
    """(rows, columns) of a scale that may be one number for both."""
    return (scale, scale) if isinstance(scale, (int, float)) else (scale[0], scale[1])


def scaled(size: Size, scale: tuple[float, float]) -> Size:
    """(height, width) times a scale, to the nearest whole pixel."""
    return round(size[0] * scale[0]), round(size[1] * scale[1])
