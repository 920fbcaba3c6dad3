"""Training items as one would write them first: a pickle per picture, floats of all of it.

Nothing here is shared with `datasets`; the benchmark of the loader measures against it.
"""

from __future__ import annotations

import math
import pickle
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class PlainDownsampled:
    """Random crops of pictures (H, W, 3) at a random scale, with coordinates and colours.

    Args:
        folder: photographs; pickles of their pixels are made beside it.
        inp_size, scale_min, scale_max, sample_q: as for `sr-implicit-downsampled`, with
            augmentation.
    """

    def __init__(
        self, folder: Path, inp_size: int, scale_min: float, scale_max: float, sample_q: int
    ) -> None:
        self.inp_size, self.scale_min, self.scale_max = inp_size, scale_min, scale_max
        self.sample_q = sample_q
        self.files = []
        place = folder.parent / f"{folder.name}-pickles"
        place.mkdir(exist_ok=True)
        for path in sorted(folder.iterdir()):
            file = place / f"{path.stem}.pkl"
            if not file.exists():
                with file.open("wb") as stream:
                    pickle.dump(np.asarray(Image.open(path).convert("RGB")), stream)
            self.files.append(file)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with self.files[index].open("rb") as stream:
            picture = to_tensor(pickle.load(stream))
        scale = random.uniform(self.scale_min, self.scale_max)
        side = round(self.inp_size * scale)
        top = random.randint(0, picture.shape[1] - side)
        left = random.randint(0, picture.shape[2] - side)
        crop = picture[:, top : top + side, left : left + side]
        inp = shrink(crop, self.inp_size)
        flips = [random.random() < 0.5 for _ in range(3)]
        inp, crop = augment(inp, flips), augment(crop, flips)
        coord = all_coordinates(side, side)
        colours = crop.contiguous().view(3, -1).permute(1, 0)
        chosen = np.random.choice(len(coord), self.sample_q, replace=False)
        coord, colours = coord[chosen], colours[chosen]
        cell = torch.ones_like(coord)
        cell[:, 0] *= 2 / side
        cell[:, 1] *= 2 / side
        return {"inp": inp, "coord": coord, "cell": cell, "gt": colours}


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1], contiguous."""
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div(255)


def shrink(picture: Tensor, side: int) -> Tensor:
    """8-bit bicubic resize of (3, H, W) to (3, side, side)."""
    pixels = picture.mul(255).round().byte().permute(1, 2, 0).numpy()
    small = Image.fromarray(np.ascontiguousarray(pixels)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return to_tensor(np.array(small))


def augment(picture: Tensor, flips: list[bool]) -> Tensor:
    if flips[0]:
        picture = picture.flip(-1)
    if flips[1]:
        picture = picture.flip(-2)
    return picture.transpose(-2, -1) if flips[2] else picture


def all_coordinates(height: int, width: int) -> Tensor:
    """Pixel centres (H*W, 2), (y, x) in [-1, 1]."""
    axes = [-1 + (2 * torch.arange(n).float() + 1) / n for n in (height, width)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    assert math.prod(grid.shape[:2]) == height * width
    return grid.view(-1, 2)
