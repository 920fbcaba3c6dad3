"""EDSR (Lim et al., CVPR workshops 2017, arXiv 1707.02921): residual blocks without batch norm."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn

from models.layers import MeanShift, conv, first_layer, tail_radius, upsampler
from models.models import register
from registry import Above, AtLeast


class ResidualBlock(nn.Module):
    """conv, ReLU, conv, times `res_scale`, plus the input."""

    def __init__(self, n_feats: int, res_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(n_feats, n_feats), nn.ReLU(inplace=True), conv(n_feats, n_feats)
        )
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        # In place, for memory: the last convolution's gradient does not need its own output.
        residual = self.body(x)
        if self.res_scale != 1:
            residual = residual.mul_(self.res_scale)
        return residual.add_(x)


@register("edsr")
class EDSR(nn.Module):
    """Enhanced deep residual network, as an encoder or with its upsampling tail.

    Args:
        n_resblocks: residual blocks.
        n_feats: features per pixel.
        res_scale: factor on the residual of each block.
        scale: upsampling factor of the tail.
        no_upsampling: no tail; the features come out.
        rgb_range: largest pixel value, for the unused mean shifts.

    Attributes:
        out_dim: channels that come out: n_feats, or 3 with the tail.
        upscale: output pixels per input pixel and axis.
        halo: radius, in input pixels, of what an output pixel depends on.
    """

    def __init__(
        self,
        n_resblocks: Annotated[int, AtLeast(1)] = 32,
        n_feats: Annotated[int, AtLeast(1)] = 256,
        res_scale: float = 0.1,
        scale: Literal[2, 3, 4, 8] = 2,
        no_upsampling: bool = False,
        rgb_range: Annotated[float, Above(0)] = 1,
    ) -> None:
        super().__init__()
        self.out_dim = n_feats if no_upsampling else 3
        self.upscale = 1 if no_upsampling else int(scale)
        self.halo = 2 + 2 * n_resblocks + (0 if no_upsampling else tail_radius(scale))
        self.sub_mean = MeanShift(rgb_range, sign=-1)
        self.add_mean = MeanShift(rgb_range, sign=1)
        self.head = nn.Sequential(conv(3, n_feats))
        blocks = [ResidualBlock(n_feats, res_scale) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, conv(n_feats, n_feats))
        self.tail = (
            None if no_upsampling else nn.Sequential(upsampler(scale, n_feats), conv(n_feats, 3))
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> (B, out_dim, upscale * H, upscale * W)."""
        x = first_layer(self.head, x)
        x = self.body(x).add_(x)
        return x if self.tail is None else self.tail(x)


@register("edsr-baseline")
def edsr_baseline(
    n_resblocks: Annotated[int, AtLeast(1)] = 16,
    n_feats: Annotated[int, AtLeast(1)] = 64,
    res_scale: float = 1,
    scale: Literal[2, 3, 4, 8] = 2,
    no_upsampling: bool = False,
    rgb_range: Annotated[float, Above(0)] = 1,
) -> EDSR:
    """The small EDSR: 16 blocks of 64 features, residuals not scaled."""
    return EDSR(n_resblocks, n_feats, res_scale, scale, no_upsampling, rgb_range)
