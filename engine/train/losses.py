"""What training minimises."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import LossConfig, Norm
from engine.normalisation import normalise
from utils import DataError

CHARBONNIER_EPS = 1e-3  # as LapSRN has it (Lai et al., CVPR 2017)


def training_loss(
    prediction: Tensor,
    gt: Tensor,
    norm: Norm,
    loss: LossConfig | None = None,
    cell: Tensor | None = None,
) -> Tensor:
    """The mean error of a batch, 0-d; by default L1, as published.

    Args:
        prediction: (B, Q, 3), normalised, of any precision.
        gt: (B, Q, 3) in [0, 1].
        loss: which error, and the weight of that of gradients.
        cell: (B, Q, 2), the height and width of pixels in [-1, 1]; only gradients need it, which
            are differences between neighbours, so that Q are all pixels of a grid.

    Raises:
        DataError: gradients of queries that are no such grid.
    """
    loss = loss or LossConfig()
    prediction, gt = prediction.float(), normalise(gt, norm, -1)
    if loss.name == "mse":
        error = F.mse_loss(prediction, gt)
    elif loss.name == "charbonnier":
        error = torch.hypot(prediction - gt, gt.new_tensor(CHARBONNIER_EPS)).mean()
    else:
        error = F.l1_loss(prediction, gt)
    if loss.gradient:
        assert cell is not None
        error = error + loss.gradient * gradient_error(prediction - gt, cell)
    return error


def gradient_error(difference: Tensor, cell: Tensor) -> Tensor:
    """L1 of the differences between vertical and between horizontal neighbours, their sum, 0-d.

    Args:
        difference: (B, Q, 3), of predictions and targets.
        cell: as for `training_loss`.
    """
    count = difference.shape[1]
    sizes = (2 / cell[:, 0]).round().long()
    height, width = sizes[0].tolist()
    if height * width != count or bool((sizes != sizes[0]).any()):
        raise DataError(
            f"loss.gradient: {count} queries per item with cells of {height}x{width} pixels; "
            "allowed: all pixels of targets of one size"
        )
    grid = difference.unflatten(1, (height, width))
    return sum((grid.diff(dim=axis).abs().mean() for axis in (1, 2)), difference.new_zeros(()))
