"""A photograph as a continuous function: represented once, rendered at any size, in any part."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import models
from datasets.images import read_photo
from datasets.transparency import fill_hidden
from engine.normalisation import denormalise, norm_of, norm_of_checkpoint
from engine.render.features import FeatureSource, encode_whole
from engine.render.tiling import WINDOW, Box, Grid, codes_of, render_bands
from engine.runtime import PRECISIONS, autocast, choose_device, usable_precision
from engine.weights.checkpoint import read_tensors, write_whole
from engine.weights.pretrained import load_with_spec
from utils import ConfigError, DataError

FORMAT = "liif continuous image 1"
ENCODER = "encoder."  # prefix of the weights that a representation has no use for

PathLike = str | os.PathLike[str]


class ContinuousImage:
    """A photograph as a continuous function of (y, x) on [-1, 1] x [-1, 1].

    Make one with `represent` or `load`. It holds the encoder's features, 4 bytes (2 in bf16) times
    their number per pixel, and the model that decodes them.

    Attributes:
        size: (height, width) of the photograph in pixels.
    """

    def __init__(
        self,
        model: nn.Module,
        features: Tensor,
        size: tuple[int, int],
        precision: str = "fp32",
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.size = size
        self.precision = precision
        self.spec = spec
        self._source = FeatureSource(model, features, size)

    @classmethod
    def represent(
        cls,
        photo: PathLike | np.ndarray | Tensor,
        model: PathLike | nn.Module | None = None,
        *,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        raw_weights: bool = False,
        spec: Mapping[str, Any] | None = None,
    ) -> ContinuousImage:
        """Encode a photograph.

        Args:
            photo: a file; an array (H, W) or (H, W, 3) or a tensor (3, H, W), whole numbers of 8
                or 16 bits over their range, or float in [0, 1].
            model: as `engine.weights.pretrained.load_model` takes it, or a model on its device.
            device: where to work; default: that of the model, or the best there is.
            precision: fp32, bf16 (fp32 on a CPU that has none), or on CUDA fp16.
            raw_weights: not the weights' average, where a checkpoint holds one.
            spec: {name, args} of a model that is given as a module; only `save` needs it.

        Raises:
            ConfigError, DataError: in one line, what can't be used and why.
        """
        pixels = as_pixels(photo)
        if isinstance(model, nn.Module):
            place = torch.device(device) if device else next(model.parameters()).device
            module = model.to(place).eval()
        else:
            place = torch.device(device) if device else choose_device()
            module, spec = load_with_spec(model, place, raw_weights)
        precision = usable_precision(place, precision)
        features = encode_whole(module, pixels, place, precision)
        return cls(module, features, (pixels.shape[0], pixels.shape[1]), precision, spec)

    def render(self, height: int, width: int, box: Box | None = None) -> Tensor:
        """The photograph, or a part of it, in any number of pixels.

        Args:
            height, width: of the result.
            box: (top, left, bottom, right) in pixels of the photograph, fractions allowed.

        Returns:
            float32 (3, height, width) in [0, 1], on the CPU.

        Raises:
            ConfigError: no pixels, or a box that is empty or not inside the photograph.
        """
        grid = Grid(self.size, height, width, box)
        bands = [*render_bands(self._source, grid, np.float32, self.precision)]
        return torch.from_numpy(np.concatenate(bands)).permute(2, 0, 1).contiguous()

    @torch.inference_mode()
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
        asked = torch.tensor(cell or (2 / self.size[0], 2 / self.size[1]))
        colours = torch.empty(len(coord), 3)
        # From top to bottom, so that a few rows of codes answer one chunk after the other.
        with autocast(self._source.device, self.precision):
            for part in split_by_rows(self.size, coord):
                colours[part] = self._query(coord[part], asked)
        return colours.view(*places[0].shape, 3)

    def _query(self, coord: Tensor, cell: Tensor) -> Tensor:
        """Colours in [0, 1] at coord (Q, 2), not too far apart in y: (Q, 3)."""
        source = self._source
        size = (source.features.shape[-2], source.features.shape[-1])
        low, high = coord.amin(0).tolist(), coord.amax(0).tolist()
        rows, columns = (
            codes_of(size[axis], low[axis], high[axis], float(cell[axis])) for axis in (0, 1)
        )
        feat = source.window(rows, columns)
        query_rgb = cast(Callable[..., Tensor], self.model.query_rgb)
        parts = []
        for part in coord.to(source.device).split(cast(int, self.model.query_chunk)):
            cells = cell.to(part).expand_as(part)
            origin = rows[0], columns[0]
            parts.append(query_rgb(feat, part[None], cells[None], size=size, origin=origin)[0])
        return denormalise(torch.cat(parts), norm_of(self.model).gt).cpu()

    def save(self, path: PathLike) -> None:
        """Write the representation: features, and the weights that decode them.

        Raises:
            ConfigError: the model came as a module, without its specification.
            DataError: the file can't be written.
        """
        if self.spec is None:
            raise ConfigError("spec: needed to save what a model given as a module represents")
        state = self.model.state_dict()
        content = {
            "format": FORMAT,
            "model": {"name": self.spec["name"], "args": self.spec["args"]},
            "sd": {key: value.cpu() for key, value in state.items() if not of_encoder(key)},
            "features": self._source.features.cpu(),
            "size": list(self.size),
            "precision": self.precision,
            "config": {"data_norm": dataclasses.asdict(norm_of(self.model))},
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_whole(Path(path), buffer.getbuffer())

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str | None = None) -> ContinuousImage:
        """Read what `save` wrote; it renders the same pixels. Nothing in the file can run.

        Raises:
            DataError: not readable, damaged, or something else.
        """
        path = Path(path)
        content = read_tensors(path)
        problem = layout_problem(content)
        if problem:
            raise DataError(f"{path}: no represented photograph ({problem})")
        try:
            model = models.make(content["model"])
            model.data_norm = norm_of_checkpoint(content)  # type: ignore[assignment]
        except (ConfigError, ValueError) as error:
            raise DataError(f"{path}: {' '.join(str(error).split())}") from error
        own = {key: value for key, value in model.state_dict().items() if not of_encoder(key)}
        given, features = content["sd"], content["features"]
        height, width = content["size"]
        fits = own.keys() == given.keys() and all(own[k].shape == given[k].shape for k in own)
        upscale = cast(int, model.upscale)
        expected = (1, cast(nn.Module, model.encoder).out_dim, height * upscale, width * upscale)
        if not fits or tuple(features.shape) != expected:
            raise DataError(f"{path}: damaged (weights or features do not fit the model)")
        model.load_state_dict(given, strict=False)
        place = torch.device(device) if device else choose_device()
        precision = usable_precision(place, content["precision"])
        size = (height, width)
        module = model.to(place).eval()
        return cls(module, features.to(place), size, precision, content["model"])


def of_encoder(key: str) -> bool:
    return key.startswith(ENCODER)


def layout_problem(content: Any) -> str | None:
    """What keeps a value read from a file from being a representation, if anything."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return f"its format is not {FORMAT!r}"
    spec, state, size = (content.get(key) for key in ("model", "sd", "size"))
    if not isinstance(spec, dict) or not isinstance(spec.get("args"), dict):
        return "it has no model specification"
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        return "it has no weights"
    if (
        not isinstance(content.get("features"), Tensor)
        or content.get("precision") not in PRECISIONS
    ):
        return "it has no features"
    if not isinstance(size, list) or [type(length) for length in size] != [int, int]:
        return "it has no size"
    return None


