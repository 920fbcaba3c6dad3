"""Photographs rendered in small tiles, and in one piece by the model's own call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import utils
from engine.render import ContinuousImage, continuous_image
from engine.render.tiling import Grid, Plan, cuts


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@torch.inference_mode()
def in_one_piece(model: nn.Module, pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """What the model's own call gives for the published grid: (height, width, 3) in [0, 1]."""
    coord = utils.make_coord((height, width))[None]
    cell = torch.tensor([2 / height, 2 / width]).expand_as(coord)
    inp = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    colours: Tensor = model(inp, coord, cell)
    return (colours.view(height, width, 3) * 0.5 + 0.5).clamp(0, 1).numpy()


def tiled(image: ContinuousImage, grid: Grid, tile: int) -> np.ndarray:
    """A grid rendered in tiles of about `tile` pixels of the photograph."""
    bands, tiles = (-(-length // tile) for length in image.size)
    plan = Plan(cuts(grid.height, bands), cuts(grid.width, tiles))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuous_image, "make_plan", lambda *_: plan)
        return np.concatenate([*image.bands(grid)])
