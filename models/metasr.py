"""Meta-SR (Hu et al., CVPR 2019, arXiv 1903.00875), the paper's baseline.

A small network predicts, per query, the weights of a 3x3 filter on the features. It is linear in
its last hidden layer, so the filter is applied the other way round: each code's features meet all
hidden units' filters once, in a convolution, and a query only weighs the results by its hidden
units. Exact up to rounding, and as cheap at any scale as at scale 1.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers import channels_last
from models.lookup import MARGIN, SHIFT, nearest_index
from models.mlp import MLP
from models.models import models_registry, register
from models.protocol import Features, ImplicitModel, Target
from registry import SpecOf

HIDDEN = 256


@register("metasr")
class MetaSR(ImplicitModel):
    """Encoder and a filter predicted per query.

    Args:
        encoder_spec: the encoder.
    """

    def __init__(self, encoder_spec: Annotated[dict[str, Any], SpecOf(models_registry)]) -> None:
        super().__init__(encoder_spec)
        self.imnet = MLP(3, self.channels * 9 * 3, [HIDDEN])

    @property
    def query_chunk(self) -> int:
        return 4096

    def project(self, maps: Features, target: Target | None = None) -> Tensor:
        """The encoder's output (B, c, H, W) -> (B, 3 * (HIDDEN + 1), H, W).

        Per code and colour, what each hidden unit's filter makes of the code's neighbourhood, and
        last what the bias filter makes.
        """
        assert isinstance(maps, Tensor)
        last = self.imnet.linears[1]
        # (c * 9 * 3, HIDDEN + 1) -> (3, HIDDEN + 1, c, 3, 3)
        filters = torch.cat([last.weight, last.bias[:, None]], dim=1)
        filters = filters.view(-1, 3, 3, 3, HIDDEN + 1).permute(3, 4, 0, 1, 2)
        return channels_last(F.conv2d(maps, filters.flatten(0, 1), padding=1))

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
        assert isinstance(feat, Tensor)
        if cell is None:
            raise ValueError("cell: needed by Meta-SR")
        batch, channels, height, width = feat.shape
        lengths = size or (height, width)
        # Codes and queries count from the corner of their cells.
        corner = coord.float() - cell.float() / 2  # (B, Q, 2)
        inside = (corner + SHIFT).clamp(-1 + MARGIN, 1 - MARGIN)
        indices, offsets = [], []
        for axis, length in enumerate(lengths):
            index = nearest_index(inside[..., axis], length)
            offsets.append((corner[..., axis] - (-1 + 2 / length * index)) * (length / 2))
            indices.append(index.long() - origin[axis])
        scale = cell[..., 0].float() * (lengths[0] / 2)
        image = torch.arange(batch, device=feat.device).view(batch, 1) * (height * width)
        index = image + indices[0] * width + indices[1]
        with torch.autocast(feat.device.type, enabled=False):
            first = self.imnet.linears[0]
            inputs = torch.stack([*offsets, scale], dim=-1).flatten(0, 1)
            hidden = F.linear(inputs, first.weight.float(), first.bias.float()).relu()
            hidden = F.pad(hidden, (0, 1), value=1.0)  # (B * Q, HIDDEN + 1); 1 meets the bias
            table = feat.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, channels)
            filtered = table.index_select(0, index.flatten()).view(-1, 3, channels // 3).float()
            if torch.is_grad_enabled():
                rgb = torch.bmm(filtered, hidden.unsqueeze(-1))
            else:  # faster, in memory that is there
                rgb = filtered.mul_(hidden.unsqueeze(1)).sum(-1)
        return rgb.view(batch, -1, 3)
