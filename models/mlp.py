"""The multilayer perceptron that serves as decoding function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from torch import Tensor, nn

from models.models import make, register
from registry import AtLeast


@register("mlp")
class MLP(nn.Module):
    """Linear + ReLU per hidden width, then Linear.

    Args:
        in_dim, out_dim: width of the input and of the output.
        hidden_list: widths in between; may be empty.
    """

    def __init__(
        self,
        in_dim: Annotated[int, AtLeast(1)],
        out_dim: Annotated[int, AtLeast(1)],
        hidden_list: list[Annotated[int, AtLeast(1)]],
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden_list:
            layers += [nn.Linear(in_dim, width), nn.ReLU()]
            in_dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_dim, out_dim))

    @property
    def linears(self) -> list[nn.Linear]:
        """The linear layers, first to last; a ReLU stands between each and the next."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_dim) -> (..., out_dim)."""
        return self.layers(x)


def make_mlp(spec: Mapping[str, Any], **sizes: int) -> MLP:
    """The MLP of a specification; `sizes`: widths of input and output that are worked out."""
    mlp = make(spec, args=sizes)
    assert isinstance(mlp, MLP)
    return mlp
