"""A small model, small photographs and small data sets for tests of evaluation."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from torch import nn

import models
from datasets.images import write_rgb
from datasets.resize import resize_matlab, resize_pil


def liif_spec(features: int, hidden: int) -> dict[str, Any]:
    """A LIIF of one block and one hidden layer."""
    encoder = {"n_resblocks": 1, "n_feats": features, "no_upsampling": True}
    imnet = {"out_dim": 3, "hidden_list": [hidden]}
    return {
        "name": "liif",
        "args": {
            "encoder_spec": {"name": "edsr-baseline", "args": encoder},
            "imnet_spec": {"name": "mlp", "args": imnet},
        },
    }


SPEC, TINY = liif_spec(8, 16), liif_spec(4, 8)
HALF = {"sub": [0.5], "div": [0.5]}


def small_model(seed: int = 0) -> nn.Module:
    """A LIIF of random weights whose colours spread over [0, 1] and beyond."""
    torch.manual_seed(seed)
    model = models.make(SPEC)
    with torch.no_grad():
        for parameter in model.imnet.parameters():  # type: ignore[union-attr]
            parameter.mul_(3.0)
    return model.eval()


def save_model(path: Path, model: nn.Module | None = None) -> Path:
    """A checkpoint in the published layout."""
    state = (model or small_model()).state_dict()
    torch.save({"model": {**SPEC, "sd": state}, "epoch": 1}, path)
    return path


def photograph(height: int, width: int, offset: int = 0) -> np.ndarray:
    """Part of a photograph, uint8 (height, width, 3)."""
    whole = skimage.data.astronaut()
    return np.ascontiguousarray(whole[offset : offset + height, 150 : 150 + width])


def write_benchmark(folder: Path, name: str = "Set5", scales: tuple[int, ...] = (2, 3, 4)) -> Path:
    """A benchmark of three photographs below `folder`/benchmark, LR by MATLAB's bicubic."""
    high = folder / "benchmark" / name / "HR"
    high.mkdir(parents=True)
    for number, size in enumerate([(49, 53), (40, 61), (52, 48)]):
        picture = photograph(*size, offset=60 * number)
        write_rgb(high / f"photo{number + 1}.png", picture)
        for scale in scales:
            low_size = (size[0] // scale, size[1] // scale)
            cropped = picture[: low_size[0] * scale, : low_size[1] * scale]
            low = high.parent / "LR_bicubic" / f"X{scale}"
            low.mkdir(parents=True, exist_ok=True)
            write_rgb(low / f"photo{number + 1}x{scale}.png", resize_matlab(cropped, low_size))
    return high.parent


def downsampled(picture: np.ndarray, scale: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) as the protocol says, worked out here once more."""
    low_size = tuple(
        int(np.floor(n / s + 1e-9)) for n, s in zip(picture.shape[:2], scale, strict=True)
    )
    high_size = tuple(round(n * s) for n, s in zip(low_size, scale, strict=True))
    high = picture[: high_size[0], : high_size[1]]
    return resize_pil(np.ascontiguousarray(high), (low_size[0], low_size[1])), high


def render_by_hand(model: nn.Module, low: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each pixel asked for on its own: float64 (height, width, 3) in [0, 1]."""
    inp = torch.from_numpy(low.copy()).permute(2, 0, 1)[None].float() / 255
    cell = torch.tensor([[[2 / size[0], 2 / size[1]]]])
    colours = np.empty((*size, 3))
    with torch.no_grad():
        for row in range(size[0]):
            for column in range(size[1]):
                place = [-1 + (2 * row + 1) / size[0], -1 + (2 * column + 1) / size[1]]
                answer = model((inp - 0.5) / 0.5, torch.tensor([[place]]), cell)
                colours[row, column] = answer[0, 0].double().numpy()
    return (colours * 0.5 + 0.5).clip(0, 1)


def psnr_by_hand(prediction: np.ndarray, truth: np.ndarray, border: tuple[int, int]) -> float:
    """Of the luma's difference, inside the border; prediction in [0, 1], truth uint8."""
    difference = prediction - truth / 255.0
    luma = difference @ np.array([65.738, 129.057, 25.064]) / 256
    rows, columns = border
    inside = luma[rows : luma.shape[0] - rows, columns : luma.shape[1] - columns]
    return float(-10 * np.log10((inside**2).mean()))


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `python test.py ...`, in this process."""
    script = str(Path(__file__).parent.parent / "test.py")
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(script, run_name="__main__")
    output = capsys.readouterr()
    return int(exit_info.value.code or 0), output.out, output.err
