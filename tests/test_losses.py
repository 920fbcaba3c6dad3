"""Losses against numbers worked out by hand, and where they can't be had."""

from __future__ import annotations

import math

import pytest
import torch

from engine.config import IDENTITY, LossConfig, Norm
from engine.train.losses import training_loss
from utils import DataError, make_coord

GT = torch.tensor([0.0, 0.5, 1.0, 0.0, 0.0, 0.0]).view(1, 6, 1).expand(1, 6, 3)  # 2x3 pixels
PREDICTION = torch.tensor([0.2, 0.5, 0.6, 0.0, 0.3, 0.0]).view(1, 6, 1).expand(1, 6, 3)
COORD = make_coord((2, 3))[None]
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
    value = training_loss(PREDICTION, GT, IDENTITY, loss, COORD)
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_losses_are_of_what_the_network_learns() -> None:
    """Normalised by (x - 0.5) / 0.5, the targets of 0, 0.5 and 1 are -1, 0 and 1."""
    norm = Norm(sub=[0.5], div=[0.5])
    value = training_loss(2 * PREDICTION - 1, GT, norm, LossConfig(gradient=0.5), COORD)
    assert value.item() == pytest.approx(2 * (0.9 / 6 + 0.5 * 0.6), rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 6, 1), (1, 3, 6), (1, 6, 4)])
def test_predictions_are_not_repeated_to_fit(shape: tuple[int, ...]) -> None:
    for name in ("l1", "charbonnier", "mse"):
        with pytest.raises(DataError, match=r"colours .* for targets \(1, 6, 3\)"):
            training_loss(torch.zeros(shape), GT, IDENTITY, LossConfig(name=name))


def test_charbonnier_has_a_gradient_where_all_is_right() -> None:
    prediction = GT.clone().requires_grad_()
    training_loss(prediction, GT, IDENTITY, LossConfig(name="charbonnier")).backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().max() == 0


def test_gradients_of_patches_anywhere() -> None:
    """The two items of a batch are patches from different places of different grids."""
    grids = make_coord((5, 7), flatten=False), make_coord((9, 4), flatten=False)
    coord = torch.stack([grids[0][1:3, 2:5].reshape(6, 2), grids[1][6:8, 1:4].reshape(6, 2)])
    pair = (torch.cat([PREDICTION, GT]), torch.cat([GT, GT]))
    value = training_loss(*pair, IDENTITY, LossConfig(gradient=0.5), coord)
    assert value.item() == pytest.approx((0.9 / 6 + 0.5 * (0.9 / 3 + 1.2 / 4)) / 2, rel=1e-6)


@pytest.mark.parametrize(
    "coord",
    [
        make_coord((3, 4))[[0, 1, 2, 4, 5, 7]],
        make_coord((3, 4))[[0, 2, 5, 7, 8, 11]],
        make_coord((1, 6)),
        make_coord((6, 1)),
    ],
)
def test_gradients_of_scattered_pixels_are_refused(coord: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"loss\.gradient: 6 queries per item that are no rows"):
        training_loss(PREDICTION, GT, IDENTITY, LossConfig(gradient=1), coord[None])


def test_gradients_of_items_of_other_shapes_are_refused() -> None:
    coord = torch.stack([make_coord((2, 3)), make_coord((3, 2))])
    pair = (part.expand(2, 6, 3) for part in (PREDICTION, GT))
    with pytest.raises(DataError, match="targets of one size"):
        training_loss(*pair, IDENTITY, LossConfig(gradient=1), coord)
