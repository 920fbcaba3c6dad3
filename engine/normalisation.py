"""Between [0, 1] and the units that a network sees and answers in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from engine.config import DataNorm, Norm
from registry import read_dataclass

HALF = Norm(sub=[0.5], div=[0.5])
PAPER = DataNorm(inp=HALF, gt=HALF)  # what the paper's models see, where a checkpoint says nothing


def normalise(values: Tensor, norm: Norm, axis: int) -> Tensor:
    """(x - sub) / div along the axis of colours."""
    sub, div = factors(values, norm, axis)
    return (values - sub) / div


def denormalise(colours: Tensor, norm: Norm, clamp: bool = True) -> Tensor:
    """(..., 3), as the network gives it, back to [0, 1] and clamped there; not rounded."""
    sub, div = factors(colours, norm, -1)
    values = colours * div + sub
    return values.clamp_(0, 1) if clamp else values


def factors(values: Tensor, norm: Norm, axis: int) -> tuple[Any, Any]:
    """sub and div; single numbers stay numbers, which a GPU need not be sent and wait for."""
    if len(norm.sub) == len(norm.div) == 1:
        return norm.sub[0], norm.div[0]
    shape = [1] * values.dim()
    shape[axis] = -1
    return values.new_tensor(norm.sub).view(shape), values.new_tensor(norm.div).view(shape)


def recorded_norm(checkpoint: Mapping[str, Any]) -> DataNorm | None:
    """The normalisation that a checkpoint says its model was trained with; None without a word.

    Raises:
        ValueError: what is recorded there is none.
    """
    recorded = (checkpoint.get("config") or {}).get("data_norm")
    if recorded is None:
        return None
    problems: list[str] = []
    norm = read_dataclass(DataNorm, recorded, "data_norm", problems)
    if problems:
        raise ValueError(f"its {problems[0]}")
    return norm


def norm_of(model: nn.Module) -> DataNorm:
    """The normalisation of a model: what its checkpoint records, else the paper's."""
    return getattr(model, "data_norm", None) or PAPER


def same_norm(one: DataNorm, other: DataNorm) -> bool:
    """Whether two normalisations are the same, given as one number or as one per channel."""
    pairs = [(one.inp, other.inp), (one.gt, other.gt)]
    return all(
        [*a] * (3 // len(a)) == [*b] * (3 // len(b))
        for first, second in pairs
        for a, b in ((first.sub, second.sub), (first.div, second.div))
    )
