"""engine.normalisation: a model is used in the units that it was trained in, wherever it goes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.transforms import to_picture
from engine.config import DataNorm, Norm
from engine.evaluate.suite import model_method
from engine.normalisation import PAPER, denormalise, norm_of, normalise, recorded_norm, same_norm
from engine.render import ContinuousImage, render_once
from engine.weights.checkpoint import save_checkpoint
from engine.weights.pretrained import load_model, load_with_spec, write_safetensors
from tests.small import SPEC, photograph, small_model
from utils import DataError, make_coord

CPU = torch.device("cpu")
OWN = DataNorm(inp=Norm(sub=[0.4, 0.5, 0.6], div=[1.0, 0.5, 2.0]), gt=Norm(sub=[0.45], div=[0.3]))


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    """A checkpoint that says which normalisation it was trained with."""
    path = tmp_path / "own.pth"
    config = {"data_norm": dataclasses.asdict(OWN)}
    save_checkpoint(path, {"model": {**SPEC, "sd": small_model().state_dict()}, "config": config})
    return path


@pytest.mark.parametrize("norm", [OWN.inp, OWN.gt])
def test_there_and_back(norm: Norm) -> None:
    colours = torch.rand(2, 7, 3)
    torch.testing.assert_close(denormalise(normalise(colours, norm, -1), norm), colours)
    pictures = colours.movedim(-1, 1)
    turned = normalise(pictures, norm, 1).movedim(1, -1)
    assert torch.equal(turned, normalise(colours, norm, -1))
    assert normalise(colours, OWN.inp, -1)[0, 0, 2].item() == pytest.approx(
        (colours[0, 0, 2].item() - 0.6) / 2, abs=1e-6
    )


def test_every_way_to_use_a_model_keeps_its_units(own_model: Path, tmp_path: Path) -> None:
    photo, size = photograph(12, 10), (29, 23)
    model = load_model(own_model)
    assert norm_of(model) == OWN
    with torch.no_grad():
        inp = normalise(to_picture(photo)[None], OWN.inp, 1)
        cell = torch.tensor([2 / size[0], 2 / size[1]]).expand(1, size[0] * size[1], 2)
        answer = model(inp, make_coord(size)[None], cell)[0] * 0.3 + 0.45
    expected = answer.clamp(0, 1).view(*size, 3).permute(2, 0, 1)
    papers = render_once(photo, model, size, data_norm=PAPER)
    assert not torch.allclose(expected, papers, atol=1e-2)

    module, spec = load_with_spec(own_model)
    write_safetensors(tmp_path / "own.safetensors", spec, module)
    image = ContinuousImage.represent(photo, own_model)
    image.save(tmp_path / "own.liif")
    rendered = {
        "rendered once": render_once(photo, model, size),
        "represented": image.render(*size),
        "represented and read again": ContinuousImage.load(tmp_path / "own.liif").render(*size),
        "exported": ContinuousImage.represent(photo, tmp_path / "own.safetensors").render(*size),
        "suite": model_method(str(own_model), CPU).enlarge(photo, size),
    }
    for name, colours in rendered.items():
        torch.testing.assert_close(colours, expected, atol=1e-5, rtol=0, msg=name)
    y, x = np.array([-0.3, 0.7]), np.array([0.1, 0.2])
    cell = torch.tensor([[2 / 12, 2 / 10]]).expand(2, 2)
    with torch.no_grad():
        inp = normalise(to_picture(photo)[None], OWN.inp, 1)
        coord = torch.tensor(np.stack([y, x], -1), dtype=torch.float32)
        by_hand = model(inp, coord[None], cell[None])[0] * 0.3 + 0.45
    torch.testing.assert_close(image.image(y, x), by_hand.clamp(0, 1), atol=1e-5, rtol=0)


def test_without_a_record_the_papers() -> None:
    assert norm_of(small_model()) == PAPER
    assert recorded_norm({"model": {}}) is None
    assert recorded_norm({"config": None}) is None


def test_one_number_for_all_channels_or_one_each() -> None:
    whole = DataNorm(inp=Norm(sub=[0.5] * 3, div=[0.5]), gt=Norm(sub=[0.5], div=[0.5] * 3))
    assert same_norm(whole, PAPER)
    assert same_norm(PAPER, whole)
    for part in ("inp", "gt"):
        for key in ("sub", "div"):
            norm = {**vars(getattr(PAPER, part)), key: [0.5, 0.5, 0.4]}
            assert not same_norm(dataclasses.replace(PAPER, **{part: Norm(**norm)}), whole)


@pytest.mark.parametrize(
    "recorded",
    [
        3,
        [],
        {"inp": 1},
        {"more": {"sub": [0], "div": [1]}},
        {"inp": {"sub": [0.5], "div": [0]}},
        {"inp": {"sub": [0.5, 0.5], "div": [1]}},
        {"gt": {"sub": ["x"], "div": [1]}},
    ],
)
def test_a_record_that_is_none_is_refused(recorded: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    state = small_model().state_dict()
    save_checkpoint(path, {"model": {**SPEC, "sd": state}, "config": {"data_norm": recorded}})
    with pytest.raises(DataError, match=r"model.pth: its data_norm[.:]"):
        load_model(path)
