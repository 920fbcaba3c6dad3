"""Where the features of a window come from: encoded on demand, or kept for the whole photograph."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import DataNorm
from engine.normalisation import PAPER, norm_of, normalise
from engine.runtime import autocast, say
from engine.tiling import Source, Span, cuts, pixels_around
from models.layers import channels_last


class PixelSource:
    """Features of windows, encoded from the photograph when they are asked for.

    pixels: (H, W, 1 to 4), uint8, uint16, or float in [0, 1]; alpha is left out.
    model: one whose features depend on a limited neighbourhood.
    """

    def __init__(self, model: nn.Module, pixels: np.ndarray, device: torch.device) -> None:
        assert model.halo is not None, "features that depend on the whole picture"
        self.model = model
        self.device = device
        self.pixels = pixels
        self.size = (pixels.shape[0], pixels.shape[1])
        self.upscale = cast(int, model.upscale)
        self.margin = cast(int, model.halo)

    def window(self, rows: Span, columns: Span) -> Tensor:
        return self.encoded(rows, columns, cast(Callable[[Tensor], Tensor], self.model.gen_feat))

    def encoded(self, rows: Span, columns: Span, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Codes of these rows and columns as `encode` makes them of input pixels."""
        top, bottom = pixels_around(self, 0, rows)
        left, right = pixels_around(self, 1, columns)
        pixels = to_network(self.pixels[top:bottom, left:right], norm_of(self.model))
        feat = encode(pixels.to(self.device))
        return cut_out(feat, rows, columns, (top * self.upscale, left * self.upscale))


class FeatureSource:
    """Features of windows, from the encoder's output for the whole photograph.

    features: (1, c, upscale * H, upscale * W).
    size: (H, W) of the photograph.
    """

    margin = 1  # what feature unfolding looks at around a code

    def __init__(self, model: nn.Module, features: Tensor, size: tuple[int, int]) -> None:
        self.model = model
        self.device = features.device
        self.features = features
        self.size = size
        self.upscale = cast(int, model.upscale)

    def window(self, rows: Span, columns: Span) -> Tensor:
        height, width = self.features.shape[-2:]
        top, bottom = max(0, rows[0] - 1), min(height, rows[1] + 1)
        left, right = max(0, columns[0] - 1), min(width, columns[1] + 1)
        project = cast(Callable[[Tensor], Tensor], self.model.project)
        feat = project(channels_last(self.features[..., top:bottom, left:right]))
        return cut_out(feat, rows, columns, (top, left))


def cut_out(feat: Tensor, rows: Span, columns: Span, origin: tuple[int, int]) -> Tensor:
    """Rows and columns of all codes out of a window (1, C, h, w) whose first code is `origin`."""
    part = feat[
        ...,
        rows[0] - origin[0] : rows[1] - origin[0],
        columns[0] - origin[1] : columns[1] - origin[1],
    ]
    # Here rather than in every chunk of queries, which look codes up as rows of a table.
    return channels_last(part)


def to_network(pixels: np.ndarray, norm: DataNorm = PAPER) -> Tensor:
    """Pixels (h, w, 1 to 4), as PixelSource takes them, as the network does: (1, 3, h, w)."""
    colours = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., [0, 0, 0]]
    whole = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    values = torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1), np.float32))
    return normalise(values.div_(whole).unsqueeze(0), norm.inp, 1)


@torch.inference_mode()
def encode_whole(
    model: nn.Module, pixels: np.ndarray, device: torch.device, precision: str
) -> Tensor:
    """The encoder's output for a photograph, (1, c, upscale * H, upscale * W).

    Window by window into the result; at once where features depend on the whole picture.
    """
    encoder = cast(Callable[[Tensor], Tensor], model.encoder)
    with autocast(device, precision):
        if model.halo is None:
            return encoder(channels_last(to_network(pixels, norm_of(model)).to(device)))
        source = PixelSource(model, pixels, device)
        height, width = (length * source.upscale for length in source.size)
        side = max(512, 2 * source.margin) * source.upscale
        features: Tensor | None = None
        for rows in cuts(height, -(-height // side)):
            for columns in cuts(width, -(-width // side)):
                part = source.encoded(rows, columns, lambda x: encoder(channels_last(x)))
                if features is None:
                    shape = (1, part.shape[1], height, width)
                    features = torch.empty(shape, dtype=part.dtype, device=device)
                    features = channels_last(features)
                features[..., slice(*rows), slice(*columns)] = part
    assert features is not None
    return features


def make_source(
    model: nn.Module, pixels: np.ndarray, device: torch.device, precision: str
) -> Source:
    """The source for rendering a photograph once: in windows where the model allows it."""
    if model.halo is not None:
        return PixelSource(model, pixels, device)
    say("this model's features depend on the whole picture (global pooling): encoded in one piece")
    features = encode_whole(model, pixels, device, precision)
    return FeatureSource(model, features, (pixels.shape[0], pixels.shape[1]))
