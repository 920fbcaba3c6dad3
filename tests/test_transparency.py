"""Transparency: what hides under alpha 0 never shows, whatever enlarges and writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import demo
from datasets.images import write_rgb
from datasets.resize import FILTERS
from datasets.transparency import fill_hidden
from engine.render import ContinuousImage


def disc(side: int, visible: int, hidden: int) -> np.ndarray:
    """A disc of one colour with a soft edge, (side, side, 4), on another that is transparent."""
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    alpha = np.clip(side * 0.35 - np.hypot(x, y) + 0.5, 0, 1)
    grey = np.where(alpha > 0, visible, hidden)
    return np.dstack([grey, grey, grey, alpha * 255]).round().astype(np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [2, 4])
def test_hidden_pixels_take_the_nearest_visible_colour(dtype: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 200, (9, 11, channels)).astype(dtype)
    pixels[..., -1] *= rng.random((9, 11)) < 0.3
    visible = np.argwhere(pixels[..., -1] > 0)
    before = pixels.copy()
    filled = fill_hidden(pixels)
    assert np.array_equal(pixels, before)
    assert filled.dtype == pixels.dtype
    assert np.array_equal(filled[..., -1], pixels[..., -1])
    for row, column in np.ndindex(9, 11):
        distances = ((visible - (row, column)) ** 2).sum(1)
        nearest = visible[distances == distances.min()]
        assert filled[row, column, :-1].tolist() in [pixels[r, c, :-1].tolist() for r, c in nearest]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_nothing_changes_where_nothing_hides(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, channels)).astype(np.uint8)
    if channels in (2, 4):
        pixels[..., -1] = 1
        assert fill_hidden(pixels) is pixels
        pixels[..., -1] = 0  # nothing visible
    assert fill_hidden(pixels) is pixels


def on(background: int, path: Path) -> np.ndarray:
    """A picture file as shown on a background, (H, W, 3)."""
    shown = np.asarray(Image.open(path).convert("RGBA")).astype(float)
    alpha = shown[..., 3:] / 255
    return shown[..., :3] * alpha + background * (1 - alpha)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "rgba.webp", "PA", "16-bit"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg", ".tif"])
@pytest.mark.parametrize("way", [[], ["--baseline", "bicubic"], ["--baseline", "lanczos"]])
@pytest.mark.parametrize("visible", [0, 255])
def test_hidden_colours_do_not_leak(
    tmp_path: Path, mode: str, suffix: str, way: list[str], visible: int
) -> None:
    """A disc of one colour, enlarged and put on that colour, is that colour all over."""
    pixels = disc(24, visible, 255 - visible)
    source = tmp_path / "in.png"
    if mode == "RGBA":
        Image.fromarray(pixels).save(source)
    elif mode == "LA":
        Image.fromarray(pixels[..., [0, 3]].copy(), "LA").save(source)
    elif mode == "rgba.webp":
        source = tmp_path / "in.webp"
        Image.fromarray(pixels).save(source, lossless=True, exact=True)
    elif mode == "PA":
        index = (pixels[..., 3] > 0).astype(np.uint8)
        palette = Image.fromarray(index, "P")
        palette.putpalette([255 - visible] * 3 + [visible] * 3)
        palette.save(source, transparency=0)
    else:
        write_rgb(source, pixels.astype(np.uint16) * 257)
    output = tmp_path / f"out{suffix}"
    arguments = ["--input", str(source), "--output", str(output), "--scale", "3", *way]
    assert demo.main(arguments) == 0
    shown = on(visible, output)
    wanted = np.full((72, 72), float(visible))
    if suffix == ".jpg":  # is flattened on white
        alpha = Image.fromarray((pixels[..., 3] > 0) * np.uint8(255)) if mode == "PA" else None
        alpha = alpha or Image.fromarray(pixels[..., 3])
        enlarged = np.asarray(alpha.resize((72, 72), FILTERS["bicubic"]))
        wanted = visible * (enlarged / 255) + 255 * (1 - enlarged / 255)
    assert np.abs(shown - wanted[..., None]).max() <= (16 if suffix == ".jpg" else 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_from_arrays_do_not_leak(dtype: type) -> None:
    pixels = disc(24, 255, 0).astype(dtype)
    pixels = pixels / pixels.max() if dtype is np.float32 else pixels * (np.iinfo(dtype).max // 255)
    image = ContinuousImage.represent(pixels.astype(dtype), None)
    assert image.render(48, 48).min() > 0.98
