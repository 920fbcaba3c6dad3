"""Resizing: MATLAB's imresize to the last bit, Pillow's as the data sets use it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.images import read_rgb
from datasets.resize import contributions, cubic, resize_matlab, resize_pil

STORED = np.load(Path(__file__).parent / "data" / "imresize.npz")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_stored_corner(scale: int) -> None:
    """The top left corner of a picture that MATLAB shrank; beyond it the crop has other borders."""
    wanted = STORED[f"x{scale}"]
    n = len(wanted)
    for size in ((60 // scale, 60 // scale), 1 / scale):
        assert np.array_equal(resize_matlab(STORED["hr"], size)[:n, :n], wanted)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_every_pixel_of_set5(reference: Path, scale: int) -> None:
    folder = reference / "data" / "Set5"
    files = sorted((folder / "HR").glob("*.png"))
    assert len(files) == 5
    for file in files:
        high = read_rgb(file)
        height, width = high.shape[0] // scale, high.shape[1] // scale
        made = resize_matlab(high[: height * scale, : width * scale], (height, width))
        supplied = read_rgb(folder / "LR_bicubic" / f"X{scale}" / f"{file.stem}x{scale}.png")
        assert np.array_equal(made, supplied), file.name


def by_hand(pixels: np.ndarray, length: int, scale: float) -> np.ndarray:
    """Rows of grey pixels resized and not yet rounded, each pixel from its definition."""
    n = len(pixels)
    stretch = min(scale, 1.0)
    result = np.zeros((length, pixels.shape[1]))
    for row in range(length):
        centre = (row + 0.5) / scale - 0.5
        total = 0.0
        for source in range(int(centre - 3 / stretch) - 2, int(centre + 3 / stretch) + 3):
            weight = float(cubic(np.array([stretch * (centre - source)]))[0])
            inside = source % (2 * n)
            inside = inside if inside < n else 2 * n - 1 - inside
            result[row] += weight * pixels[inside]
            total += weight
        result[row] /= total
    return result.clip(0, 255)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 9), st.integers(2, 9), st.integers(1, 30), st.integers(1, 30), st.integers(0, 99)
)
def test_matlab_any_size_by_hand(
    height: int, width: int, new_height: int, new_width: int, seed: int
) -> None:
    """Enlarging, shrinking and both at once, an axis after the other.

    A pixel may be half a level from what the definition gives; at a tie it falls to either side.
    """
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    scales = (new_height / height, new_width / width)
    made = pixels
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        size = (new_height, made.shape[1]) if axis == 0 else (made.shape[0], new_width)
        given = made if axis == 0 else made.T
        exact = by_hand(given, size[axis], scales[axis])
        made = resize_matlab(made, size)
        turned = made if axis == 0 else made.T
        assert np.abs(turned - exact).max() <= 0.5 + 1e-6
    assert np.array_equal(made, resize_matlab(pixels, (new_height, new_width)))


def test_matlab_scale_keeps_its_distance() -> None:
    """With a scale the sizes are rounded up and samples lie 1/scale apart, as in MATLAB."""
    ramp = np.repeat((np.arange(26, dtype=np.uint8) * 8)[:, None], 26, axis=1)
    made = resize_matlab(ramp, 0.25)
    assert made.shape == (7, 7)
    # Away from the ends a ramp stays one: centres at 9.5, 13.5, 17.5 of the 26 rows.
    assert made[2:5, 3].tolist() == [76, 108, 140]
    assert resize_matlab(ramp, (7, 7))[2:5, 3].tolist() != [76, 108, 140]


def test_matlab_constant_and_identity() -> None:
    pixels = np.full((7, 5, 3), 137, np.uint8)
    for size in ((14, 10), (3, 2), (7, 13), 1.7):
        assert (resize_matlab(pixels, size) == 137).all()
    noise = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    assert np.array_equal(resize_matlab(noise, (9, 8)), noise)


def test_matlab_without_antialiasing_takes_four_taps() -> None:
    indices, weights = contributions(30, 10, 1 / 3, antialias=False)
    assert indices.shape[1] <= 4
    assert np.allclose(weights.sum(axis=1), 1)
    # Output centres fall on input pixels 1, 4, 7, ...: without antialiasing those are taken alone.
    pixels = np.random.default_rng(1).integers(0, 256, (30, 30), dtype=np.uint8)
    assert np.array_equal(resize_matlab(pixels, (10, 10), antialias=False), pixels[1::3, 1::3])


@pytest.mark.parametrize("kind", ["bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize("size", [(5, 9), (23, 31), (8, 40), (40, 8), (16, 9), (9, 20)])
def test_pil_is_pillows(kind: str, size: tuple[int, int]) -> None:
    """Columns first, whatever this release of Pillow would do first; that is a call for each."""
    pixels = np.random.default_rng(2).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    resample = Image.Resampling[kind.upper()]
    columns = Image.fromarray(pixels).resize((size[1], 16), resample)
    wanted = np.asarray(columns.resize((size[1], size[0]), resample))
    assert np.array_equal(resize_pil(pixels, size, kind), wanted)
    grey = resize_pil(pixels[..., :1], size, kind)
    assert np.array_equal(grey, wanted[..., :1])
    if kind != "nearest" and size[0] >= 16:  # no release begins with rows that become more
        assert np.array_equal(
            wanted, np.asarray(Image.fromarray(pixels).resize(size[::-1], resample))
        )
