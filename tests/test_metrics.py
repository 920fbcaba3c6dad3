"""Figures of one picture, and the interpolation baselines."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from PIL.Image import Resampling
from skimage.metrics import structural_similarity
from torch import Tensor

from datasets.resize import resize_pil
from engine.evaluate.metrics import (
    PACKAGES,
    EvalType,
    calc_ssim,
    make_measures,
    scale_text,
)
from engine.render import baselines
from utils import ConfigError, calc_psnr

CPU = torch.device("cpu")


def tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def luma(image: Tensor) -> np.ndarray:
    weights = torch.tensor([65.738, 129.057, 25.064], dtype=torch.float64) / 256
    return ((image.double() * weights.view(3, 1, 1)).sum(0) + 16 / 255).numpy()


def reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    return structural_similarity(
        x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    )


def photo_pair(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    truth = np.ascontiguousarray(skimage.data.astronaut()[: size[0], : size[1]])
    small = resize_pil(truth, (size[0] // 3, size[1] // 3))
    return tensor(resize_pil(small, size)), tensor(truth)


@pytest.mark.parametrize("size", [(60, 90), (33, 121), (510, 33)])
def test_ssim_agrees_with_scikit_image(size: tuple[int, int]) -> None:
    sr, hr = photo_pair(size)
    assert calc_ssim(sr, hr) == pytest.approx(reference_ssim(luma(sr), luma(hr)), abs=1e-6)


def test_ssim_of_noise_inside_a_border_agrees_with_scikit_image() -> None:
    torch.manual_seed(0)
    hr = torch.rand(3, 50, 64)
    sr = (hr + 0.1 * torch.randn(3, 50, 64)).clamp(0, 1)
    kind = EvalType.parse("benchmark-2.5x4")
    expected = reference_ssim(luma(sr)[3:-3, 4:-4], luma(hr)[3:-3, 4:-4])
    assert calc_ssim(sr, hr, kind) == pytest.approx(expected, abs=1e-6)


def test_ssim_of_a_picture_with_itself_is_one_and_of_a_tiny_one_unknown() -> None:
    image = torch.rand(3, 20, 20)
    assert calc_ssim(image, image) == pytest.approx(1.0, abs=1e-12)
    assert calc_ssim(image, image, EvalType.parse("benchmark-5")) is None


@pytest.mark.parametrize(
    ("text", "dataset", "scale", "border"),
    [
        (None, None, (1, 1), (0, 0)),
        ("benchmark-2", "benchmark", (2, 2), (2, 2)),
        ("benchmark-2.5", "benchmark", (2.5, 2.5), (3, 3)),
        ("benchmark-2x3.5", "benchmark", (2, 3.5), (2, 4)),
        ("div2k-3.7", "div2k", (3.7, 3.7), (10, 10)),
        ("div2k-30", "div2k", (30, 30), (36, 36)),
    ],
)
def test_eval_types_say_what_is_compared(
    text: str | None, dataset: str | None, scale: tuple[float, float], border: tuple[int, int]
) -> None:
    kind = EvalType.parse(text)
    assert (kind.dataset, kind.scale, kind.border) == (dataset, scale, border)
    assert str(kind) == (text or "none")


def test_borders_are_those_that_psnr_cuts() -> None:
    torch.manual_seed(1)
    sr, hr = torch.rand(2, 3, 40, 44)
    kind = EvalType.parse("div2k-1.5x3")
    inside = (slice(None), slice(8, -8), slice(9, -9))
    assert kind.border == (8, 9)
    cut = calc_psnr(sr, hr, kind.dataset, kind.scale)
    assert float(cut) == pytest.approx(float(calc_psnr(sr[inside], hr[inside])), abs=1e-6)


def test_scales_are_written() -> None:
    assert [scale_text(scale) for scale in [(2, 2), (3.7, 3.7), (2, 3.5)]] == ["2", "3.7", "2x3.5"]


@pytest.mark.parametrize("name", list(PACKAGES))
def test_learned_metrics_say_what_they_need(name: str) -> None:
    module, package = PACKAGES[name]
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(ConfigError, match=rf"{name} .* not installed: pip install {package}"):
        make_measures([name], CPU)


def test_an_unknown_metric_is_refused_with_the_near_miss() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ssim'"):
        make_measures(["simm"], CPU)


def test_baselines_interpolate_as_they_are_named() -> None:
    low = np.ascontiguousarray(skimage.data.astronaut()[:13, :17])
    size = (29, 51)
    for name, kind in (("bicubic", Resampling.BICUBIC), ("lanczos", Resampling.LANCZOS)):
        expected = np.asarray(Image.fromarray(low).resize((51, 29), kind))
        assert (baselines.enlarge(name, low, size) == expected).all()
    rows = (np.arange(29) + 0.5) * 13 // 29
    columns = (np.arange(51) + 0.5) * 17 // 51
    expected = low[rows.astype(int)][:, columns.astype(int)]
    assert (baselines.enlarge("nearest", low, size) == expected).all()


def test_the_baseline_of_matlab_goes_rows_first() -> None:
    """At x2 its taps are -3, 29, 111 and -9 of 128; each axis is rounded to 8 bits."""
    low = np.ascontiguousarray(skimage.data.astronaut()[:9, :8])

    def doubled(image: np.ndarray) -> np.ndarray:
        padded = np.pad(image.astype(int), ((2, 2), (0, 0), (0, 0)), "symmetric")
        rows = []
        for row in range(len(image)):
            for taps, first in (((-3, 29, 111, -9), row), ((-9, 111, 29, -3), row + 1)):
                rows.append(sum(tap * padded[first + n] for n, tap in enumerate(taps)))
        return np.floor(np.stack(rows) / 128 + 0.5).clip(0, 255).astype(np.uint8)

    expected = doubled(doubled(low).swapaxes(0, 1)).swapaxes(0, 1)
    assert (baselines.enlarge("bicubic-matlab", low, (18, 16)) == expected).all()


def test_an_unknown_baseline_is_refused_with_the_near_miss() -> None:
    with pytest.raises(ConfigError, match="did you mean 'bicubic'"):
        baselines.check_baseline("bicubc")
