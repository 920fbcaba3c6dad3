"""SwinIR (Liang et al., ICCV workshops 2021, arXiv 2108.10257): attention in shifted windows."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import conv, first_layer, no_autocast
from models.models import register
from registry import AtLeast
from utils import DataError

WINDOW = 8
SMALLEST = 5  # pixels of a side, which reflection makes 8
DROP_PATH = 0.1  # of the last block; the first one's is 0
TAIL = 64  # features that come out of the tail
WINDOWS_AT_ONCE = 1024  # bounds the memory of scores: 4096 per window and head
TRAINING_SIZE = (48, 48)  # of the picture whose mask published state dicts hold


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # a mask made in a rendering serves training as well
def shift_mask(height: int, width: int, device: torch.device) -> Tensor:
    """-100 between tokens that only the shift brought into one window: (windows, 64, 64).

    Rows of the rolled picture have the label 0 below H - 8, 1 below H - 4 and 2 beyond; columns
    alike. Tokens attend to those of their own label.
    """
    labels = []
    for length in (height, width):
        place = torch.arange(length, device=device)
        labels.append((place >= length - WINDOW).int() + (place >= length - WINDOW // 2).int())
    regions = (3 * labels[0][:, None] + labels[1])[None, ..., None]  # (1, H, W, 1)
    tokens = windows_of(regions).squeeze(-1)  # (windows, 64)
    return (tokens[:, :, None] != tokens[:, None]) * -100.0


def windows_of(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B * H/8 * W/8, 64, C), windows and their tokens in row-major order."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.transpose(2, 3).reshape(-1, WINDOW * WINDOW, channels)


def picture_of(windows: Tensor, height: int, width: int) -> Tensor:
    """The other way round: (B * H/8 * W/8, 64, C) -> (B, H, W, C)."""
    channels = windows.shape[-1]
    x = windows.view(-1, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels)


def relative_positions() -> Tensor:
    """Row of the bias table for query token i and key token j of a window: int64 (64, 64)."""
    place = torch.arange(WINDOW)
    token = torch.stack(torch.meshgrid(place, place, indexing="ij"), dim=-1).view(-1, 2)
    offset = token[:, None] - token[None] + WINDOW - 1  # (64, 64, 2), each 0 to 14
    return offset[..., 0] * (2 * WINDOW - 1) + offset[..., 1]


class WindowAttention(nn.Module):
    """Multi-head attention among the 64 tokens of each window, with a bias by relative position."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", relative_positions())

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (N, 64, C), mask (windows of a picture, 64, 64) or None -> (N, 64, C)."""
        bias = self.relative_position_bias_table[self.relative_position_index]  # (64, 64, heads)
        bias = bias.permute(2, 0, 1).float()
        count = len(x) if mask is None else len(mask)
        step = min(WINDOWS_AT_ONCE, count)
        parts = []
        for picture in x.split(count):
            for start in range(0, count, step):
                part = None if mask is None else mask[start : start + step, None]
                parts.append(self.attend(picture[start : start + step], bias, part))
        return self.proj(torch.cat(parts) if len(parts) > 1 else parts[0])

    def attend(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax(q k^T / sqrt(d) + bias + mask) v, scores and softmax in float32."""
        windows, tokens, dim = x.shape
        qkv = self.qkv(x).view(windows, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (windows, heads, 64, d)
        with no_autocast(x):
            added = (bias if mask is None else bias + mask).expand(windows, -1, -1, -1)
            out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=added)
        return out.to(x.dtype).transpose(1, 2).reshape(windows, tokens, dim)


class Mlp(nn.Module):
    """Linear, GELU, linear; twice as wide in between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * dim)
        self.fc2 = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention in windows and an MLP, each with a residual; every second block's are shifted."""

    def __init__(self, dim: int, heads: int, shift: int, drop: float) -> None:
        super().__init__()
        self.shift, self.drop = shift, drop
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        if shift:
            # Published state dicts hold it; the mask that is used is that of the picture's size.
            self.register_buffer(
                "attn_mask", shift_mask(*TRAINING_SIZE, torch.device("cpu")).clone()
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1:3]
        shift = (self.shift, self.shift)
        mask = shift_mask(height, width, x.device) if self.shift else None
        rolled = self.norm1(x).roll((-shift[0], -shift[1]), dims=(1, 2))
        attended = picture_of(self.attn(windows_of(rolled), mask), height, width)
        x = x + self.survivors(attended.roll(shift, dims=(1, 2)))
        return x + self.survivors(self.mlp(self.norm2(x)))

    def survivors(self, residual: Tensor) -> Tensor:
        """Stochastic depth (Huang et al., ECCV 2016): in training, some samples' residual is 0."""
        if not self.training or self.drop == 0:
            return residual
        keep = 1 - self.drop
        kept = torch.rand(len(residual), 1, 1, 1, device=residual.device) < keep
        return residual * (kept / keep).to(residual.dtype)


