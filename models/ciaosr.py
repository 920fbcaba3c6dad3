"""CiaoSR (Cao et al., CVPR 2023, arXiv 2212.04362): attention in place of the area weights.

The four codes around a query are weighted by a softmax of how well each fits the query's own code,
keys and values being changed by networks that see the offset and the cell. Beside its 3x3
neighbourhood, a code's value holds what the code looks like at another place of the picture, at
half the size (cross-scale attention): every code is compared with every other.

Implemented from a description of the formulas; published weights are for non-commercial use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import block_rows, decode
from models.layers import channels_last, conv, product_dtype
from models.liif import DECODER, QUERY_CHUNK_ELSEWHERE, check_decoder
from models.lookup import bilinear, nearest_rows, neighbours, relative_cell
from models.mlp import make_mlp
from models.models import models_registry, register
from models.protocol import Features, ImplicitModel, Target, maps_of
from registry import SpecOf
from utils import DataError

SCALE = 2  # of the other places' pictures
SHARPNESS = 10.0  # of the softmax over them
SCORES_AT_ONCE = 1 << 24  # bounds memory: scores are quadratic in pixels


class CrossScaleAttention(nn.Module):
    """For every code, a mixture of 6x6 patches of the features, by likeness at half the size.

    Args:
        channels: C of the features.
    """

    escape_NaN: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_match_1 = nn.Sequential(conv(channels, channels // 2, 1), nn.PReLU())
        self.conv_match_2 = nn.Sequential(conv(channels, channels // 2, 1), nn.PReLU())
        self.conv_assembly = nn.Sequential(conv(channels, channels, 1), nn.PReLU())
        self.down = nn.Conv2d(channels, channels, 3, stride=SCALE, padding=1)
        self.register_buffer("escape_NaN", torch.tensor([1e-4]))

    def forward(self, feat: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), at least 2x2."""
        height, width = feat.shape[-2:]
        feat = F.pad(feat, (0, width % SCALE, 0, height % SCALE), mode="reflect")
        small = F.interpolate(feat, scale_factor=1 / SCALE, mode="bilinear", align_corners=False)
        patches = F.unfold(self.conv_assembly(feat), 6, stride=SCALE, padding=2)  # (B, 36 C, L)
        keys = F.unfold(self.conv_match_2(small), 3, padding=1)  # (B, 9 C/2, L)
        keys = keys / keys.float().norm(dim=1, keepdim=True).clamp(min=self.escape_NaN).to(keys)
        queries = F.pad(self.conv_match_1(feat), (1, 1, 1, 1))
        pictures = [self.assemble(*one) for one in zip(queries, keys, patches, strict=True)]
        mixed = torch.stack(pictures)
        return (self.down(mixed) / 6)[..., :height, :width]

    def assemble(self, queries: Tensor, keys: Tensor, patches: Tensor) -> Tensor:
        """One picture's patches, mixed for each code and added up where they overlap.

        Args:
            queries: (C/2, h + 2, w + 2), padded.
            keys: (9 C/2, L), patches: (36 C, L).

        Returns:
            (C, 2 h, 2 w).
        """
        height, width = queries.shape[1] - 2, queries.shape[2] - 2
        channels = patches.shape[0] // 36
        step = max(1, SCORES_AT_ONCE // (width * keys.shape[1]))
        mixed = patches.new_zeros(channels, SCALE * height + 4, SCALE * width + 4)
        for top in range(0, height, step):
            rows = queries[:, top : top + step + 2]
            near = F.unfold(rows[None], 3)[0]  # (9 C/2, n w)
            scores = (SHARPNESS * (near.t() @ keys)).float().softmax(dim=1)  # (n w, L)
            parts = patches @ scores.to(patches.dtype).t()  # (36 C, n w)
            size = (SCALE * (rows.shape[1] - 2) + 4, SCALE * width + 4)
            folded = F.fold(parts[None], size, 6, stride=SCALE)[0]
            place = slice(SCALE * top, SCALE * top + size[0])
            mixed[:, place] = mixed[:, place] + folded
        return mixed[:, 2:-2, 2:-2]


@register("ciaosr")
class CiaoSR(ImplicitModel):
    """Continuous implicit attention-in-attention network.

    Args:
        encoder_spec: the encoder (`swinir` with `tail: false`).
        imnet_spec: an `mlp` with `out_dim` 3, whose hidden layers all three networks have.

    Attributes:
        halo: None: the cross-scale attention compares each code with all others.
    """

    may_upsample = False

    def __init__(
        self,
        encoder_spec: Annotated[dict[str, Any], SpecOf(models_registry)],
        imnet_spec: Annotated[dict[str, Any], DECODER],
    ) -> None:
        super().__init__(encoder_spec)
        self.halo, self.window = None, 0  # its published figures are of pictures as they are
        key, value = 9 * self.channels, 10 * self.channels
        self.imnet_k = make_mlp(imnet_spec, in_dim=key + 4, out_dim=key)
        self.imnet_v = make_mlp(imnet_spec, in_dim=value + 4, out_dim=value)
        self.imnet_q = make_mlp(imnet_spec, in_dim=value, out_dim=3)
        self.cs_attn = CrossScaleAttention(self.channels)

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        yield from check_decoder(args["imnet_spec"])

    @property
    def query_chunk(self) -> int:
        on_cpu = self.cs_attn.down.weight.device.type == "cpu"
        return block_rows() if on_cpu else QUERY_CHUNK_ELSEWHERE // 4

    def encode(self, inp: Tensor) -> Features:
        """inp (B, 3, H, W) -> features and cross-scale features (B, C, H, W), and inp.

        Raises:
            DataError: a side of one code, which has no neighbour.
        """
        feat = self.encoded(inp)
        if min(feat.shape[-2:]) < 2:
            height, width = inp.shape[-2:]
            raise DataError(f"a picture of {height}x{width} pixels; ciaosr takes 2x2 and more")
        return feat, self.cs_attn(feat), inp

    def project(self, maps: Features, target: Target | None = None) -> Features:
        """-> values (B, 10 C, H, W), the first layers of imnet_k and imnet_v at them, and inp."""
        feat, other, inp = maps_of(maps)
        batch, channels, height, width = feat.shape
        near = F.unfold(feat, 3, padding=1).view(batch, 9 * channels, height, width)
        tables = []
        for imnet in (self.imnet_k, self.imnet_v):
            first = imnet.linears[0]
            kernel = first.weight[:, : 9 * channels].unflatten(1, (channels, 3, 3))
            table = F.conv2d(feat, kernel, first.bias, padding=1)
            if imnet is self.imnet_v:
                rest = first.weight[:, 9 * channels : 10 * channels, None, None]
                table = table + F.conv2d(other, rest)
            tables.append(channels_last(table).float())
        return channels_last(torch.cat([near, other], dim=1)), *tables, inp

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

        How far away the four codes are looked up depends on the cell of the picture's first query.
        """
        value, key_table, value_table, inp = maps_of(feat)
        coord = coord.float()
        window = (value.shape[-2], value.shape[-1])
        size = size or window
        rel_cell = relative_cell(cell, size)  # (B, Q, 2)
        assert cell is not None
        first = cell[:, :1].float()
        shift = tuple((1 - first[..., axis]) / (size[axis] - 1) for axis in (0, 1))
        codes = neighbours(coord, window, size, origin, ensemble=True, shift=shift)
        rows = codes.row.flatten()
        rel_coord_cell = torch.cat([codes.offset, rel_cell.expand_as(codes.offset)], dim=-1)
        values = value.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, 10 C)
        changed = []
        for imnet, table in ((self.imnet_k, key_table), (self.imnet_v, value_table)):
            linears = imnet.linears
            changed.append(
                decode(
                    product_dtype(linears[-1].weight),
                    table.permute(0, 2, 3, 1).flatten(0, 2),
                    rows,
                    rel_coord_cell.flatten(0, 2),
                    linears[0].weight[:, -4:],
                    linears[1:],
                ).unflatten(0, (4, -1))
            )  # (4, B * Q, 9 C) and (4, B * Q, 10 C)
        keys = 9 * self.channels
        row, inside = nearest_rows(coord, window, size, origin)
        own = values.index_select(0, row.flatten())[:, :keys] * inside.view(-1, 1)
        found = values.index_select(0, rows).unflatten(0, (4, -1)).float()  # (4, B * Q, 10 C)
        scores = (found[..., :keys] * changed[0] * own.float()).sum(-1)  # (4, B * Q)
        weight = scores.softmax(dim=0).unsqueeze(-1)
        mixed = (found * changed[1] * weight).sum(0)
        rgb = self.imnet_q(mixed).float().view(*coord.shape[:2], 3)
        return rgb + bilinear(inp.float(), coord, size, origin)
