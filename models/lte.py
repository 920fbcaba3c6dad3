"""LTE and LTE+ (Lee and Jin, CVPR 2022, arXiv 2111.08918): a code as a local Fourier spectrum.

LIIF tells the decoding function a code and the offset from it. LTE tells it the code's amplitudes
times cosines and sines of its frequencies at that offset, which makes texture easy to say; the
phase depends on the cell. Amplitudes and frequencies are convolutions of the features, at input
resolution. A bilinear enlargement of the input is added to the result, so that only detail is left
to predict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import block_rows
from models.layers import channels_last, conv
from models.liif import DECODER, QUERY_CHUNK_ELSEWHERE, check_decoder
from models.lookup import bilinear, neighbours, relative_cell
from models.mlp import make_mlp
from models.models import models_registry, register
from models.protocol import Features, ImplicitModel, Target, maps_of
from registry import AtLeast, SpecOf

Encoder = Annotated[dict[str, Any], SpecOf(models_registry)]
Even = Annotated[int, AtLeast(2)]


class Fourier(ImplicitModel):
    """What LTE and LTE+ share; they differ in the order of frequencies and in how f is written.

    Args:
        encoder_spec: the encoder.
        hidden_dim: D, amplitudes of a code; half as many frequencies for each axis.
        interleaved: frequency k is (freq[2k], freq[2k + 1]) for (y, x), instead of
            (freq[k], freq[D/2 + k]).
    """

    may_upsample = False

    def __init__(self, encoder_spec: dict[str, Any], hidden_dim: int, interleaved: bool) -> None:
        super().__init__(encoder_spec)
        self.interleaved = interleaved
        self.coef = conv(self.channels, hidden_dim)
        self.freq = conv(self.channels, hidden_dim)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        if args["hidden_dim"] % 2:
            yield f"hidden_dim: {args['hidden_dim']} given; allowed: an even number"

    @property
    def query_chunk(self) -> int:
        on_cpu = self.phase.weight.device.type == "cpu"
        return block_rows() if on_cpu else QUERY_CHUNK_ELSEWHERE // 4

    @property
    def layers_of_f(self) -> Sequence[nn.Linear | nn.Conv2d]:
        """The layers of f, weights (out, in) or (out, in, 1, 1), a ReLU after all but the last."""
        raise NotImplementedError

    def encode(self, inp: Tensor) -> Features:
        """inp (B, 3, H, W) -> features (B, c, H, W), and inp, for the residual."""
        return self.encoded(inp), inp

    def project(self, maps: Features, target: Target | None = None) -> Features:
        """Features and input -> amplitudes and frequencies (B, 2 D, H, W), in float32, and input.

        Frequencies are those along y, then those along x, whatever their order in the weights, in
        radians per code.
        """
        feat, inp = maps_of(maps)
        coef, freq = self.coef.parameters(), self.freq.parameters()  # weight and bias of each
        weight, bias = (
            torch.cat([own, part[0::2], part[1::2]] if self.interleaved else [own, part])
            for own, part in zip(coef, freq, strict=True)
        )
        spectrum = F.conv2d(feat, weight, bias, padding=1)
        amplitudes, frequencies = channels_last(spectrum).float().chunk(2, dim=1)
        return channels_last(torch.cat([amplitudes, frequencies * math.pi], dim=1)), inp

    def query_rgb(
        self,
        feat: Features,
        coord: Tensor,
        cell: Tensor | None = None,
        *,
        size: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """The picture's values at any places; cell is needed."""
        spectrum, inp = maps_of(feat)
        coord = coord.float()
        window = (spectrum.shape[-2], spectrum.shape[-1])
        size = size or window
        codes = neighbours(coord, window, size, origin, ensemble=True)
        assert codes.weight is not None
        table = spectrum.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, 2 D)
        with torch.autocast(coord.device.type, enabled=False):
            phase = self.phase.weight.float() * math.pi
            phase = F.linear(relative_cell(cell, size), phase).flatten(0, 1)  # (B * Q, D/2)
        rgb = bilinear(inp.float(), coord, size, origin)
        for row, offset, weight in zip(codes.row, codes.offset, codes.weight, strict=True):
            z = waves(table.index_select(0, row.flatten()), offset.flatten(0, 1), phase)
            rgb = rgb + self.decode(z).float().view_as(rgb) * weight.unsqueeze(-1)
        return rgb

    def decode(self, z: Tensor) -> Tensor:
        """f on (R, D) -> (R, 3)."""
        *hidden, last = self.layers_of_f
        for layer in hidden:
            z = F.linear(z, layer.weight.flatten(1), layer.bias).relu_()
        return F.linear(z, last.weight.flatten(1), last.bias)


def waves(codes: Tensor, offset: Tensor, phase: Tensor) -> Tensor:
    """Amplitudes times cosines and sines of the frequencies at an offset, in float32.

    Args:
        codes: (R, 2 D), amplitudes, frequencies along y, and along x, in radians per code.
        offset: (R, 2), (y, x) in units of a code.
        phase: (R, D/2), in radians.

    Returns:
        (R, D).
    """
    half = phase.shape[1]
    coef, y, x = codes.split([2 * half, half, half], dim=1)
    theta = torch.addcmul(phase, y, offset[:, :1]).addcmul_(x, offset[:, 1:])
    return torch.cat([theta.cos(), theta.sin()], dim=1).mul_(coef)


@register("lte")
class LTE(Fourier):
    """Local texture estimator.

    Args:
        encoder_spec: the encoder.
        imnet_spec: the decoding function, an `mlp` (its `in_dim` is worked out here).
        hidden_dim: amplitudes of a code, an even number.
    """

    def __init__(
        self,
        encoder_spec: Encoder,
        imnet_spec: Annotated[dict[str, Any], DECODER],
        hidden_dim: Even = 256,
    ) -> None:
        super().__init__(encoder_spec, hidden_dim, interleaved=True)
        self.imnet = make_mlp(imnet_spec, in_dim=hidden_dim)

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        yield from Fourier.check_args(args)
        yield from check_decoder(args["imnet_spec"])

    @property
    def layers_of_f(self) -> Sequence[nn.Linear | nn.Conv2d]:
        return self.imnet.linears


@register("lte-fast")
class LTEFast(Fourier):
    """LTE+: f is 1x1 convolutions, and the frequencies along y and x are two halves.

    Args:
        encoder_spec: the encoder.
        num_layer: hidden layers of f.
        hidden_dim: their width, and amplitudes of a code; an even number.
        out_dim: always 3.
    """

    def __init__(
        self,
        encoder_spec: Encoder,
        num_layer: Annotated[int, AtLeast(1)] = 3,
        hidden_dim: Even = 256,
        out_dim: Literal[3] = 3,
    ) -> None:
        super().__init__(encoder_spec, hidden_dim, interleaved=False)
        steps: list[nn.Module] = []
        for _ in range(num_layer):
            steps += [conv(hidden_dim, hidden_dim, 1), nn.ReLU()]
        self.layers = nn.Sequential(*steps, conv(hidden_dim, out_dim, 1))

    @property
    def layers_of_f(self) -> Sequence[nn.Linear | nn.Conv2d]:
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]