class ResidualGroup(nn.Module):
    """Only its name: state dicts say `layers.0.residual_group.blocks.0`."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class RSTB(nn.Module):
    """Residual Swin Transformer block: blocks and a convolution, plus the input."""

    def __init__(self, dim: int, heads: int, drops: Sequence[float]) -> None:
        super().__init__()
        shifts = [WINDOW // 2 * (number % 2) for number in range(len(drops))]
        blocks = [Block(dim, heads, *each) for each in zip(shifts, drops, strict=True)]
        self.residual_group = ResidualGroup(blocks)
        self.conv = conv(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        y = x
        for block in self.residual_group.blocks:
            y = block(y)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """Only its name: state dicts say `patch_embed.norm`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)


@register("swinir")
class SwinIR(nn.Module):
    """SwinIR as encoder: (B, 3, H, W) -> (B, out_dim, H, W), at least 5x5 pixels.

    Sizes that are no multiple of 8 are continued by reflection, and the features cut back. So it
    is in training and in `model(inp, coord, cell)`; where pictures are rendered or measured they
    are continued beforehand, as the published figures have it (`ImplicitModel.window`).

    Args:
        no_upsampling: always true; there is no upsampling here.
        tail: a last convolution to 64 features (LIIF, Meta-SR, LTE); without it `embed_dim`
            features come out (CiaoSR).
        embed_dim: features per pixel.
        depths: blocks of each RSTB.
        num_heads: attention heads of each RSTB, which divide `embed_dim`.

    Attributes:
        out_dim, upscale: see EDSR.
        halo: None: through the windows of 36 blocks, all of the input decides.
        window: see `ImplicitModel`.
    """

    upscale = 1
    halo = None
    window = WINDOW

    def __init__(
        self,
        no_upsampling: bool = True,
        tail: bool = True,
        embed_dim: Annotated[int, AtLeast(1)] = 180,
        depths: list[Annotated[int, AtLeast(1)]] = [6] * 6,
        num_heads: list[Annotated[int, AtLeast(1)]] = [6] * 6,
    ) -> None:
        super().__init__()
        self.out_dim = TAIL if tail else embed_dim
        self.conv_first = conv(3, embed_dim)
        self.patch_embed = PatchEmbed(embed_dim)
        last = max(1, sum(depths) - 1)
        drops = (DROP_PATH * block / last for block in itertools.count())
        self.layers = nn.ModuleList(
            RSTB(embed_dim, heads, [*itertools.islice(drops, depth)])
            for heads, depth in zip(num_heads, depths, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = conv(embed_dim, embed_dim)
        self.conv_before_upsample = (
            nn.Sequential(conv(embed_dim, TAIL), nn.LeakyReLU(0.01)) if tail else None
        )
        for name, parameter in self.named_parameters():
            if isinstance(self.get_submodule(name.rpartition(".")[0]), nn.Linear):
                fill = nn.init.zeros_ if name.endswith("bias") else truncated_normal
                fill(parameter)
            elif name.endswith("bias_table"):
                truncated_normal(parameter)

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        if not args["no_upsampling"]:
            yield "no_upsampling: false given; allowed: true"
        depths, heads, dim = args["depths"], args["num_heads"], args["embed_dim"]
        if not depths or len(depths) != len(heads):
            yield f"num_heads: {len(heads)} numbers given; allowed: as many as depths has"
        if any(dim % count for count in heads):
            yield f"num_heads: {heads} given; allowed: numbers that divide embed_dim, {dim}"

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> (B, out_dim, H, W).

        Raises:
            DataError: a side of fewer than 5 pixels.
        """
        height, width = x.shape[-2:]
        if min(height, width) < SMALLEST:
            raise DataError(
                f"a picture of {height}x{width} pixels; swinir takes {SMALLEST}x{SMALLEST} and more"
            )
        x = F.pad(x, (0, -width % WINDOW, 0, -height % WINDOW), mode="reflect")
        first = first_layer(self.conv_first, x)
        y = self.patch_embed.norm(first.permute(0, 2, 3, 1))  # (B, H, W, embed_dim)
        for layer in self.layers:
            y = layer(y)
        y = self.conv_after_body(self.norm(y).permute(0, 3, 1, 2)) + first
        if self.conv_before_upsample is not None:
            y = self.conv_before_upsample(y)
        return y[..., :height, :width]


def truncated_normal(parameter: Tensor) -> None:
    nn.init.trunc_normal_(parameter, std=0.02)
