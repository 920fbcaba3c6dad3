"""Figures of the published implementation, measured for inputs and weights that anyone can redraw.

Every input and weight comes from `rng(name)`, a NumPy stream that stays the same for good.
"""

from __future__ import annotations

import gzip
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).resolve().parent / "data"


def rng(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()) % 2**32)


def float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def fill_weights(model: nn.Module) -> nn.Module:
    """Give every tensor of the state dict its values, drawn by its name."""
    state = {}
    for key, value in model.state_dict().items():
        drawn = rng(key).standard_normal(tuple(value.shape))
        factor = np.sqrt(1 / np.prod(value.shape[1:])) if value.dim() > 1 else 0.1
        state[key] = float32(drawn * factor)
    model.load_state_dict(state)
    return model


@cache
def cases(kind: str) -> dict[str, dict[str, Any]]:
    """The cases of a kind (encoder, model, train, coord, psnr) by name."""
    listed = json.loads((DATA / "models.json").read_text())
    return {case["name"]: case for case in listed if case["kind"] == kind}


@cache
def arrays() -> dict[str, Tensor]:
    with np.load(DATA / "models.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


@cache
def checkpoints() -> dict[str, dict[str, Any]]:
    """Per published configuration and encoder: its model, parameter count and state dict."""
    return json.loads(gzip.decompress((DATA / "checkpoints.json.gz").read_bytes()))


def error(result: Tensor, expected: Tensor) -> float:
    """Largest difference: absolute up to magnitude 1, relative above."""
    assert result.shape == expected.shape
    return ((result - expected).abs() / expected.abs().clamp(min=1)).max().item()
