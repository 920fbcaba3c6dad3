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
from models.layers import channels_last, conv
from models.liif import QUERY_CHUNK_ELSEWHERE
from models.lookup import bilinear, neighbours, relative_cell
from models.models import models_registry, register
from models.protocol import Features, ImplicitModel, Target, make_encoder, maps_of
from registry import AtLeast, SpecOf

CHANNELS = 64  # of the encoder: fixed in the published model
OFFSETS = 8  # four codes' (y, x)


class HeadNorm(nn.Module):
    """Normalises the d numbers of each head: (u - mean) / (std + 1e-5) * weight + bias.

    std has d - 1 degrees of freedom and the epsilon beside it, unlike `torch.nn.LayerNorm`.
    """

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, dim))
        self.bias = nn.Parameter(torch.zeros(heads, 1, dim))

    def forward(self, u: Tensor) -> Tensor:
        """(B, heads, Q, d) -> (B, heads, Q, d)."""
        std, mean = torch.std_mean(u, dim=-1, keepdim=True)
        return torch.addcmul(self.bias, (u - mean) / (std + 1e-5), self.weight)


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

    def projection(self, part: slice) -> tuple[Tensor, Tensor]:
        """Weight (n width, width) and bias of some of q, k and v, which alternate in each head."""
        weight, bias = self.qkv_proj.weight.flatten(1), self.qkv_proj.bias
        assert bias is not None
        width = weight.shape[1]
        rows = weight.view(self.heads, 3, -1, width)[:, part].flatten(0, 2)
        return rows, bias.view(self.heads, 3, -1)[:, part].flatten()

    def key_value_sum(self, x: Tensor) -> Tensor:
        """The sum of k^T v over queries: x (B, Q, width) -> float32 (B, heads, d, d)."""
        kv = F.linear(x, *self.projection(slice(1, 3))).float()
        k, v = kv.unflatten(-1, (self.heads, 2, -1)).permute(3, 0, 2, 1, 4)  # (B, heads, Q, d)
        with torch.autocast(x.device.type, enabled=False):
            return self.kln(k).transpose(-1, -2) @ self.vln(v)

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        """x (B, Q, width), M (B, heads, d, d) -> (B, Q, width)."""
        batch, heads, dim, _ = mean.shape
        weight, bias = self.projection(slice(0, 1))
        with torch.autocast(x.device.type, enabled=False):
            # q M for every head, as rows of one matrix from x: (B, width, width) and (B, width).
            mixed = mean.transpose(-1, -2)  # (B, heads, d, d)
            from_x = mixed @ weight.float().view(heads, dim, -1)
            constant = (mixed @ bias.float().view(heads, dim, 1)).view(batch, -1)
            from_x = from_x.view(batch, heads * dim, -1) + torch.eye(heads * dim, device=x.device)
            first = self.o_proj1.weight.float().flatten(1)
            folded = first @ from_x
            constant = F.linear(constant, first, self.o_proj1.bias)
        out = F.gelu(torch.baddbmm(constant.unsqueeze(1), x, folded.transpose(1, 2)))
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
        return self.encoder(channels_last(inp)), inp

    def project(self, maps: Features, target: Target | None = None) -> Features:
        """Features and input -> `conv00` of four codes (B, 4 width, H, W), input, Ms known."""
        feat, inp = maps_of(maps)
        weight = self.conv00.weight[:, OFFSETS : OFFSETS + 4 * CHANNELS]
        weight = weight.unflatten(1, (4, CHANNELS)).transpose(0, 1).flatten(0, 1)
        table = channels_last(F.conv2d(feat, weight)).float()
        return table, inp, *(() if target is None else target.means)

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
        table, _, *means = maps_of(feat)
        x = self.lift(feat, coord.float(), cell, size or (table.shape[-2], table.shape[-1]), origin)
        layers = (self.conv0, self.conv1)
        for layer, mean in zip(layers, means, strict=False):
            x = layer(x, mean)
        return layers[len(means)].key_value_sum(x)

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
        table, inp, *means = maps_of(feat)
        coord = coord.float()
        size = size or (table.shape[-2], table.shape[-1])
        x = self.lift(feat, coord, cell, size, origin)
        for number, layer in enumerate((self.conv0, self.conv1)):
            known = number < len(means)
            mean = means[number] if known else layer.key_value_sum(x) / coord.shape[1]
            x = layer(x, mean)
        x = F.gelu(F.linear(x, self.fc1.weight.flatten(1), self.fc1.bias))
        rgb = F.linear(x, self.fc2.weight.flatten(1), self.fc2.bias).float()
        return rgb + bilinear(inp.float(), coord, size, origin)
