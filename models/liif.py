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
from torch import Tensor, nn

from models.decoder import decode
from models.layers import channels_last
from models.lookup import nearest_pixels, neighbours
from models.mlp import MLP
from models.models import make, models_registry, register
from registry import SpecOf
from utils import ConfigError

# Look-ups of this many queries stay in a CPU's last cache; elsewhere the number bounds memory.
QUERY_CHUNK = 16384
QUERY_CHUNK_ELSEWHERE = 65536

DECODER = SpecOf(models_registry, overridden=("in_dim",))  # which is worked out


def product_dtype(like: Tensor) -> torch.dtype:
    """The precision of matrix products here: autocast's where it is on, else that of `like`."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype


@register("liif")
class LIIF(nn.Module):
    """Local implicit image function.

    Args:
        encoder_spec: the encoder E.
        imnet_spec: the decoding function f, an `mlp` (its `in_dim` is worked out here). Absent:
            the encoder upsamples by itself, and a query is the nearest pixel of its output.
        local_ensemble: four codes answer each query, blended by area (section 3.2).
        feat_unfold: a code is its 3x3 neighbourhood (section 3.2).
        cell_decode: f is told the size of the pixel asked for (section 3.2).

    Attributes:
        halo: how many input pixels around a window decide its features; None: all.
        reach: how many codes beyond a query's nearest can answer it.
        upscale: rows and columns of features per row and column of input.
        query_chunk: how many queries at once are fastest, of all pictures of the batch together.
    """

    def __init__(
        self,
        encoder_spec: Annotated[dict[str, Any], SpecOf(models_registry)],
        imnet_spec: Annotated[dict[str, Any], DECODER] | None = None,
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
    ) -> None:
        super().__init__()
        self.local_ensemble = local_ensemble
        self.feat_unfold = feat_unfold
        self.cell_decode = cell_decode
        self.encoder, self.channels = make_encoder(encoder_spec)
        self.upscale: int = getattr(self.encoder, "upscale", 1)
        self.imnet: MLP | None = None
        if imnet_spec is not None:
            in_dim = self.channels * (9 if feat_unfold else 1) + (4 if cell_decode else 2)
            imnet = make(imnet_spec, args={"in_dim": in_dim})
            assert isinstance(imnet, MLP)
            self.imnet = imnet
        halo: int | None = getattr(self.encoder, "halo", None)
        unfolds = self.imnet is not None and feat_unfold
        self.halo = halo + 1 if halo is not None and unfolds else halo
        self.reach = 1 if self.imnet is not None and local_ensemble else 0

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
        maker = models_registry.makers[imnet["name"]]
        if not (isclass(maker) and issubclass(maker, MLP)):
            yield f"imnet_spec.name: {imnet['name']!r} given; allowed: mlp"
        elif imnet["args"]["out_dim"] != 3:
            yield f"imnet_spec.args.out_dim: {imnet['args']['out_dim']} given; allowed: 3"

    @property
    def query_chunk(self) -> int:
        return (
            QUERY_CHUNK if next(self.parameters()).device.type == "cpu" else QUERY_CHUNK_ELSEWHERE
        )

    def gen_feat(self, inp: Tensor) -> Tensor:
        """Everything about a picture that no query changes.

        Args:
            inp: (B, 3, H, W), normalised.

        Returns:
            (B, C, H, W): the first layer of f at every code, without its offset and cell columns;
            with `imnet_spec` absent the upsampled picture (B, 3, upscale * H, upscale * W).
        """
        return self.project(self.encoder(channels_last(inp)))

    def project(self, feat: Tensor) -> Tensor:
        """The encoder's output (B, c, H, W) -> what `gen_feat` returns; narrower to keep."""
        if self.imnet is None:
            return feat
        weight, bias, _ = self.first_layer()
        first = F.conv2d(feat, weight, bias, padding=weight.shape[-1] // 2)
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
        feat: Tensor,
        coord: Tensor,
        cell: Tensor | None = None,
        *,
        size: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """The picture's values at any places.

        Args:
            feat: (B, C, h, w) from `gen_feat`, of the whole picture or cut to a window.
            coord: (B, Q, 2), (y, x) in [-1, 1] over the whole picture.
            cell: (B, Q, 2), height and width of the pixels asked for, in the units of coord; not
                needed without cell decoding.
            size: (H, W) of the whole picture's features, where feat is a window of them.
            origin: (row, column) of the window's first code in the whole.

        Returns:
            float32 (B, Q, 3).
        """
        coord = coord.float()
        window = (feat.shape[-2], feat.shape[-1])
        if self.imnet is None:
            return nearest_pixels(feat, coord, size or window, origin).float()
        codes = neighbours(coord, window, size or window, origin, self.local_ensemble)
        columns = codes.offset
        if self.cell_decode:
            if cell is None:
                raise ValueError("cell: needed by a model with cell decoding")
            height, width = size or window
            # By numbers, not by a tensor of them: that would be a copy for which a GPU waits.
            cell = cell.float()
            relative = torch.stack([cell[..., 0] * height, cell[..., 1] * width], dim=-1)
            columns = torch.cat([columns, relative.expand_as(columns)], dim=-1)
        table = feat.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, C)
        answers = decode(
            product_dtype(self.imnet.linears[-1].weight),
            table,
            codes.row.flatten(),
            columns.flatten(0, 2),
            self.first_layer()[2],
            self.imnet.linears[1:],
        ).view(*codes.row.shape, -1)  # (N, B, Q, 3)
        return answers[0] if codes.weight is None else blend(answers, codes.weight)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        """inp (B, 3, H, W), coord and cell (B, Q, 2) -> (B, Q, 3); see gen_feat, query_rgb."""
        return self.query_rgb(self.gen_feat(inp), coord, cell)


def blend(answers: Tensor, weight: Tensor) -> Tensor:
    """The sum over N of answers (N, B, Q, 3) times weight (N, B, Q)."""
    return (answers * weight.unsqueeze(-1)).sum(0)


def make_encoder(spec: dict[str, Any]) -> tuple[nn.Module, int]:
    """An encoder, which is any registered model that says its `out_dim`, and its `out_dim`."""
    encoder = make(spec)
    channels = getattr(encoder, "out_dim", None)
    if not isinstance(channels, int):
        raise ConfigError(f"encoder_spec.name: {spec['name']!r} given; allowed: an encoder")
    return encoder, channels
