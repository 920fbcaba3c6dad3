"""LM-LIIF (He and Jin, CVPR 2024, arXiv 2405.05142): a tiny decoder that each code sets up.

LIIF asks one large network for every query. Here a large network (the hypernet) runs once per
code and cell and answers with modulations: a scale and a shift for every layer of a decoder of 16
numbers per layer, which then runs once per query and code.

Modulations belong to one cell, which is that of the picture's first query.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import isclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import channels_last
from models.liif import QUERY_CHUNK_ELSEWHERE
from models.lookup import neighbours, relative_cell
from models.mlp import MLP, make_mlp
from models.models import make, models_registry, register
from models.protocol import Features, ImplicitModel, Target
from registry import AtLeast, SpecOf

HYPERNET = SpecOf(models_registry, overridden=("in_dim", "out_dim"))  # which are worked out


@register("lmmlp")
class ModulatedMLP(nn.Module):
    """The decoder's layers: m + 4 numbers in, 3 out.

    Args:
        out_dim: 3.
        hidden_dim: m, numbers per layer.
        hidden_depth: L, layers whose results are scaled and shifted.
        mod_scale, mod_shift: always true.
    """

    def __init__(
        self,
        hidden_dim: Annotated[int, AtLeast(1)],
        hidden_depth: Annotated[int, AtLeast(1)],
        out_dim: Literal[3] = 3,
        mod_scale: bool = True,
        mod_shift: bool = True,
    ) -> None:
        super().__init__()
        widths = [hidden_dim + 4, *[hidden_dim] * hidden_depth]
        steps: list[nn.Module] = []
        for width in widths[:-1]:
            steps += [nn.Linear(width, hidden_dim), nn.ReLU()]
        self.layers = nn.Sequential(*steps, nn.Linear(hidden_dim, out_dim))

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        for name in ("mod_scale", "mod_shift"):
            if not args[name]:
                yield f"{name}: false given; allowed: true"

    @property
    def linears(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]


@register("lmliif")
class LMLIIF(ImplicitModel):
    """LIIF by latent modulation.

    Args:
        encoder_spec: the encoder.
        imnet_spec: the modulated decoder, an `lmmlp`.
        hypernet_spec: the network that runs per code, an `mlp` (its `in_dim` and `out_dim` are
            worked out here).
        local_ensemble, feat_unfold, cell_decode, mod_input: always true.
        cmsr_spec: always null.
    """

    def __init__(
        self,
        encoder_spec: Annotated[dict[str, Any], SpecOf(models_registry)],
        imnet_spec: Annotated[dict[str, Any], SpecOf(models_registry)],
        hypernet_spec: Annotated[dict[str, Any], HYPERNET],
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
        mod_input: bool = False,
        cmsr_spec: None = None,
    ) -> None:
        super().__init__(encoder_spec)
        imnet = make(imnet_spec)
        assert isinstance(imnet, ModulatedMLP)
        self.imnet = imnet
        self.width = imnet.linears[0].out_features
        self.depth = len(imnet.linears) - 1
        out_dim = self.width * (2 * self.depth + 1)
        self.hypernet = make_mlp(hypernet_spec, in_dim=9 * self.channels + 2, out_dim=out_dim)

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        for name in ("local_ensemble", "feat_unfold", "cell_decode", "mod_input"):
            if not args[name]:
                yield f"{name}: false given; allowed: true"
        for name, wanted in (("imnet_spec", ModulatedMLP), ("hypernet_spec", MLP)):
            given = args[name]["name"]
            maker = models_registry.makers[given]
            if not (isclass(maker) and issubclass(maker, wanted)):
                allowed = "lmmlp" if wanted is ModulatedMLP else "mlp"
                yield f"{name}.name: {given!r} given; allowed: {allowed}"

    @property
    def query_chunk(self) -> int:
        on_cpu = self.imnet.linears[0].weight.device.type == "cpu"
        return 16384 if on_cpu else 4 * QUERY_CHUNK_ELSEWHERE

    def project(self, maps: Features, target: Target | None = None) -> Features:
        """The encoder's output (B, c, H, W) -> the hypernet's first layer at every code.

        Without its cell columns and bias: (B, C, H, W). With a target, whose cell is known, the
        whole of what queries look up, as a tuple of one: see `modulations`.
        """
        assert isinstance(maps, Tensor)
        weight = self.hypernet.linears[0].weight[:, : 9 * self.channels]
        first = F.conv2d(maps, weight.unflatten(1, (self.channels, 3, 3)), padding=1)
        first = channels_last(first).float()
        if target is None:
            return first
        return (self.modulations(first, relative_cell(target.cell, target.size)),)

    def modulations(self, first: Tensor, cell: Tensor) -> Tensor:
        """What each code makes of the decoder for a cell.

        Args:
            first: (B, C, H, W) from `project`.
            cell: (B, 2), in units of a code.

        Returns:
            float32 (B, 2 m L, H, W): of every layer the scale, 1 included, then of every layer the
            shift; the first layer's shift holds its answer to the code's features.
        """
        m, depth = self.width, self.depth
        linears = self.hypernet.linears
        x = first.permute(0, 2, 3, 1)  # (B, H, W, C)
        x = x + F.linear(cell, linears[0].weight[:, -2:], linears[0].bias)[:, None, None]
        for layer in linears[1:]:
            x = layer(x.relu())
        scale, shift, features = x.float().split([m * depth, m * depth, m], dim=-1)
        scale = scale + 1
        own = self.imnet.linears[0]
        answer = scale[..., :m] * F.linear(features, own.weight[:, :m].float(), own.bias)
        mod = torch.cat([scale, shift[..., :m] + answer.float(), shift[..., m:]], dim=-1)
        return mod.permute(0, 3, 1, 2)

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
        first = feat if isinstance(feat, Tensor) else feat[0]
        window = (first.shape[-2], first.shape[-1])
        size = size or window
        rel_cell = relative_cell(cell, size)
        mod = self.modulations(first, rel_cell[:, 0]) if isinstance(feat, Tensor) else first
        codes = neighbours(coord.float(), window, size, origin, ensemble=True)
        assert codes.weight is not None
        table = mod.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, 2 m L)
        m, depth = self.width, self.depth
        linears = self.imnet.linears
        total: Tensor | int = 0
        for row, offset, weight in zip(codes.row, codes.offset, codes.weight, strict=True):
            layers = table.index_select(0, row.flatten()).split(m, dim=1)  # 2 L of (B * Q, m)
            z = torch.cat([offset, rel_cell], dim=-1).flatten(0, 1)
            for number, layer in enumerate(linears[:-1]):
                kernel, bias = layer.weight, layer.bias
                z = F.linear(z, kernel[:, m:]) if number == 0 else F.linear(z, kernel, bias)
                z = torch.addcmul(layers[depth + number], layers[number], z.float()).relu()
            total = total + z * weight.view(-1, 1)
        return linears[-1](total).float().view(*coord.shape[:2], 3)
