"""RDN (Zhang et al., CVPR 2018, arXiv 1802.08797): densely connected residual blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from models.layers import conv, first_layer, shuffle_factors, tail_radius
from models.models import register
from registry import AtLeast

# Blocks, convolutions per block, growth.
SIZES = {"A": (20, 6, 32), "B": (16, 8, 64)}


class DenseLayer(nn.Module):
    """Appends `growth` channels, made from all channels so far, to the input."""

    def __init__(self, in_channels: int, growth: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(in_channels, growth, kernel_size), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(x)), 1)


class ResidualDenseBlock(nn.Module):
    """Dense layers, a 1x1 convolution back to the first width, plus the input."""

    def __init__(self, channels: int, growth: int, layers: int, kernel_size: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(DenseLayer(channels + i * growth, growth, kernel_size) for i in range(layers))
        )
        self.LFF = conv(channels + layers * growth, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.LFF(self.convs(x)).add_(x)


@register("rdn")
class RDN(nn.Module):
    """Residual dense network, as an encoder or with its upsampling net.

    Args:
        G0: features per pixel.
        RDNkSize: kernel size (odd) of all convolutions but the 1x1 fusions.
        RDNconfig: "A": 20 blocks of 6 convolutions, growth 32; "B": 16 of 8, growth 64.
        scale: upsampling factor of the upsampling net.
        no_upsampling: no upsampling net; the features come out.

    Attributes:
        out_dim, upscale, halo: see EDSR.
    """

    def __init__(
        self,
        G0: Annotated[int, AtLeast(1)] = 64,
        RDNkSize: Annotated[int, AtLeast(1)] = 3,
        RDNconfig: Literal["A", "B"] = "B",
        scale: Literal[2, 3, 4] = 2,
        no_upsampling: bool = False,
    ) -> None:
        super().__init__()
        blocks, layers, growth = SIZES[RDNconfig]
        self.out_dim = G0 if no_upsampling else 3
        self.upscale = 1 if no_upsampling else int(scale)
        radius = RDNkSize // 2
        self.halo = radius * (3 + blocks * layers + (0 if no_upsampling else tail_radius(scale)))
        self.SFENet1 = conv(3, G0, RDNkSize)
        self.SFENet2 = conv(G0, G0, RDNkSize)
        self.RDBs = nn.ModuleList(
            ResidualDenseBlock(G0, growth, layers, RDNkSize) for _ in range(blocks)
        )
        self.GFF = nn.Sequential(conv(blocks * G0, G0, 1), conv(G0, G0, RDNkSize))
        self.UPNet = None if no_upsampling else upsampling_net(G0, growth, RDNkSize, scale)

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        if args["RDNkSize"] % 2 == 0:
            yield f"RDNkSize: {args['RDNkSize']} given; allowed: an odd integer"

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> (B, out_dim, upscale * H, upscale * W)."""
        shallow = first_layer(self.SFENet1, x)
        x = self.SFENet2(shallow)
        outputs = []
        for block in self.RDBs:
            x = block(x)
            outputs.append(x)
        x = self.GFF(torch.cat(outputs, 1)).add_(shallow)
        return x if self.UPNet is None else self.UPNet(x)


def upsampling_net(channels: int, growth: int, kernel_size: int, scale: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, 3, scale * H, scale * W); its width is the growth."""
    steps: list[nn.Module] = []
    for factor in shuffle_factors(scale):
        steps += [conv(channels, growth * factor**2, kernel_size), nn.PixelShuffle(factor)]
        channels = growth
    return nn.Sequential(*steps, conv(growth, 3, kernel_size))
