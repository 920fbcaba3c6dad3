"""Where the features of a window come from: encoded on demand, or kept for the whole photograph."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import DataNorm
from engine.normalisation import PAPER, norm_of, normalise
from engine.render.tiling import Source, Span, cuts, pixels_around
from engine.runtime import autocast, say
from models.layers import channels_last


class PixelSource(Source):
    """Codes of windows, encoded from the photograph when they are asked for.

    pixels: (H, W, 1 to 4), uint8, uint16, or float in [0, 1]; alpha is left out.
    model: one whose features depend on a limited neighbourhood.
    """

    def __init__(self, model: nn.Module, pixels: np.ndarray, device: torch.device) -> None:
        assert model.halo is not None, "features that depend on the whole picture"
        halo = cast(int, cast(nn.Module, model.encoder).halo)
        super().__init__(model, (pixels.shape[0], pixels.shape[1]), device, halo)
        self.pixels = pixels

    def codes(self, rows: Span, columns: Span) -> Tensor:
        top, bottom = pixels_around(self, 0, rows)
        left, right = pixels_around(self, 1, columns)
        feat = encode(self.model, self.pixels[top:bottom, left:right], self.device)
        first_row, first_column = top * self.upscale, left * self.upscale
        return feat[
            ...,
            rows[0] - first_row : rows[1] - first_row,
            columns[0] - first_column : columns[1] - first_column,
        ]


class FeatureSource(Source):
    """Codes of windows, from the encoder's output for the whole photograph.

    features: (1, c, upscale * H, upscale * W).
    size: (H, W) of the photograph.
    """

    def __init__(self, model: nn.Module, features: Tensor, size: tuple[int, int]) -> None:
        super().__init__(model, size, features.device, margin=0)
        self.features = features

    def codes(self, rows: Span, columns: Span) -> Tensor:
        return self.features[..., slice(*rows), slice(*columns)]


def to_network(pixels: np.ndarray, norm: DataNorm = PAPER) -> Tensor:
    """Pixels (h, w, 1 to 4), as PixelSource takes them, as the network does: (1, 3, h, w)."""
    colours = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., [0, 0, 0]]
    whole = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    values = torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1), np.float32))
    return normalise(values.div_(whole).unsqueeze(0), norm.inp, 1)


def encode(model: nn.Module, pixels: np.ndarray, device: torch.device) -> Tensor:
    """The encoder's output for pixels (h, w, 1 to 4), at once."""
    inp = to_network(pixels, norm_of(model)).to(device)
    return cast(nn.Module, model.encoder)(channels_last(inp))


@torch.inference_mode()
def encode_whole(
    model: nn.Module, pixels: np.ndarray, device: torch.device, precision: str
) -> Tensor:
    """The encoder's output for a photograph, (1, c, upscale * H, upscale * W).

    Window by window into the result; at once where features depend on the whole picture.
    """
    with autocast(device, precision):
        if model.halo is None:
            return encode(model, pixels, device)
        source = PixelSource(model, pixels, device)
        height, width = (length * source.upscale for length in source.size)
        side = max(512, 2 * source.margin) * source.upscale
        features: Tensor | None = None
        for rows in cuts(height, -(-height // side)):
            for columns in cuts(width, -(-width // side)):
                part = source.codes(rows, columns)
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