def split_by_rows(size: tuple[int, int], coord: Tensor) -> Iterator[Tensor]:
    """Indices of coord (Q, 2) in groups, each within few enough rows of codes for one window."""
    height, width = size
    rows = max(1, WINDOW // width)
    group = ((coord[:, 0] + 1) * (height / 2 / rows)).long()
    order = group.argsort(stable=True)
    counts = torch.unique_consecutive(group[order], return_counts=True)[1]
    yield from order.split(counts.tolist())


def as_pixels(photo: PathLike | np.ndarray | Tensor) -> np.ndarray:
    """A photograph as `ContinuousImage.represent` takes it, as (H, W, 1 to 4) with its own type."""
    if isinstance(photo, (str, os.PathLike)):
        photo = read_photo(photo).pixels
    if isinstance(photo, Tensor):
        if photo.dim() != 3:
            raise ConfigError(f"photo: a tensor of shape {tuple(photo.shape)}; allowed: (3, H, W)")
        photo = photo.detach().cpu().permute(1, 2, 0).numpy()
    pixels = photo[..., None] if photo.ndim == 2 else photo
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or 0 in pixels.shape:
        raise ConfigError(f"photo: of shape {photo.shape}; allowed: (H, W, 1 to 4)")
    if pixels.dtype not in (np.uint8, np.uint16) and pixels.dtype.kind != "f":
        raise ConfigError(f"photo: {pixels.dtype}; allowed: uint8, uint16, or float in [0, 1]")
    if pixels.dtype.kind == "f" and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ConfigError("photo: float values outside [0, 1] given; allowed: 0 to 1")
    return fill_hidden(pixels)
