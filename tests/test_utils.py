"""utils: published coordinates and PSNR, and the helpers' edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import utils
from utils import ConfigError, DataError


def test_make_coord_by_hand() -> None:
    expected = [[-0.5, -2 / 3], [-0.5, 0], [-0.5, 2 / 3], [0.5, -2 / 3], [0.5, 0], [0.5, 2 / 3]]
    torch.testing.assert_close(utils.make_coord((2, 3)), torch.tensor(expected))
    grid = utils.make_coord((2, 3), flatten=False)
    assert grid.shape == (2, 3, 2)
    torch.testing.assert_close(grid[1, 2], torch.tensor([0.5, 2 / 3]))


def test_make_coord_ranges() -> None:
    coord = utils.make_coord((1, 2), ranges=((0, 1), (-2, 2)))
    torch.testing.assert_close(coord, torch.tensor([[0.5, -1.0], [0.5, 1.0]]))


def test_to_pixel_samples_keeps_row_major_order() -> None:
    img = torch.arange(12.0).view(3, 2, 2)
    coord, rgb = utils.to_pixel_samples(img)
    torch.testing.assert_close(coord, utils.make_coord((2, 2)))
    torch.testing.assert_close(rgb[1], img[:, 0, 1])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 1000), (4096, 333), (20000, 19999)])
def test_grid_size_recovers_size(height: int, width: int) -> None:
    cell = torch.tensor([2 / height, 2 / width]).expand(5, 2)
    assert utils.grid_size(cell) == (height, width)


def test_calc_psnr_plain_is_minus_ten_log_mse() -> None:
    sr, hr = torch.zeros(7), torch.full((7,), 0.1)
    assert utils.calc_psnr(sr, hr).shape == ()
    assert utils.calc_psnr(sr, hr).item() == pytest.approx(20, abs=1e-5)
    assert utils.calc_psnr(sr * 255, hr * 255, rgb_range=255).item() == pytest.approx(20, abs=1e-5)
    assert math.isinf(utils.calc_psnr(hr, hr))


def test_calc_psnr_border_hides_errors_per_axis() -> None:
    hr = torch.full((1, 3, 20, 20), 0.5)
    sr = hr + 0.01
    sr[..., :3, :] = 1
    sr[..., :, :2] = 1
    assert utils.calc_psnr(sr, hr, "benchmark", (2.5, 2)).item() > 40
    assert utils.calc_psnr(sr, hr, "benchmark", (2, 2)).item() < 25
    assert utils.calc_psnr(sr, hr, "div2k", 1.5).item() == pytest.approx(40, abs=1e-3)


def test_calc_psnr_benchmark_weighs_luma() -> None:
    hr = torch.zeros(1, 3, 9, 9)
    sr = hr.clone()
    sr[:, 1] = 0.1
    luma = 0.1 * 129.057 / 256
    expected = -20 * math.log10(luma)
    assert utils.calc_psnr(sr, hr, "benchmark", 2).item() == pytest.approx(expected, abs=1e-4)


def test_calc_psnr_refusals() -> None:
    image = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"'set5' given; allowed: 'benchmark', 'div2k'"):
        utils.calc_psnr(image, image, "set5")
    with pytest.raises(DataError, match="8x8 pixels has nothing left"):
        utils.calc_psnr(image, image, "benchmark", 4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (45.4, "45 s"), (90, "1.5 min"), (3600, "1.0 h"), (90000, "25.0 h")],
)
def test_time_text(seconds: float, text: str) -> None:
    assert utils.time_text(seconds) == text


def test_natural_key() -> None:
    names = ["img10.png", "img2.png", "IMG1.png", "7", "a"]
    assert sorted(names, key=utils.natural_key) == ["7", "a", "IMG1.png", "img2.png", "img10.png"]


def test_natural_key_of_digits_that_are_no_numbers() -> None:
    assert sorted(["²2", "²1", "٣"], key=utils.natural_key)[-2:] == ["²1", "²2"]


def test_did_you_mean() -> None:
    near = utils.did_you_mean("edsr-baselin", [3, "rdn", "edsr-baseline"])
    assert near == " (did you mean 'edsr-baseline'?)"
    assert utils.did_you_mean("xyz", ["rdn"]) == ""
    assert utils.did_you_mean(3, ["rdn"]) == ""


def test_parse_scale() -> None:
    given = ("2", "3.7", "2x3.5", "2,3.5", "0.5")
    expected = [(2, 2), (3.7, 3.7), (2, 3.5), (2, 3.5), (0.5, 0.5)]
    assert [utils.parse_scale(text) for text in given] == expected


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1x0", "nan", "inf", "2x2x2", "2;3", "2,"])
def test_parse_scale_refuses(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        utils.parse_scale(text, "--scale")
    assert str(caught.value) == (
        f"--scale: {text!r} given; allowed: S or SY,SX, numbers above 0, such as 4 or 2,3.5"
    )


def test_parse_scale_has_a_smallest_one() -> None:
    assert utils.parse_scale("1x2", smallest=1) == (1, 2)
    with pytest.raises(ConfigError, match=r"scale: '2x0\.9' given; .*numbers of at least 1,"):
        utils.parse_scale("2x0.9", smallest=1)


@pytest.mark.parametrize(
    ("dataset", "scale", "border"),
    [(None, 4, (0, 0)), ("benchmark", (2, 3.5), (2, 4)), ("div2k", 1.5, (8, 8))],
)
def test_border(dataset: str | None, scale: Any, border: tuple[int, int]) -> None:
    assert utils.border_width(dataset, scale) == border
    image = torch.arange(20 * 30).view(20, 30)
    inside = utils.crop_border(image, dataset, scale)
    assert inside[0, 0] == border[0] * 30 + border[1]
    assert inside.shape == (20 - 2 * border[0], 30 - 2 * border[1])
    assert utils.crop_border(image[:3, :3], "div2k", scale).numel() == 0
