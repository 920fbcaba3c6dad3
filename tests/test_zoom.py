"""The film that glides into a photograph."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import demo
import models
from datasets.images import write_rgb
from datasets.resize import resize_pil
from engine.render import ContinuousImage
from engine.render.zoom import film_pixels, frames_of, plan_film
from engine.weights.checkpoint import save_checkpoint
from tests.small import TINY as SPEC
from utils import ConfigError, DataError


def picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = [0.5 + 0.5 * np.sin(6 * (y + k * x) + k) for k in range(3)]
    return (np.stack(planes, axis=-1) * 255).astype(np.uint8)


def make_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.make(SPEC).eval()


lengths = st.integers(2, 400)


@given(lengths, lengths, st.none() | st.tuples(lengths, lengths), st.data())
@settings(deadline=None, max_examples=60)
def test_parts_lie_in_the_photograph_and_shrink(
    height: int, width: int, resolution: tuple[int, int] | None, data: st.DataObject
) -> None:
    detail = None
    if data.draw(st.booleans()):
        edges = [
            sorted(data.draw(st.lists(st.floats(0, n), min_size=2, max_size=2, unique=True)))
            for n in (height, width)
        ]
        detail = (edges[0][0], edges[1][0], edges[0][1], edges[1][1])
        if min(detail[2] - detail[0], detail[3] - detail[1]) < 1e-3:
            detail = None
    film = plan_film((height, width), resolution, detail, frames=9)
    assert all(length % 2 == 0 for length in film.resolution)
    assert len(film.boxes) == 9
    previous = float("inf")
    for top, left, bottom, right in film.boxes:
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        assert bottom - top <= previous + 1e-9
        previous = bottom - top
    whole = film.boxes[0]
    fills = max((whole[2] - whole[0]) / height, (whole[3] - whole[1]) / width)
    assert fills == pytest.approx(1)
    shapes = [(box[2] - box[0]) / (box[3] - box[1]) for box in film.boxes]
    assert shapes == pytest.approx([film.resolution[0] / film.resolution[1]] * 9, rel=1e-6)


def test_the_film_ends_at_the_detail() -> None:
    film = plan_film((100, 100), (40, 80), (30, 10, 40, 40))
    # 10 x 30, widened to 15 x 30 around its middle, which is at (35, 25).
    assert film.boxes[-1] == pytest.approx((27.5, 10, 42.5, 40))
    film = plan_film((100, 100), (40, 40), (90, 0, 100, 5))
    assert film.boxes[-1] == pytest.approx((90, 0, 100, 10))


def test_without_a_detail_the_film_ends_eight_times_enlarged() -> None:
    film = plan_film((1000, 1500), (200, 300))
    assert film.boxes[-1] == pytest.approx((487.5, 731.25, 512.5, 768.75))


@pytest.mark.parametrize("resolution", [(10**300, 2), (4, 10**7 + 1)])
def test_frames_too_large_are_refused(resolution: tuple[int, int]) -> None:
    given = "x".join(f"{side:.15g}" for side in resolution)
    with pytest.raises(ConfigError) as caught:
        plan_film((100, 100), resolution)
    assert str(caught.value) == f"{given} pixels asked for; allowed: up to 10000000 a side"


def test_the_motion_is_even() -> None:
    """Half-way in time is half-way in zoom: the geometric mean of both ends."""
    film = plan_film((256, 256), (32, 32), (128, 128, 132, 132), frames=3)
    heights = [box[2] - box[0] for box in film.boxes]
    assert heights == pytest.approx([256, 32, 4])


def test_frames_are_the_photograph_resized_and_then_the_models() -> None:
    pixels, model = picture(60, 60), make_model()
    film = plan_film((60, 60), (20, 20), (31, 20, 36, 25), frames=5)
    image = ContinuousImage.represent(pixels, model, keep_features=False)
    frames = [*frames_of(pixels, film, image, lambda done: None)]
    np.testing.assert_array_equal(frames[0], resize_pil(pixels, (20, 20)))
    image = ContinuousImage.represent(pixels, model)
    painted = [n for n, box in enumerate(film.boxes) if box[2] - box[0] < 20]
    assert painted
    for n in painted:
        expected = image.render(20, 20, film.boxes[n]).permute(1, 2, 0).numpy() * 255
        assert np.abs(frames[n] - expected).max() <= 0.51


def test_films_have_8_bits_and_three_colours() -> None:
    sixteen = picture(5, 6).astype(np.uint16)[..., :1] * 257
    result = film_pixels(sixteen)
    np.testing.assert_array_equal(result, picture(5, 6)[..., [0, 0, 0]])
    assert result.dtype == np.uint8


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_rgb(tmp_path / "photo.png", picture(60, 60))
    return tmp_path / "photo.png"


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".mkv", ".webm"])
def test_the_demo_writes_a_film(suffix: str, photo: Path) -> None:
    av = pytest.importorskip("av")
    save_checkpoint(photo.parent / "m.pth", {"model": {**SPEC, "sd": make_model().state_dict()}})
    output = photo.parent / f"film{suffix}"
    args = ["--input", str(photo), "--model", str(photo.parent / "m.pth"), "--box", "10,10,20,20"]
    assert demo.main([*args, "--zoom-video", str(output), "--resolution", "24,32"]) == 0
    with av.open(str(output)) as film:
        shown = [*film.decode(video=0)]
        frames = [frame.to_ndarray(format="rgb24") for frame in shown]
    assert len(frames) == 72
    step = 0.04 if suffix == ".gif" else 1 / 24
    assert [frame.time for frame in shown] == pytest.approx(np.arange(72) / 24, abs=step / 4)
    assert frames[0].shape == (24, 32, 3)
    # Films are lossy; the first frame is nearly the middle of the photograph, shrunk.
    whole = resize_pil(np.ascontiguousarray(picture(60, 60)[7:52]), (24, 32))
    assert np.abs(frames[0].astype(int) - whole).mean() < 12
    assert sorted(os.listdir(photo.parent)) == sorted([output.name, "m.pth", "photo.png"])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--zoom-video", "film.avi"], "--zoom-video: film.avi given; allowed: a name that ends"),
        (["--zoom-video", "film.gif", "--scale", "2"], "given with --scale"),
        (["--zoom-video", "film.gif", "--output", "out.png"], "given with --output"),
        (["--zoom-video", "film.gif", "--box", "0,0,61,5"], "box: 0,0,61,5 given"),
        (["--zoom-video", "film.gif", "--baseline", "lanczos"], "allowed in films: bicubic"),
    ],
)
def test_bad_options(
    extra: list[str], message: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    if "--baseline" not in extra:
        extra = [*extra, "--baseline", "bicubic"]
    with pytest.raises(ConfigError) as caught:
        demo.main(["--input", "photo.png", *extra])
    assert message in str(caught.value)
    assert os.listdir(photo.parent) == ["photo.png"]


def test_a_place_that_takes_no_film_is_refused(photo: Path) -> None:
    with pytest.raises(DataError, match=r"film.gif: can't be written"):
        demo.main(
            ["--input", str(photo), "--baseline", "bicubic", "--zoom-video", "/proc/film.gif"]
        )


@pytest.mark.parametrize("name", ["film.gif", "film.mp4", "film.mkv", "film.webm"])
def test_a_size_that_no_encoder_takes_is_refused_before_a_frame_is_made(
    name: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    where = ["--input", "photo.png", "--zoom-video", name, "--resolution", "100000,100000"]
    with pytest.raises(DataError, match=rf"^{name}: frames of 100000x100000 pixels can't be"):
        demo.main([*where, "--baseline", "bicubic"])
    assert os.listdir() == ["photo.png"]


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_a_missing_package_is_named(
    name: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"package av is needed .* pip install av"):
        demo.main(["--input", str(photo), "--baseline", "bicubic", "--zoom-video", name])
