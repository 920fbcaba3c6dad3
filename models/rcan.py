"""RCAN (Zhang et al., ECCV 2018, arXiv 1807.02758): residual groups with channel attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from models.layers import MeanShift, conv, first_layer, upsampler
from models.models import register
from registry import Above, AtLeast


class ChannelAttention(nn.Module):
    """Scales each channel by a factor computed from the means of all channels."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            conv(channels, channels // reduction, 1),
            nn.ReLU(inplace=True),
            conv(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(x.mean((2, 3), keepdim=True))


class AttentionBlock(nn.Module):
    """conv, ReLU, conv, channel attention, plus the input."""

    def __init__(self, n_feats: int, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(n_feats, n_feats),
            nn.ReLU(inplace=True),
            conv(n_feats, n_feats),
            ChannelAttention(n_feats, reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).add_(x)


class ResidualGroup(nn.Module):
    """Blocks and a closing convolution, plus the input."""

    def __init__(self, n_resblocks: int, n_feats: int, reduction: int) -> None:
        super().__init__()
        blocks = [AttentionBlock(n_feats, reduction) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, conv(n_feats, n_feats))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).add_(x)


@register("rcan")
class RCAN(nn.Module):
    """Residual channel attention network, as an encoder or with its upsampling tail.

    Args:
        n_resgroups: residual groups.
        n_resblocks: blocks per group.
        n_feats: features per pixel.
        reduction: features per hidden channel of the attention.
        scale, no_upsampling, rgb_range: see EDSR.

    Attributes:
        out_dim, upscale: see EDSR.
        halo: None: through the attention, every output pixel depends on the whole input.
    """

    halo = None

    def __init__(
        self,
        n_resgroups: Annotated[int, AtLeast(1)] = 10,
        n_resblocks: Annotated[int, AtLeast(1)] = 20,
        n_feats: Annotated[int, AtLeast(1)] = 64,
        reduction: Annotated[int, AtLeast(1)] = 16,
        scale: Literal[2, 3, 4, 8] = 2,
        no_upsampling: bool = False,
        rgb_range: Annotated[float, Above(0)] = 1,
    ) -> None:
        super().__init__()
        self.out_dim = n_feats if no_upsampling else 3
        self.upscale = 1 if no_upsampling else int(scale)
        self.sub_mean = MeanShift(rgb_range, sign=-1)
        self.add_mean = MeanShift(rgb_range, sign=1)
        self.head = nn.Sequential(conv(3, n_feats))
        groups = [ResidualGroup(n_resblocks, n_feats, reduction) for _ in range(n_resgroups)]
        self.body = nn.Sequential(*groups, conv(n_feats, n_feats))
        self.tail = (
            None if no_upsampling else nn.Sequential(upsampler(scale, n_feats), conv(n_feats, 3))
        )

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        if args["reduction"] > args["n_feats"]:
            yield f"reduction: {args['reduction']} given; allowed: at most n_feats"

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> (B, out_dim, upscale * H, upscale * W)."""
        x = first_layer(self.head, x)
        x = self.body(x).add_(x)
        return x if self.tail is None else self.tail(x)
