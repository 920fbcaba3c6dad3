"""docs/models.md: its counts are those of the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from benchmarks.decoders import CONFIGS, NAMES, Given
from engine.config import read_train_config
from engine.evaluate.evaluate import predict
from utils import make_coord

PAGE = (Path(__file__).resolve().parent.parent / "docs/models.md").read_text(encoding="utf-8")
LINES = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines()]
ROWS = {cells[0].strip("`"): cells[1:] for cells in LINES if cells and cells[0].startswith("`")}
ENCODERS = ("edsr-baseline", "rdn", "swinir")


def test_every_decoder_has_a_row() -> None:
    assert set(ROWS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_counted(name: str) -> None:
    for encoder, given in zip(ENCODERS, ROWS[name][1:4], strict=True):
        path = CONFIGS / f"train_{encoder}-{name}.yaml"
        assert bool(given) == path.exists()
        if path.exists():
            with torch.device("meta"):
                model = models.make(read_train_config(path).model)
            assert given == f"{sum(one.numel() for one in model.parameters()):,}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_multiplications_are_counted(name: str) -> None:
    """Those of a decoder per pixel, from features of 64x64 to 256x256 pixels."""
    model = models.make(read_train_config(CONFIGS / f"train_edsr-baseline-{name}.yaml").model)
    model.eval().encoder = Given(torch.randn(1, 64, 64, 64))
    coord = make_coord((256, 256))[None]
    cell = torch.full_like(coord, 2 / 256)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        predict(model, torch.rand(1, 3, 64, 64), coord, cell)
    given = int(ROWS[name][4].replace(",", ""))
    uncounted = 3 * 257 if name == "metasr" else 0  # a product of the same shapes, and a sum
    assert counter.get_total_flops() / 2 / 256**2 + uncounted == pytest.approx(given, rel=5e-3)
