"""LIIF and Meta-SR written down plainly from the papers.

No care for speed or memory is taken here: features are unfolded, looked up with `grid_sample`,
concatenated with offset and cell, and each of four codes passes through the whole network. What
the package computes in other ways has to agree with this, and benchmarks compare with it. State
dicts are those of the package's models.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from utils import make_coord

CHUNK = 30000


def lookup(grid: Tensor, coord: Tensor) -> Tensor:
    """The value of grid (B, C, H, W) nearest to coord (B, Q, 2), (y, x): (B, Q, C)."""
    found = F.grid_sample(
        grid, coord.flip(-1).unsqueeze(1), mode="nearest", align_corners=False
    )  # (B, C, 1, Q)
    return found[:, :, 0].permute(0, 2, 1)


def coordinates(feat: Tensor) -> Tensor:
    """The coordinates of feat's codes, (B, 2, H, W)."""
    grid = make_coord(feat.shape[-2:], flatten=False).to(feat.device)
    return grid.permute(2, 0, 1).expand(feat.shape[0], 2, *feat.shape[-2:])


def unfold(feat: Tensor) -> Tensor:
    """Each code's 3x3 neighbourhood: (B, C, H, W) -> (B, 9C, H, W)."""
    batch, channels, height, width = feat.shape
    return F.unfold(feat, 3, padding=1).view(batch, channels * 9, height, width)


class PlainLIIF(nn.Module):
    """LIIF, every step spelled out; arguments as the package's LIIF."""

    def __init__(
        self,
        encoder_spec: dict[str, Any],
        imnet_spec: dict[str, Any] | None = None,
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
    ) -> None:
        super().__init__()
        self.local_ensemble = local_ensemble
        self.feat_unfold = feat_unfold
        self.cell_decode = cell_decode
        self.encoder = models.make(encoder_spec)
        self.imnet: nn.Module | None = None
        if imnet_spec is not None:
            width = self.encoder.out_dim * (9 if feat_unfold else 1) + 2 + 2 * cell_decode
            self.imnet = models.make(imnet_spec, args={"in_dim": width})

    def gen_feat(self, inp: Tensor) -> Tensor:
        return self.encoder(inp)

    def query_rgb(self, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        if self.imnet is None:
            return lookup(feat, coord)
        height, width = feat.shape[-2:]
        size = coord.new_tensor([height, width])
        code_coord = coordinates(feat)
        if self.feat_unfold:
            feat = unfold(feat)
        shifts = [(y, x) for y in (-1, 1) for x in (-1, 1)] if self.local_ensemble else [None]
        answers, areas = [], []
        for shift in shifts:
            place = coord.clone()
            if shift is not None:
                place[..., 0] += shift[0] / height + 1e-6
                place[..., 1] += shift[1] / width + 1e-6
            place = place.clamp(-1 + 1e-6, 1 - 1e-6)
            offset = (coord - lookup(code_coord, place)) * size
            parts = [lookup(feat, place), offset]
            if self.cell_decode:
                parts.append(cell * size)
            answers.append(self.imnet(torch.cat(parts, dim=-1)))
            areas.append(offset.prod(-1).abs() + 1e-9)
        if len(answers) == 1:
            return answers[0]
        total = torch.stack(areas).sum(0)
        rgb = torch.zeros_like(answers[0])
        for answer, area in zip(answers, reversed(areas), strict=True):
            rgb = rgb + answer * (area / total).unsqueeze(-1)
        return rgb

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        return self.query_rgb(self.gen_feat(inp), coord, cell)


class PlainMetaSR(nn.Module):
    """Meta-SR, every step spelled out."""

    def __init__(self, encoder_spec: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = models.make(encoder_spec)
        spec = {"name": "mlp", "args": {"in_dim": 3, "hidden_list": [256]}}
        self.imnet = models.make(spec, args={"out_dim": self.encoder.out_dim * 27})

    def gen_feat(self, inp: Tensor) -> Tensor:
        return self.encoder(inp)

    def query_rgb(self, feat: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        batch, channels, height, width = feat.shape
        size = coord.new_tensor([height, width])
        corner_of_code = coordinates(feat) - 1 / size.view(1, 2, 1, 1)
        corner = coord - cell / 2
        place = (corner + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6)
        offset = (corner - lookup(corner_of_code, place)) * size / 2
        inputs = torch.cat([offset, cell[..., :1] * height / 2], dim=-1)
        filters = self.imnet(inputs).view(batch, -1, 9 * channels, 3)
        return (lookup(unfold(feat), place).unsqueeze(2) @ filters).squeeze(2)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        return self.query_rgb(self.gen_feat(inp), coord, cell)


PLAIN = {"liif": PlainLIIF, "metasr": PlainMetaSR}


def plain(spec: dict[str, Any]) -> nn.Module:
    """The plain model of a specification."""
    return PLAIN[spec["name"]](**spec["args"])


def predict(model: nn.Module, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
    """A whole picture by a plain model: encode once, query in chunks; (B, Q, 3)."""
    with torch.no_grad():
        feat = model.gen_feat(inp)
        chunks = zip(coord.split(CHUNK, 1), cell.split(CHUNK, 1), strict=True)
        return torch.cat([model.query_rgb(feat, *chunk) for chunk in chunks], dim=1)
