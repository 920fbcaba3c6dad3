"""A photograph as a continuous function, and the only way from a photograph to pixels."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.images import Photo
from engine.config import DataNorm
from engine.normalisation import denormalise, norm_of
from engine.render import saved
from engine.render.features import Source, Statistic
from engine.render.photo import checked_grid, enlarge, preview, written_from
from engine.render.pixels import (
    PathLike,
    Photograph,
    Report,
    as_photo,
    extended,
    mirrored,
    to_pixels,
)
from engine.render.tiling import Box, Grid, Plan, make_plan
from engine.runtime import choose_device, usable_precision
from engine.weights.pretrained import load_with_spec
from models.protocol import Features, each_map, implicit
from utils import ConfigError


class ContinuousImage:
    """A photograph as a continuous function of (y, x) on [-1, 1] x [-1, 1].

    Make one with `represent` or `load`. Where features are kept, it holds 4 bytes (2 in bf16)
    times their number per pixel; else the photograph, windows of which are encoded when they are
    asked for.

    Attributes:
        size: (height, width) of the photograph in pixels.
        photo: its pixels, and what else its file holds; None where `load` made this.
    """

    def __init__(
        self,
        model: nn.Module,
        size: tuple[int, int],
        device: torch.device,
        photo: Photo | None = None,
        features: Features | None = None,
        precision: str = "fp32",
        spec: Mapping[str, Any] | None = None,
        data_norm: DataNorm | None = None,
        eval_bsize: int | None = None,
        cell_max_scale: float | None = None,
        window: int | None = None,
        statistic: Statistic = "picture",
        cache_bytes: int | None = None,
    ) -> None:
        self.model = implicit(model).to(device).eval()
        self.size = size
        self.photo = photo
        self.precision = usable_precision(device, precision)
        self.spec = spec
        self.norm = data_norm or norm_of(model)
        self.statistic = statistic
        if features is not None:
            features = each_map(features, lambda one: one.to(device))
        self.cell_max_scale = cell_max_scale
        self.window = self.model.window if window is None else window
        # Of the picture that is encoded, to which all coordinates and cells below refer.
        self._size = extended(size[0], self.window), extended(size[1], self.window)
        pixels = None if photo is None else mirrored(photo.pixels, self._size)
        self._source = Source(
            *(self.model, self._size, device, self.precision, self.norm, pixels, features),
            shown=size,
            query_chunk=min(self.model.query_chunk, eval_bsize or self.model.query_chunk),
            cell_max_scale=cell_max_scale,
            statistic=statistic,
            cache_bytes=cache_bytes,
        )

    @classmethod
    def represent(
        cls,
        photo: Photograph,
        model: PathLike | nn.Module | None = None,
        *,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        raw_weights: bool = False,
        spec: Mapping[str, Any] | None = None,
        keep_features: bool = True,
        data_norm: DataNorm | None = None,
        eval_bsize: int | None = None,
        cell_max_scale: float | None = None,
        window: int | None = None,
        statistic: Statistic = "picture",
        cache_bytes: int | None = None,
    ) -> ContinuousImage:
        """Represent a photograph by what a model makes of it.

        Args:
            photo: a file; a `PIL.Image`; an array (H, W) or (H, W, 3) or a tensor (3, H, W),
                whole numbers of 8 or 16 bits over their range, or float in [0, 1].
            model: as `engine.weights.pretrained.load_model` takes it, or a model.
            device: where to work; default: that of the model, or the best there is.
            precision: fp32, bf16 (fp32 on a CPU that has none), or on CUDA fp16.
            raw_weights: the weights as trained, not their EMA, where a checkpoint holds one.
            spec: {name, args} of a model that is given as a module; only `save` needs it.
            keep_features: encode the whole photograph once, now, for any number of renderings. If
                not, each rendering encodes what it shows, in bounded memory. Models whose features
                depend on the whole photograph always keep them.
            data_norm: instead of the normalisation that the model was trained with.
            eval_bsize: the most queries at once; default: what the model likes best.
            cell_max_scale: the model is never told of a smaller cell than that of this
                enlargement, by each axis: 4, the largest of training, in the tests of LTE, SRNO
                and LM-LIIF; default: no limit.
            window: instead of the model's own (`ImplicitModel.window`); 0 for none.
            statistic: over which pixels a model (SRNO) takes the means that its colours depend
                on. "picture": all pixels of the whole photograph at the scale asked for, also
                where a box or single places are asked for, so that these have the colours of the
                whole; an even selection where that is more than 4 million pixels (see
                `models.sronet` for the error). They are worked out once per scale and kept.
                "asked": the pixels asked for. A number: each strip of so many rows by itself.
            cache_bytes: with `keep_features=False`, how many bytes of features of the parts that
                were rendered last stay in memory, for later renderings nearby; default: none.

        Raises:
            ConfigError, DataError: in one line, what can't be used and why.
        """
        given = as_photo(photo)
        if isinstance(model, nn.Module):
            place = torch.device(device) if device else next(model.parameters()).device
            module = model
        else:
            place = torch.device(device) if device else choose_device()
            module, spec = load_with_spec(model, place, raw_weights)
        size = given.pixels.shape[0], given.pixels.shape[1]
        how = precision, spec, data_norm, eval_bsize, cell_max_scale, window, statistic
        image = cls(module, size, place, given, None, *how, cache_bytes)
        if keep_features or image.model.halo is None:
            image.keep()
        return image

    def keep(self, box: Box | None = None) -> None:
        """Encode what a box shows now, once for all renderings inside it that enlarge.

        box: (top, left, bottom, right) in pixels of the photograph; None for all of it. All of it
            is also what means over the photograph need.
        """
        if self.model.passes and self.statistic == "picture":
            box = None
        top, left, bottom, right = Grid(self.size, 1, 1, box).area
        spans = zip((0, 1), self._size, ((top, bottom), (left, right)), strict=True)
        rows, columns = (
            self._source.layout.window(axis, 2 * low / n - 1, 2 * high / n - 1, 2 / n)
            for axis, n, (low, high) in spans
        )
        self._source.keep(rows, columns)

    def without_ensemble(self) -> ContinuousImage:
        """The same photograph, each query answered by its nearest code alone.

        Features that are kept are shared. For models with a `local_ensemble` to switch off.
        """
        other = copy.copy(self)
        other.model = copy.copy(self.model)
        other.model.local_ensemble = False  # type: ignore[assignment]
        other._source = copy.copy(self._source)
        other._source.model = other.model
        other._source.pictures = {}  # whose means are those of the ensemble
        return other

    def render(self, height: int, width: int, box: Box | None = None, clamp: bool = True) -> Tensor:
        """The photograph, or a part of it, in any number of pixels.

        Fewer pixels than the photograph's are samples of it, not averages as in `render_to`.

        Args:
            height, width: of the result.
            box: (top, left, bottom, right) in pixels of the photograph, fractions allowed.
            clamp: to [0, 1]; a model's colours may lie outside.

        Returns:
            float32 (3, height, width) in [0, 1], on the CPU.

        Raises:
            ConfigError: no whole numbers from 1 on; a box that is empty or not inside the picture.
        """
        grid = Grid(self.size, height, width, box)
        picture, top = torch.empty(3, height, width), 0
        for band in self.bands(grid, clamp=clamp):
            picture[:, top : top + len(band)] = torch.from_numpy(band).permute(2, 0, 1)
            top += len(band)
        return picture

    def render_to(
        self,
        path: PathLike,
        height: int | None = None,
        width: int | None = None,
        box: Box | None = None,
        *,
        scale: float | tuple[float, float] | None = None,
    ) -> tuple[int, int]:
        """Write the photograph, or a part of it, as a picture file, in bounded memory.

        Grey, alpha, 16 bits, profile, resolution, EXIF, XMP and comments are kept, where the
        photograph came with them. What has fewer pixels than the photograph is reduced by
        bicubic, which averages.

        Args:
            path: ends in .png, .tif, .tiff, .jpg, .jpeg or .webp.
            height, width, box: as for `render`.
            scale: instead of height and width, the enlargement, or (of rows, of columns).

        Returns:
            (height, width) of the picture written.

        Raises:
            ConfigError: as `render`, and unless either a scale or a height and a width are given.
            DataError: the file can't be written.
        """
        grid = checked_grid(self.size, height, width, scale, box)
        photo, image = written_from(self.photo, self, grid)
        enlarge(photo, Path(path), grid, image)
        return grid.height, grid.width

    def view(self, browser: bool = True) -> str:
        """Look into the photograph in the browser; `demo.py --view` without the command line.

        Args:
            browser: open the page.

        Returns:
            The page's address on this machine, served until the program ends.

        Raises:
            ConfigError: made by `load`, without the photograph.
        """
        from engine.render.viewer_server import start_page  # which imports this module

        return start_page(self, browser)

    def _repr_png_(self) -> bytes | None:
        return preview(self.photo, self, self.size)

    def __repr__(self) -> str:
        name = self.spec["name"] if self.spec else type(self.model).__name__
        place = f"{self.precision} on {self._source.device}"
        return f"<ContinuousImage of {self.size[0]}x{self.size[1]} pixels by {name}, {place}>"

    def bands(
        self,
        grid: Grid,
        dtype: np.dtype | type = np.float32,
        report: Report | None = None,
        *,
        clamp: bool = True,
    ) -> Iterator[np.ndarray]:
        """The pixels of a grid as bands of rows (n, width, 3), from top to bottom.

        Args:
            grid: over this photograph.
            dtype: float32 for [0, 1]; uint8 or uint16 for their whole range, rounded.
            report: called with the number of pixels done since the last call.
            clamp: see `render`; whole numbers are always clamped.
        """
        assert grid.size == self.size
        grid = grid.within(self._size)
        parts: Iterable[Grid] = [grid]
        if self.model.passes and isinstance(self.statistic, int):
            parts = grid.strips(self.statistic)
        for part in parts:
            yield from self._bands(part, np.dtype(dtype), report, clamp)

    def _bands(
        self, grid: Grid, dtype: np.dtype, report: Report | None, clamp: bool
    ) -> Iterator[np.ndarray]:
        """`bands` of pixels that have their means in common."""
        plan = make_plan(self._source.layout, grid, 3 * dtype.itemsize)
        count = grid.height * grid.width
        target = self._source.target(grid.cell, count, lambda: self._source.tiles(grid, plan))
        for band in plan.bands:
            pixels = np.empty((band[1] - band[0], grid.width, 3), dtype)
            for tile in self._source.tiles(grid, Plan((band,), plan.tiles)):
                for (rows, columns), values in self._source.ask(tile, target):
                    colours = denormalise(values, self.norm.gt, clamp)
                    part = pixels[rows[0] - band[0] : rows[1] - band[0], slice(*columns)]
                    part[:] = to_pixels(colours, dtype).reshape(part.shape)
                    if report is not None:
                        report(colours.shape[1])
            yield pixels

    def image(
        self,
        y: np.ndarray | Tensor | float,
        x: np.ndarray | Tensor | float,
        cell: tuple[float, float] | None = None,
    ) -> Tensor:
        """Colours at any places.

        Args:
            y, x: in [-1, 1], of shapes that broadcast against each other.
            cell: (height, width) of the pixels asked for, in the same units; default: those of
                the photograph's own, (2 / H, 2 / W).

        Returns:
            float32 (..., 3) in [0, 1], on the CPU, of the shape that y and x broadcast to.

        Raises:
            ConfigError: a place outside.
        """
        places = torch.broadcast_tensors(*(torch.as_tensor(axis).float() for axis in (y, x)))
        coord = torch.stack(places, dim=-1).view(-1, 2)
        if not bool((coord.abs() <= 1).all()):
            raise ConfigError("y, x: places outside the picture given; allowed: -1 to 1")
        share = torch.tensor(self.size) / torch.tensor(self._size)
        coord = (coord + 1) * share - 1 if self.window else coord
        cell = cell or (2 / self.size[0], 2 / self.size[1])
        cell = cell[0] * share[0].item(), cell[1] * share[1].item()
        tiles = functools.partial(self._source.tiles_at, coord, cell)
        target = self._source.target(cell, len(coord), tiles)
        colours = torch.empty(len(coord), 3)
        for tile in tiles():
            for index, values in self._source.ask(tile, target):
                colours[index] = denormalise(values[0], self.norm.gt).cpu()
        return colours.view(*places[0].shape, 3)

    def save(self, path: PathLike) -> None:
        """Write the representation: features, and the weights that decode them.

        Raises:
            ConfigError: the model came as a module, without its specification.
            DataError: the file can't be written.
        """
        if self.spec is None:
            raise ConfigError("spec: needed to save what a model given as a module represents")
        features = self._source.keep()
        what = self.spec, self.model, features, self.size, self.precision, self.norm, self.window
        saved.write(Path(path), *what)

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str | None = None) -> ContinuousImage:
        """Read what `save` wrote; it renders the same pixels. Nothing in the file can run.

        Raises:
            DataError: not readable, damaged, or something else.
        """
        place = torch.device(device) if device else choose_device()
        return cls(device=place, **saved.read(Path(path)))
