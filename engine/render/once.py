"""A photograph at one size, once: what tests and panels ask for."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.render.continuous_image import ContinuousImage
from engine.render.pixels import Photograph, as_photo, rgb

FLIPS = ((), (0,), (1,), (0, 1))  # of rows, of columns


def render_once(
    photo: Photograph,
    model: nn.Module,
    size: tuple[int, int],
    self_ensemble: bool = False,
    clamp: bool = True,
    **options: Any,
) -> Tensor:
    """A photograph at one size, by a model, encoded window by window.

    Args:
        photo, options: as `ContinuousImage.represent` takes them.
        size: (height, width) of the result.
        self_ensemble: the mean of eight renderings: of the photograph in its four flips, and of
            these transposed, each turned back.
        clamp: to [0, 1]; a model's colours may lie outside.

    Returns:
        float32 (3, height, width), on the CPU.
    """
    pixels = rgb(as_photo(photo).pixels)
    orientations = [*itertools.product((False, True), FLIPS)] if self_ensemble else [(False, ())]
    total = torch.zeros(3, *size)
    for transposed, axes in orientations:
        turned, asked = np.flip(pixels, axes), size
        if transposed:  # with a scale per axis, these change places too
            turned, asked = turned.swapaxes(0, 1), (size[1], size[0])
        image = ContinuousImage.represent(turned, model, keep_features=False, **options)
        picture = image.render(*asked, clamp=False)
        picture = picture.transpose(1, 2) if transposed else picture
        total += picture.flip([axis + 1 for axis in axes])
    total /= len(orientations)
    return total.clamp_(0, 1) if clamp else total
