"""SRNO (Wei and Zhang, CVPR 2023, arXiv 2303.16513): a picture by a neural operator.

The four codes around a query, weighted by area, are concatenated and pass through two layers of
Galerkin attention: instead of a softmax over pairs of queries, keys and values are averaged into
one small matrix M per head, the same for all queries of the picture.

M is a mean over the set of queries that is asked. So a single point has no answer of its own: its
colour depends on what else is asked with it. `model(inp, coord, cell)` takes coord as the set.
Where a photograph is rendered, M is that of the whole photograph at the scale asked for, also when
a box, a tile or a single place of it is asked for: these then have the colours that they have in
the whole (`ContinuousImage.represent`, `statistic`, has other choices). It is accumulated over all
pixels of the output, twice (`ImplicitModel.passes`), before the first colour.

Of more than 4 million pixels it is a mean over every n-th row or column (`Grid.even`). Of weights
drawn at random, a part of a photograph enlarged 20 times to 2400x2400 pixels, every third row
changed M by 5e-4 of its largest number and colours by up to 1e-3; 15 times to that size, where it
takes every seventh row, by 4e-3 and 1e-2. The M of a box of 100x100 alone changed colours there by
0.45 and 0.28.

What is used here, exact up to rounding:

- `conv00` is linear in the features, so its four blocks become tables, at input resolution.
- With M known, q, M and o_proj1 are one matrix per picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import block_rows
from models.layers import conv
from models.liif import QUERY_CHUNK_ELSEWHERE
from models.lookup import bilinear, neighbours, relative_cell
from models.models import models_registry, register
from models.protocol import Features, ImplicitModel, Target, make_encoder, maps_of
from registry import AtLeast, SpecOf

CHANNELS = 64  # of the encoder: fixed in the published model
OFFSETS = 8  # four codes' (y, x)


class HeadNorm(nn.Module):
    """Normalises the d numbers of each head: (u - mean) / (std + 1e-5) * weight + bias.

    std has d - 1 degrees of freedom and the epsilon beside it, unlike `torch.nn.LayerNorm`. The
    layer applies it, in parts.
    """

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, dim))
        self.bias = nn.Parameter(torch.zeros(heads, 1, dim))


class GalerkinAttention(nn.Module):
    """A layer of the operator: attention by a mean over all queries, and an MLP, with residuals."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = conv(width, 3 * width, 1)
        self.o_proj1 = conv(width, width, 1)
        self.o_proj2 = conv(width, width, 1)
        self.kln = HeadNorm(heads, width // heads)
        self.vln = HeadNorm(heads, width // heads)

    def projection(self) -> tuple[Tensor, Tensor]:
        """Weight (heads, 3, d, width) and bias (heads, 3, d) of q, k and v, in float32."""
        weight, bias = self.qkv_proj.weight.float().flatten(1), self.qkv_proj.bias
        assert bias is not None
        shape = self.heads, 3, weight.shape[1] // self.heads
        return weight.unflatten(0, shape), bias.float().view(shape)

    def key_value_sum(self, x: Tensor) -> Tensor:
        """The sum of k^T v over queries: x (B, Q, width) -> float32 (B, heads, d, d)."""
        # That each head's numbers have mean 0 is up to the weights: only std is left to divide by.
        weight, bias = (
            part[:, 1:] - part[:, 1:].mean(2, keepdim=True) for part in self.projection()
        )
        weight = weight.flatten(0, 2).expand(len(x), -1, -1)  # (B, heads * 2 * d, width)
        kv = torch.baddbmm(bias.reshape(1, -1, 1), weight, x.transpose(1, 2)).float()
        with torch.autocast(x.device.type, enabled=False):
            kv = kv.unflatten(1, (self.heads, 2, -1))  # (B, heads, 2, d, Q)
            variance = kv.square().sum(3, keepdim=True) / (kv.shape[3] - 1)
            kv = kv * (variance.sqrt() + 1e-5).reciprocal()
            k, v = kv.unbind(2)  # (B, heads, d, Q)
            k_sum, v_sum = kv.sum(-1).unbind(2)  # (B, heads, d)
            # Weights and biases of the norms, applied to the sum instead of to every query.
            k_weight, k_bias = self.kln.weight.transpose(1, 2), self.kln.bias.transpose(1, 2)
            total = (k @ v.transpose(2, 3)) * (k_weight * self.vln.weight)
            total = total + (k_sum.unsqueeze(3) * k_weight) * self.vln.bias
            v_sum = v_sum.unsqueeze(2) * self.vln.weight + x.shape[1] * self.vln.bias
            return total + k_bias * v_sum

    def folded(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """q, M and o_proj1 as one matrix of x for each picture.

        Args:
            mean: M, (B, heads, d, d).

        Returns:
            float32 matrix (B, width, width), to multiply x by from the right, and constant
            (B, 1, width).
        """
        with torch.autocast(mean.device.type, enabled=False):
            weight, bias = (part[:, 0] for part in self.projection())  # of q
            mixed = mean.transpose(-1, -2)  # (B, heads, d, d)
            from_x = (mixed @ weight).flatten(1, 2)  # (B, width, width)
            from_x = from_x + torch.eye(from_x.shape[1], device=mean.device)
            constant = (mixed @ bias.unsqueeze(-1)).flatten(1)  # (B, width)
            first = self.o_proj1.weight.float().flatten(1)
            constant = F.linear(constant, first, self.o_proj1.bias).unsqueeze(1)
            return (first @ from_x).transpose(1, 2), constant

    def forward(self, x: Tensor, matrix: Tensor, constant: Tensor) -> Tensor:
        """x (B, Q, width), and of `folded` what M makes of it -> (B, Q, width)."""
        out = F.gelu(torch.baddbmm(constant, x, matrix))
        return F.linear(out, self.o_proj2.weight.flatten(1), self.o_proj2.bias) + x


@register("sronet")
class SRNO(ImplicitModel):
    """Super-resolution neural operator; see the module for what its answers depend on.

    Args:
        encoder_spec: an encoder of 64 channels.
        width: numbers per query.
        blocks: attention heads, which divide width. There are always two layers.
    """

    passes = 2
    may_upsample = False

    def __init__(
        self,
        encoder_spec: Annotated[dict[str, Any], SpecOf(models_registry)],
        width: Annotated[int, AtLeast(2)] = 256,
        blocks: Annotated[int, AtLeast(1)] = 16,
    ) -> None:
        super().__init__(encoder_spec)
        self.conv00 = conv(OFFSETS + 4 * CHANNELS + 2, width, 1)
        self.conv0 = GalerkinAttention(width, blocks)
        self.conv1 = GalerkinAttention(width, blocks)
        self.fc1 = conv(width, 256, 1)
        self.fc2 = conv(256, 3, 1)

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        if args["width"] % args["blocks"] or args["width"] == args["blocks"]:
            yield (
                f"blocks: {args['blocks']} given; allowed: a number that divides width, "
                f"{args['width']}, at least twice"
            )
        with torch.device("meta"):
            channels = make_encoder(args["encoder_spec"])[1]
        if channels != CHANNELS:
            yield f"encoder_spec: gives {channels} channels; allowed: {CHANNELS}"

    @property
    def query_chunk(self) -> int:
        on_cpu = self.fc1.weight.device.type == "cpu"
        return block_rows() if on_cpu else QUERY_CHUNK_ELSEWHERE

    def encode(self, inp: Tensor) -> Features:
        """inp (B, 3, H, W) -> features (B, 64, H, W), and inp, for the residual."""
        return self.encoded(inp), inp

    @property
    def operators(self) -> tuple[GalerkinAttention, GalerkinAttention]:
        return self.conv0, self.conv1

    def project(self, maps: Features, target: Target | None = None) -> Features:
        """Features and input -> `conv00` of four codes (B, 4 width, H, W), and input.

        Then, of each layer whose M is known, matrix and constant.
        """
        feat, inp = maps_of(maps)
        weight = self.conv00.weight[:, OFFSETS : OFFSETS + 4 * CHANNELS].flatten(1)
        weight = weight.unflatten(1, (4, CHANNELS)).transpose(0, 1).flatten(0, 1)
        table = F.linear(feat.permute(0, 2, 3, 1), weight).float().permute(0, 3, 1, 2)
        means = () if target is None else target.means
        known = (layer.folded(mean) for layer, mean in zip(self.operators, means, strict=False))
        return table, inp, *(part for pair in known for part in pair)

    def lift(
        self,
        feat: Features,
        coord: Tensor,
        cell: Tensor | None,
        size: tuple[int, int],
        origin: tuple[int, int],
    ) -> Tensor:
        """`conv00` at each query: float32 (B, Q, width)."""
        table = maps_of(feat)[0]
        batch, queries = coord.shape[:2]
        codes = neighbours(coord, (table.shape[-2], table.shape[-1]), size, origin, ensemble=True)
        assert codes.weight is not None
        # Rows of the four tables in turn: (B * h * w * 4, width).
        rows = table.permute(0, 2, 3, 1).reshape(-1, self.conv00.out_channels)
        with torch.autocast(coord.device.type, enabled=False):
            weight = self.conv00.weight.float().flatten(1)
            offsets = codes.offset.permute(1, 2, 0, 3).flatten(2)  # (B, Q, 8)
            columns = torch.cat([offsets, relative_cell(cell, size)], dim=-1)
            weight = torch.cat([weight[:, :OFFSETS], weight[:, -2:]], dim=1)
            x = F.linear(columns, weight, self.conv00.bias)
            for number in range(4):
                row = (codes.row[number] * 4 + number).flatten()
                code = rows.index_select(0, row).view(batch, queries, -1)
                x = torch.addcmul(x, code, codes.weight[number].unsqueeze(-1))
        return x

    def accumulate(
        self,
        feat: Features,
        coord: Tensor,
        cell: Tensor | None = None,
        *,
        size: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """The sum of k^T v of the first layer whose M is not known: float32 (B, heads, d, d)."""
        table, _, *known = maps_of(feat)
        x = self.lift(feat, coord.float(), cell, size or (table.shape[-2], table.shape[-1]), origin)
        if known:
            x = self.conv0(x, *known)
        return self.operators[len(known) // 2].key_value_sum(x)

    def query_rgb(
        self,
        feat: Features,
        coord: Tensor,
        cell: Tensor | None = None,
        *,
        size: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """The picture's values at any places; cell is needed.

        Of features without M, as `gen_feat` gives them, these queries are the set.
        """
        table, inp, *known = maps_of(feat)
        coord = coord.float()
        size = size or (table.shape[-2], table.shape[-1])
        x = self.lift(feat, coord, cell, size, origin)
        for number, layer in enumerate(self.operators):
            pair = known[2 * number : 2 * number + 2]
            x = layer(x, *(pair or layer.folded(layer.key_value_sum(x) / coord.shape[1])))
        x = F.gelu(F.linear(x, self.fc1.weight.flatten(1), self.fc1.bias))
        rgb = F.linear(x, self.fc2.weight.flatten(1), self.fc2.bias).float()
        return rgb + bilinear(inp.float(), coord, size, origin)
