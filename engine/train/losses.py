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
    coord: Tensor | None = None,
) -> Tensor:
    """The mean error of a batch, 0-d; by default L1, as published.

    Args:
        prediction: (B, Q, 3), normalised, of any precision.
        gt: (B, Q, 3) in [0, 1].
        loss: which error, and the weight of that of gradients.
        coord: (B, Q, 2), (y, x) in [-1, 1]; only gradients need it, which are differences between
            neighbours, so that queries are the pixels of a whole picture or of a patch.

    Raises:
        DataError: predictions of another shape, or gradients of queries that are no such pixels.
    """
    loss = loss or LossConfig()
    if prediction.shape != gt.shape:  # which might be repeated to fit
        given = f"model: colours {tuple(prediction.shape)} for targets {tuple(gt.shape)}"
        raise DataError(f"{given}; allowed: one for each, (B, Q, 3)")
    prediction, gt = prediction.float(), normalise(gt, norm, -1)
    if loss.name == "mse":
        error = F.mse_loss(prediction, gt)
    elif loss.name == "charbonnier":
        error = torch.hypot(prediction - gt, gt.new_tensor(CHARBONNIER_EPS)).mean()
    else:
        error = F.l1_loss(prediction, gt)
    if loss.gradient:
        assert coord is not None
        error = error + loss.gradient * gradient_error(prediction - gt, coord)
    return error


def gradient_error(difference: Tensor, coord: Tensor) -> Tensor:
    """L1 of the differences between vertical and between horizontal neighbours, their sum, 0-d.

    Args:
        difference: (B, Q, 3), of predictions and targets.
        coord: as for `training_loss`.
    """
    count, width = coord.shape[1], int((coord[0, :, 0] == coord[0, 0, 0]).sum())
    if 1 < width < count and count % width == 0:
        y, x = coord.unflatten(1, (-1, width)).unbind(-1)
        if bool((y == y[:, :, :1]).all() and (x == x[:, :1]).all()):
            grid = difference.unflatten(1, (-1, width))
            return sum((grid.diff(dim=n).abs().mean() for n in (1, 2)), difference.new_zeros(()))
    raise DataError(
        f"loss.gradient: {count} queries per item that are no rows and columns; allowed: "
        "all pixels of targets of one size, or sample_patch"
    )
