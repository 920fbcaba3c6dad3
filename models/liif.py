"""LIIF (Chen et al., CVPR 2021, arXiv 2012.09161): a picture as a continuous function.

The decoding function's first layer is linear in the features of a code. Its share of the features
is therefore computed once per code, as a convolution of the feature map (3x3 with feature
unfolding, 1x1 without), and per query there remain a look-up and the columns that belong to the
offset and the cell. Weights, names and results are those of the plain computation.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import isclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.decoder import decode
from models.layers import channels_last, product_dtype
from models.lookup import nearest_pixels, neighbours
from models.mlp import MLP, make_mlp
from models.models import models_registry, register
from models.protocol import Features, ImplicitModel, Target, make_encoder
from registry import SpecOf

# Look-ups of this many queries stay in a CPU's last cache; elsewhere the number bounds memory.
QUERY_CHUNK = 16384
QUERY_CHUNK_ELSEWHERE = 65536

DECODER = SpecOf(models_registry, overridden=("in_dim",))  # which is worked out


@register("liif")
class LIIF(ImplicitModel):
    """Local implicit image function.

    Args:
        encoder_spec: the encoder E.
        imnet_spec: the decoding function f, an `mlp` (its `in_dim` is worked out here). Absent:
            the encoder upsamples by itself, and a query is the nearest pixel of its output.
        local_ensemble: four codes predict each query, blended by area (section 3.2).
        feat_unfold: a code is its 3x3 neighbourhood (section 3.2).
        cell_decode: f is told the size of the pixel asked for (section 3.2).
    """

    def __init__(
        self,
        encoder_spec: Annotated[dict[str, Any], SpecOf(models_registry)],
        imnet_spec: Annotated[dict[str, Any], DECODER] | None = None,
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
    ) -> None:
        super().__init__(encoder_spec)
        self.local_ensemble = local_ensemble
        self.feat_unfold = feat_unfold
        self.cell_decode = cell_decode
        self.imnet: MLP | None = None
        if imnet_spec is not None:
            in_dim = self.channels * (9 if feat_unfold else 1) + (4 if cell_decode else 2)
            self.imnet = make_mlp(imnet_spec, in_dim=in_dim)
        # One code away where four predict, and one more that unfolding looks at.
        self.reach = 0 if self.imnet is None else int(local_ensemble) + int(feat_unfold)

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        imnet = args["imnet_spec"]
        if imnet is None:
            with torch.device("meta"):
                channels = make_encoder(args["encoder_spec"])[1]
            if channels != 3:
                yield (
                    f"imnet_spec: absent, and the encoder gives {channels} channels; allowed: an "
                    "imnet_spec, or an encoder that upsamples (no_upsampling: false)"
                )
            return
        yield from check_decoder(imnet)

    @property
    def query_chunk(self) -> int:
        return (
            QUERY_CHUNK if next(self.parameters()).device.type == "cpu" else QUERY_CHUNK_ELSEWHERE
        )

    def project(self, maps: Features, target: Target | None = None) -> Tensor:
        """The encoder's output (B, c, H, W) -> the first layer of f at every code (B, C, H, W).

        Its offset and cell columns are left out. With `imnet_spec` absent the encoder's output is
        the upsampled picture, and stays as it is.
        """
        assert isinstance(maps, Tensor)
        if self.imnet is None:
            return maps
        weight, bias, _ = self.first_layer()
        first = F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2)
        # Summed up with the offset's columns per query: in float32.
        return channels_last(first).float()

    def first_layer(self) -> tuple[Tensor, Tensor, Tensor]:
        """f's first layer as convolution weight (C, c, k, k) and bias (C,), and columns (C, 4)."""
        assert self.imnet is not None
        first = self.imnet.linears[0]
        window = 3 if self.feat_unfold else 1
        features = self.channels * window**2
        kernel = first.weight[:, :features].unflatten(1, (-1, window, window))
        return kernel, first.bias, first.weight[:, features:]

    def query_rgb(
        self,
        feat: Features,
        coord: Tensor,
        cell: Tensor | None = None,
        *,
        size: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """The picture's values at any places; cell is not needed without cell decoding."""
        assert isinstance(feat, Tensor)
        coord = coord.float()
        window = (feat.shape[-2], feat.shape[-1])
        if self.imnet is None:
            return nearest_pixels(feat, coord, size or window, origin).float()
        codes = neighbours(coord, window, size or window, origin, self.local_ensemble)
        rel_coord_cell = codes.offset
        if self.cell_decode:
            if cell is None:
                raise ValueError("cell: needed by a model with cell decoding")
            height, width = size or window
            # By numbers, not by a tensor of them: that would be a copy for which a GPU waits.
            cell = cell.float()
            rel_cell = torch.stack([cell[..., 0] * height, cell[..., 1] * width], dim=-1)
            rel_cell = rel_cell.expand_as(codes.offset)
            rel_coord_cell = torch.cat([codes.offset, rel_cell], dim=-1)
        table = feat.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, C)
        predictions = decode(
            product_dtype(self.imnet.linears[-1].weight),
            table,
            codes.row.flatten(),
            rel_coord_cell.flatten(0, 2),
            self.first_layer()[2],
            self.imnet.linears[1:],
        ).view(*codes.row.shape, -1)  # (N, B, Q, 3)
        return predictions[0] if codes.weight is None else blend(predictions, codes.weight)


def check_decoder(spec: dict[str, Any]) -> Iterator[str]:
    """What keeps a specification from being a decoding function's."""
    maker = models_registry.makers[spec["name"]]
    if not (isclass(maker) and issubclass(maker, MLP)):
        yield f"imnet_spec.name: {spec['name']!r} given; allowed: mlp"
    elif spec["args"]["out_dim"] != 3:
        yield f"imnet_spec.args.out_dim: {spec['args']['out_dim']} given; allowed: 3"


def blend(predictions: Tensor, weight: Tensor) -> Tensor:
    """The sum over N of predictions (N, B, Q, 3) times weight (N, B, Q)."""
    return (predictions * weight.unsqueeze(-1)).sum(0)
