"""Losses against numbers worked out by hand, and where they can't be had."""

from __future__ import annotations

import math

import pytest
import torch

from engine.config import IDENTITY, LossConfig, Norm
from engine.train.losses import training_loss
from utils import DataError

GT = torch.tensor([0.0, 0.5, 1.0, 0.0, 0.0, 0.0]).view(1, 6, 1).expand(1, 6, 3)  # 2x3 pixels
PREDICTION = torch.tensor([0.2, 0.5, 0.6, 0.0, 0.3, 0.0]).view(1, 6, 1).expand(1, 6, 3)
CELL = torch.tensor([2 / 2, 2 / 3]).expand(1, 6, 2)
# PREDICTION - GT is (0.2, 0, -0.4) above (0, 0.3, 0).


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (None, 0.9 / 6),
        (LossConfig(), 0.9 / 6),
        (LossConfig(name="mse"), (0.04 + 0.16 + 0.09) / 6),
        (
            LossConfig(name="charbonnier"),
            sum(math.sqrt(error**2 + 1e-6) for error in (0.2, 0, 0.4, 0, 0.3, 0)) / 6,
        ),
        # Rows: |0 - 0.2|, 0.3, 0.4. Columns: 0.2, 0.4; 0.3, 0.3.
        (LossConfig(gradient=0.5), 0.9 / 6 + 0.5 * (0.9 / 3 + 1.2 / 4)),
        (LossConfig(name="mse", gradient=2), 0.29 / 6 + 2 * (0.9 / 3 + 1.2 / 4)),
    ],
)
def test_losses_by_hand(loss: LossConfig | None, expected: float) -> None:
    value = training_loss(PREDICTION, GT, IDENTITY, loss, CELL)
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_losses_are_of_what_the_network_learns() -> None:
    """Normalised by (x - 0.5) / 0.5, the targets of 0, 0.5 and 1 are -1, 0 and 1."""
    norm = Norm(sub=[0.5], div=[0.5])
    value = training_loss(2 * PREDICTION - 1, GT, norm, LossConfig(gradient=0.5), CELL)
    assert value.item() == pytest.approx(2 * (0.9 / 6 + 0.5 * 0.6), rel=1e-6)


def test_charbonnier_has_a_gradient_where_all_is_right() -> None:
    prediction = GT.clone().requires_grad_()
    training_loss(prediction, GT, IDENTITY, LossConfig(name="charbonnier")).backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().max() == 0


@pytest.mark.parametrize("cell", [(2 / 3, 2 / 3), (2 / 2, 2 / 2)])
def test_gradients_of_sampled_pixels_are_refused(cell: tuple[float, float]) -> None:
    with pytest.raises(DataError, match=r"loss\.gradient: 6 queries per item with cells of"):
        training_loss(
            PREDICTION, GT, IDENTITY, LossConfig(gradient=1), torch.tensor(cell).expand(1, 6, 2)
        )


def test_gradients_of_items_of_other_shapes_are_refused() -> None:
    cell = torch.stack([CELL[0], CELL[0].flip(1)])
    with pytest.raises(DataError, match="targets of one size"):
        training_loss(
            *(part.expand(2, 6, 3) for part in (PREDICTION, GT)),
            IDENTITY,
            LossConfig(gradient=1),
            cell,
        )
