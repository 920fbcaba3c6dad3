"""The counts that docs/scaling.md builds on, against what the models really compute."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from engine.config import read_train_config

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")


def documented(label: str) -> list[int]:
    """The numbers of the table row that starts with the label."""
    row = re.search(rf"^\| {re.escape(label)} \|(.*)\|$", TEXT, re.MULTILINE)
    assert row, label
    return [int(cell.replace(" ", "").replace(",", "")) for cell in row[1].split("|")]


@pytest.mark.parametrize("column", [0, 1], ids=["edsr-baseline-liif", "rdn-liif"])
def test_operations_and_weights(column: int) -> None:
    name = ("edsr-baseline-liif", "rdn-liif")[column]
    spec = read_train_config(ROOT / f"configs/train-div2k/train_{name}.yaml").model
    model = models.make(spec)
    height, width, queries = 4, 5, 7
    picture, coord = torch.rand(1, 3, height, width), torch.rand(1, queries, 2) * 2 - 1
    cell = torch.full_like(coord, 0.1)
    with torch.no_grad():
        with FlopCounterMode(display=False) as encoding:
            feat = model.gen_feat(picture)
        with FlopCounterMode(display=False) as decoding:
            model.query_rgb(feat, coord, cell)
    assert encoding.get_total_flops() == 2 * height * width * documented("per input pixel")[column]
    # The columns of offset and cell, 4 codes x 4 x 256, may run as sums instead of a product.
    per_query = documented("per query")[column]
    assert decoding.get_total_flops() / 2 / queries in (per_query, per_query - 4 * 4 * 256)
    trained = sum(weight.numel() for weight in model.parameters())
    assert trained == documented("weights")[column]
