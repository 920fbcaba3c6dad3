"""LTE, LTE+, SRNO, CiaoSR and LM-LIIF written down plainly from their formulas; see `oracle`."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from tests.oracle import coordinates, lookup, unfold


def neighbours(feat: Tensor, coord: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """LIIF's four: for each the shifted, clamped place, the offset and the weight (B, Q, 1)."""
    height, width = feat.shape[-2:]
    size = coord.new_tensor([height, width])
    found, areas = [], []
    for y in (-1, 1):
        for x in (-1, 1):
            place = coord + coord.new_tensor([y / height + 1e-6, x / width + 1e-6])
            place = place.clamp(-1 + 1e-6, 1 - 1e-6)
            offset = (coord - lookup(coordinates(feat), place)) * size
            found.append((place, offset))
            areas.append(offset.prod(-1, keepdim=True).abs() + 1e-9)
    total = torch.stack(areas).sum(0)
    return [(*each, area / total) for each, area in zip(found, reversed(areas), strict=True)]


def residual(inp: Tensor, coord: Tensor) -> Tensor:
    """Bilinear interpolation of the normalised input, border repeated: (B, Q, 3)."""
    found = F.grid_sample(
        inp,
        coord.flip(-1).unsqueeze(1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return found[:, :, 0].permute(0, 2, 1)


class Plain(nn.Module):
    """A model that keeps, between `gen_feat` and `query_rgb`, the input beside the features."""

    def gen_feat(self, inp: Tensor) -> tuple[Tensor, ...]:
        return self.encoder(inp), inp

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        return self.query_rgb(self.gen_feat(inp), coord, cell)


class PlainLTE(Plain):
    """LTE, with an MLP and interleaved frequencies, or LTE+, with convolutions and halved ones."""

    def __init__(
        self,
        encoder_spec: dict[str, Any],
        imnet_spec: dict[str, Any] | None = None,
        hidden_dim: int = 256,
        num_layer: int = 3,
        out_dim: int = 3,
    ) -> None:
        super().__init__()
        self.encoder = models.make(encoder_spec)
        channels = self.encoder.out_dim
        self.coef = nn.Conv2d(channels, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(channels, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.interleaved = imnet_spec is not None
        if imnet_spec is not None:
            self.imnet = models.make(imnet_spec, args={"in_dim": hidden_dim})
        else:
            steps: list[nn.Module] = []
            for _ in range(num_layer):
                steps += [nn.Conv2d(hidden_dim, hidden_dim, 1), nn.ReLU()]
            self.layers = nn.Sequential(*steps, nn.Conv2d(hidden_dim, out_dim, 1))

    def decode(self, z: Tensor) -> Tensor:
        if self.interleaved:
            return self.imnet(z)
        return self.layers(z.permute(0, 2, 1).unsqueeze(2))[:, :, 0].permute(0, 2, 1)

    def query_rgb(self, kept: tuple[Tensor, ...], coord: Tensor, cell: Tensor) -> Tensor:
        feat, inp = kept
        coef, freq = self.coef(feat), self.freq(feat)
        rel_cell = cell * cell.new_tensor(feat.shape[-2:])
        rgb = residual(inp, coord)
        for place, offset, weight in neighbours(feat, coord):
            f = lookup(freq, place)
            half = f.shape[-1] // 2
            pairs = (
                f.unflatten(-1, (half, 2))
                if self.interleaved
                else (f.unflatten(-1, (2, half)).transpose(-1, -2))
            )  # (B, Q, D/2, 2)
            theta = (pairs * offset.unsqueeze(-2)).sum(-1) + self.phase(rel_cell)
            waves = torch.cat([(math.pi * theta).cos(), (math.pi * theta).sin()], dim=-1)
            rgb = rgb + self.decode(lookup(coef, place) * waves) * weight
        return rgb


class HeadNorm(nn.Module):
    """(u - mean) / (std + 1e-5), std with n - 1, times weight plus bias, over a head's numbers."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, dim))
        self.bias = nn.Parameter(torch.zeros(heads, 1, dim))

    def forward(self, u: Tensor) -> Tensor:
        centred = u - u.mean(-1, keepdim=True)
        return centred / (u.std(-1, keepdim=True) + 1e-5) * self.weight + self.bias


class PlainAttention(nn.Module):
    """SRNO's Galerkin attention: k^T v averaged over all queries, no softmax."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, dim = heads, width // heads
        self.qkv_proj = nn.Conv2d(width, 3 * width, 1)
        self.o_proj1, self.o_proj2 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.kln, self.vln = HeadNorm(heads, dim), HeadNorm(heads, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, 1, Q) -> (B, width, 1, Q)."""
        batch, width, _, queries = x.shape
        qkv = self.qkv_proj(x).view(batch, self.heads, -1, queries).transpose(-1, -2)
        q, k, v = qkv.chunk(3, dim=-1)  # (B, heads, Q, d)
        mean = self.kln(k).transpose(-1, -2) @ self.vln(v) / queries
        r = (q @ mean).transpose(-1, -2).reshape(batch, width, 1, queries) + x
        return self.o_proj2(F.gelu(self.o_proj1(r))) + x


class PlainSRNO(Plain):
    """SRNO over the set of queries it is asked."""

    def __init__(self, encoder_spec: dict[str, Any], width: int = 256, blocks: int = 16) -> None:
        super().__init__()
        self.encoder = models.make(encoder_spec)
        self.conv00 = nn.Conv2d(266, width, 1)
        self.conv0, self.conv1 = PlainAttention(width, blocks), PlainAttention(width, blocks)
        self.fc1, self.fc2 = nn.Conv2d(width, 256, 1), nn.Conv2d(256, 3, 1)

    def query_rgb(self, kept: tuple[Tensor, ...], coord: Tensor, cell: Tensor) -> Tensor:
        feat, inp = kept
        found = neighbours(feat, coord)
        parts = [offset for _, offset, _ in found]
        parts += [lookup(feat, place) * weight for place, _, weight in found]
        parts.append(cell * cell.new_tensor(feat.shape[-2:]))
        x = self.conv00(torch.cat(parts, dim=-1).permute(0, 2, 1).unsqueeze(2))
        x = self.conv1(self.conv0(x))
        x = self.fc2(F.gelu(self.fc1(x)))
        return x[:, :, 0].permute(0, 2, 1) + residual(inp, coord)


class PlainCrossScale(nn.Module):
    """CiaoSR's attention across scales: every code looks for its like in the shrunk picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv_match_1 = nn.Sequential(nn.Conv2d(channels, half, 1), nn.PReLU())
        self.conv_match_2 = nn.Sequential(nn.Conv2d(channels, half, 1), nn.PReLU())
        self.conv_assembly = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.PReLU())
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.register_buffer("escape_NaN", torch.tensor([1e-4]))

    def forward(self, feat: Tensor) -> Tensor:
        height, width = feat.shape[-2:]
        feat = F.pad(feat, (0, width % 2, 0, height % 2), mode="reflect")
        small = F.interpolate(feat, scale_factor=0.5, mode="bilinear", align_corners=False)
        e, m, r = self.conv_assembly(feat), self.conv_match_1(feat), self.conv_match_2(small)
        results = []
        for one in range(len(feat)):
            patches = F.unfold(e[one : one + 1], 6, stride=2, padding=2)[0].t()
            patches = patches.view(-1, e.shape[1], 6, 6)
            keys = F.unfold(r[one : one + 1], 3, padding=1)[0].t().view(-1, r.shape[1], 3, 3)
            norm = keys.flatten(1).norm(dim=1).clamp(min=self.escape_NaN.item())
            scores = F.conv2d(m[one : one + 1], keys / norm.view(-1, 1, 1, 1), padding=1)
            mixed = F.conv_transpose2d((10 * scores).softmax(1), patches, stride=2, padding=2)
            results.append(self.down(mixed) / 6)
        return torch.cat(results)[..., :height, :width]


class PlainCiaoSR(Plain):
    """CiaoSR: four neighbours weighted by attention instead of area."""

    def __init__(self, encoder_spec: dict[str, Any], imnet_spec: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = models.make(encoder_spec)
        c = self.encoder.out_dim
        self.imnet_k = models.make(imnet_spec, args={"in_dim": 9 * c + 4, "out_dim": 9 * c})
        self.imnet_v = models.make(imnet_spec, args={"in_dim": 10 * c + 4, "out_dim": 10 * c})
        self.imnet_q = models.make(imnet_spec, args={"in_dim": 10 * c, "out_dim": 3})
        self.cs_attn = PlainCrossScale(c)

    def gen_feat(self, inp: Tensor) -> tuple[Tensor, ...]:
        feat = self.encoder(inp)
        return feat, self.cs_attn(feat), inp

    def query_rgb(self, kept: tuple[Tensor, ...], coord: Tensor, cell: Tensor) -> Tensor:
        feat, other, inp = kept
        height, width = feat.shape[-2:]
        key = unfold(feat)
        value = torch.cat([key, other], dim=1)
        own = lookup(key, coord)
        size = coord.new_tensor([height, width])
        rel_cell = cell * size
        shift = (1 - cell[:, :1]) / (size - 1)  # (B, 1, 2): of the picture's first query
        scores, values = [], []
        for y in (-1, 1):
            for x in (-1, 1):
                place = coord + coord.new_tensor([y, x]) * shift + 1e-6
                place = place.clamp(-1 + 1e-6, 1 - 1e-6)
                offset = (coord - lookup(coordinates(feat), place)) * size
                k, v = lookup(key, place), lookup(value, place)
                k = k * self.imnet_k(torch.cat([k, offset, rel_cell], dim=-1))
                v = v * self.imnet_v(torch.cat([v, offset, rel_cell], dim=-1))
                scores.append((own * k).sum(-1))
                values.append(v)
        weights = torch.stack(scores).softmax(0).unsqueeze(-1)
        return self.imnet_q((weights * torch.stack(values)).sum(0)) + residual(inp, coord)


class PlainLMLIIF(Plain):
    """LM-LIIF: one hypernet answer per code modulates a tiny decoder."""

    def __init__(
        self,
        encoder_spec: dict[str, Any],
        imnet_spec: dict[str, Any],
        hypernet_spec: dict[str, Any],
        **flags: Any,
    ) -> None:
        super().__init__()
        self.encoder = models.make(encoder_spec)
        self.width = imnet_spec["args"]["hidden_dim"]
        self.depth = imnet_spec["args"]["hidden_depth"]
        out = self.width * (2 * self.depth + 1)
        sizes = {"in_dim": 9 * self.encoder.out_dim + 2, "out_dim": out}
        self.hypernet = models.make(hypernet_spec, args=sizes)
        steps: list[nn.Module] = [nn.Linear(self.width + 4, self.width), nn.ReLU()]
        for _ in range(self.depth - 1):
            steps += [nn.Linear(self.width, self.width), nn.ReLU()]
        self.imnet = nn.Module()
        self.imnet.layers = nn.Sequential(*steps, nn.Linear(self.width, 3))

    def query_rgb(self, kept: tuple[Tensor, ...], coord: Tensor, cell: Tensor) -> Tensor:
        feat, _ = kept
        size = coord.new_tensor(feat.shape[-2:])
        rel_cell = cell * size
        first = rel_cell[:, 0, :, None, None].expand(-1, -1, *feat.shape[-2:])
        codes = torch.cat([unfold(feat), first], dim=1).permute(0, 2, 3, 1)
        modulation = self.hypernet(codes).permute(0, 3, 1, 2)
        m, depth, linears = self.width, self.depth, self.imnet.layers[::2]
        rgb = coord.new_zeros(*coord.shape[:2], 3)
        for place, offset, weight in neighbours(feat, coord):
            mod = lookup(modulation, place)
            z = torch.cat([mod[..., 2 * m * depth :], offset, rel_cell], dim=-1)
            for layer in range(depth):
                scale = mod[..., m * layer : m * (layer + 1)]
                shift = mod[..., m * (depth + layer) : m * (depth + layer + 1)]
                z = ((1 + scale) * linears[layer](z) + shift).relu()
            rgb = rgb + linears[depth](z) * weight
        return rgb


PLAIN = {
    "lte": PlainLTE,
    "lte-fast": PlainLTE,
    "sronet": PlainSRNO,
    "ciaosr": PlainCiaoSR,
    "lmliif": PlainLMLIIF,
}


def plain(spec: dict[str, Any]) -> nn.Module:
    """The plain model of a specification."""
    return PLAIN[spec["name"]](**spec["args"])
