"""The demo: what it writes, what it keeps of a photograph, and how it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import demo
import models
from datasets.images import Photo, read_photo, read_rgb, read_size, write_photo, write_rgb
from datasets.resize import FILTERS, resize_pil
from engine.render import ContinuousImage
from engine.render.resampling import resample_rows
from engine.render.tiling import Grid
from engine.weights.checkpoint import save_checkpoint
from tests.commands import Commands
from tests.small import TINY as SPEC
from utils import ConfigError, DataError, UserError

ROOT = Path(__file__).resolve().parent.parent


def picture(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    """Smooth colours with an edge, so that resizing has something to do."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = [0.5 + 0.5 * np.sin(6 * (y + k * x) + k) for k in range(channels)]
    values = np.stack(planes, axis=-1) * np.where(x > 0.3, 1.0, 0.6)[..., None]
    return (values * np.iinfo(dtype).max).astype(dtype)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model, whose average weights differ from its own."""
    torch.manual_seed(0)
    model = models.make(SPEC)
    state = model.state_dict()
    ema = {name: value * 1.1 for name, value in state.items()}
    path = tmp_path_factory.mktemp("model") / "tiny.pth"
    save_checkpoint(path, {"model": {**SPEC, "sd": state}, "ema": ema, "epoch": 1})
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_rgb(tmp_path / "photo.png", picture(20, 30))
    return tmp_path / "photo.png"


def run(*arguments: object) -> int:
    return demo.main([str(argument) for argument in arguments])


def rendered(model_file: Path, photo: Path | np.ndarray, height: int, width: int) -> np.ndarray:
    """What the demo should write, by way of the Python interface: uint8 (height, width, 3)."""
    image = ContinuousImage.represent(photo, model_file, device="cpu")
    values = image.render(height, width).permute(1, 2, 0).numpy()
    return np.round(values * 255).astype(np.uint8)


# Published behaviour


def test_published_weights_make_the_published_picture(
    reference: Path, tmp_path: Path, commands: Commands
) -> None:
    """Ours rounds and the published demo truncates: one level is allowed."""
    source = reference / "data" / "Set5" / "LR_bicubic" / "X4" / "butterflyx4.png"
    weights = reference / "weights" / "edsr-baseline-liif.pth"
    output = tmp_path / "out.png"
    arguments = ("--input", source, "--model", weights, "--resolution", "203,301", "--gpu", "0")
    ended = commands.run("demo.py", *arguments, "--output", output, folder=tmp_path, seconds=300)
    assert ended.code == 0, ended
    ours = read_rgb(output).astype(int)
    published = read_rgb(reference / "reference" / "demo_butterflyx4_203x301.png").astype(int)
    assert ours.shape == (203, 301, 3)
    assert set(np.unique(ours - published)) <= {0, 1}


def test_resolution_is_height_and_width(model_file: Path, photo: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    args = ("--input", photo, "--model", model_file, "--output", output)
    assert run(*args, "--resolution", "33,71") == 0
    np.testing.assert_array_equal(read_rgb(output), rendered(model_file, photo, 33, 71))


def test_nothing_but_a_photograph_and_a_scale(
    photo: Path, tmp_path: Path, commands: Commands
) -> None:
    (tmp_path / "here").mkdir()
    ended = commands.run("demo.py", "--input", photo, "--scale", "4", folder=tmp_path / "here")
    assert ended.code == 0
    assert re.fullmatch(r"output.png: 80x120 pixels, [0-9.]+ kB, [0-9.]+ s\n", ended.err)
    expected = ContinuousImage.represent(photo).render(80, 120)
    expected = expected.mul(255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(read_rgb(tmp_path / "here" / "output.png"), expected)


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("a.jpg", (), True),
        ("a.png", (), True),  # by content, not by name
        ("a.jpg", ("--model", "MODEL"), False),
        ("a.jpg", ("--baseline", "bicubic"), False),
        ("photo.png", (), False),
    ],
)
def test_of_jpeg_files_the_model_made_for_them_is_told(
    name: str, more: tuple[str, ...], told: bool, model_file: Path, photo: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if name != "photo.png":
        Image.fromarray(picture(20, 30)).save(photo.parent / name, "JPEG")
    more = tuple(str(model_file) if one == "MODEL" else one for one in more)
    output = photo.parent / "out.png"
    run("--input", photo.parent / name, "--output", output, "--scale", "2", *more)
    assert ("JPEG: --model compact-liif-photo" in capsys.readouterr().err) == told


@pytest.mark.parametrize("inputs", [["."], ["*.png"], ["photo.png", "photo.png"]])
def test_several_photographs_need_a_folder(
    inputs: list[str], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    with pytest.raises(ConfigError, match="--output: missing; allowed for several photographs: a"):
        run("--input", *inputs, "--scale", "4")
    assert os.listdir() == ["photo.png"]


@pytest.mark.parametrize(
    ("given", "size"),
    [("3.7", (74, 111)), ("2,3.5", (40, 105)), ("1", (20, 30)), ("4", (80, 120))],
)
def test_scale(given: str, size: tuple[int, int], model_file: Path, photo: Path) -> None:
    output = photo.parent / "out.png"
    run("--input", photo, "--model", model_file, "--output", output, "--scale", given)
    np.testing.assert_array_equal(read_rgb(output), rendered(model_file, photo, *size))


@pytest.mark.parametrize(
    ("given", "size"), [("0.5", (10, 15)), ("0.99,2", (20, 60)), ("0.4,0.7", (8, 21))]
)
def test_what_reduces_is_averaged(
    given: str, size: tuple[int, int], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A decoder asked for fewer pixels samples, and shows moire; bicubic is Pillow's own."""
    output = photo.parent / "out.png"
    run("-i", photo, "-o", output, "-s", given)
    reduced = size[0] < 20 or size[1] < 30
    assert ("reduced by bicubic" in capsys.readouterr().err) == reduced
    if reduced:
        np.testing.assert_array_equal(read_rgb(output), resize_pil(read_rgb(photo), size))
    with pytest.raises(ConfigError, match="--compare: 8x21 pixels of 20x30 asked for; allowed: en"):
        run("-i", photo, "-o", output, "-s", "0.4,0.7", "--compare")


def test_box(model_file: Path, photo: Path) -> None:
    output = photo.parent / "out.png"
    args = ("--input", photo, "--model", model_file, "--output", output)
    run(*args, "--scale", "4", "--box", "2.5,4,10,17.25")
    expected = rendered(model_file, photo, 80, 120)[10:40, 16:69]
    np.testing.assert_array_equal(read_rgb(output), expected)
    run(*args, "--resolution", "17,19", "--box", "2.5,4,10,17.25")
    image = ContinuousImage.represent(photo, model_file).render(17, 19, (2.5, 4, 10, 17.25))
    by_hand = np.round(image.permute(1, 2, 0).numpy() * 255)
    np.testing.assert_array_equal(read_rgb(output), by_hand)


def test_raw_weights_are_not_the_average(model_file: Path, photo: Path) -> None:
    output = photo.parent / "out.png"
    args = ("--input", photo, "--model", model_file, "--output", output, "--scale", "2")
    run(*args)
    average = read_rgb(output)
    run(*args, "--raw-weights")
    image = ContinuousImage.represent(photo, model_file, raw_weights=True).render(40, 60)
    by_hand = np.round(image.permute(1, 2, 0).numpy() * 255)
    np.testing.assert_array_equal(read_rgb(output), by_hand)
    assert not np.array_equal(read_rgb(output), average)


@pytest.mark.usefixtures("bf16")
def test_precision(model_file: Path, photo: Path) -> None:
    output = photo.parent / "out.png"
    args = ("--input", photo, "--model", model_file, "--output", output, "--scale", "2")
    run(*args, "--precision", "bf16")
    difference = read_rgb(output).astype(int) - rendered(model_file, photo, 40, 60)
    assert 0 < np.abs(difference).max() <= 4


# Baselines and comparison


def test_baseline_bicubic_is_pillows(photo: Path) -> None:
    output = photo.parent / "out.png"
    run("--input", photo, "--baseline", "bicubic", "--output", output, "--scale", "2.3,0.7")
    expected = resize_pil(read_rgb(photo), (46, 21))
    np.testing.assert_array_equal(read_rgb(output), expected)


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(80, 150), (90, 141), (11, 9)])
def test_bands_of_a_resize_are_the_whole_resize(kind: str, size: tuple[int, int]) -> None:
    pixels = picture(40, 50)
    grid = Grid((40, 50), *size)
    tops = range(0, size[0], 4)
    bands = [resample_rows(pixels, grid, (top, min(top + 4, size[0])), kind) for top in tops]
    planes = [Image.fromarray(pixels[..., channel].astype(np.float32)) for channel in range(3)]
    whole = np.stack([plane.resize(size[::-1], FILTERS[kind]) for plane in planes], axis=-1)
    difference = np.abs(np.concatenate(bands) - whole.clip(0, 255))
    assert difference.max() <= (0 if kind == "nearest" else 0.501)


@given(
    length=st.integers(1, 60),
    count=st.integers(1, 150),
    start=st.sampled_from([0, 0.25, 1 / 3, 0.5]),
    stop=st.sampled_from([1, 0.9, 0.75]),
    rows=st.integers(1, 20),
    dtype=st.sampled_from([np.uint8, np.uint16]),
)
@example(length=28, count=42, start=0, stop=1, rows=5, dtype=np.uint8)  # ties
@settings(max_examples=100, deadline=None)
def test_bands_by_nearest_are_pillows_whole(
    length: int, count: int, start: float, stop: float, rows: int, dtype: Any
) -> None:
    box = (start * length, start * 7, stop * length, stop * 7)
    pixels = picture(length, 7, 1, dtype)
    grid = Grid((length, 7), count, 9, box)
    tops = range(0, count, rows)
    bands = [resample_rows(pixels, grid, (top, min(top + rows, count)), "nearest") for top in tops]
    plane = Image.fromarray(pixels[..., 0].astype(np.int32))
    whole = plane.resize((9, count), Image.Resampling.NEAREST, box=(box[1], box[0], box[3], box[2]))
    given = np.concatenate(bands)[..., 0]
    assert given.dtype == dtype
    np.testing.assert_array_equal(given, np.asarray(whole))


def test_a_resize_of_16_bits_keeps_them() -> None:
    pixels = picture(12, 10, 2, np.uint16)
    result = resample_rows(pixels, Grid((12, 10), 36, 30), (0, 36))
    plane = Image.fromarray(pixels[..., 1].astype(np.float32)).resize((30, 36), Image.BICUBIC)
    assert result.dtype == np.uint16
    assert np.abs(result[..., 1] - np.asarray(plane).clip(0, 65535)).max() <= 0.51


def test_compare_shows_bicubic_and_the_model(model_file: Path, photo: Path) -> None:
    output = photo.parent / "out.png"
    args = ("--input", photo, "--model", model_file, "--output", output, "--scale", "4")
    run(*args, "--compare")
    both = read_rgb(output)
    top = both.shape[0] - 80
    np.testing.assert_array_equal(both[top:, :120], resize_pil(read_rgb(photo), (80, 120)))
    np.testing.assert_array_equal(both[top:, -120:], rendered(model_file, photo, 80, 120))
    label = both[:top]
    assert (label < 100).any(), "no letters above the pictures"


# What a photograph holds besides 8-bit colours


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits(suffix: str, model_file: Path, tmp_path: Path) -> None:
    pixels = picture(12, 14, 3, np.uint16)
    write_rgb(tmp_path / f"in{suffix}", pixels)
    output = tmp_path / f"out{suffix}"
    run(
        "--input", tmp_path / f"in{suffix}", "--model", model_file, "--output", output, "--scale", 2
    )
    result = read_photo(output).pixels
    image = ContinuousImage.represent(pixels, model_file).render(24, 28)
    assert result.dtype == np.uint16
    assert np.abs(result - image.permute(1, 2, 0).numpy() * 65535).max() <= 0.51
    assert len(np.unique(result)) > 256


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_resized_beside_the_colours(
    channels: int, model_file: Path, tmp_path: Path
) -> None:
    pixels = picture(12, 14, channels)
    write_rgb(tmp_path / "in.png", pixels)
    output = tmp_path / "out.png"
    run("--input", tmp_path / "in.png", "--model", model_file, "--output", output, "--scale", 3)
    result = read_photo(output).pixels
    alpha = resize_pil(np.ascontiguousarray(pixels[..., -1]), (36, 42))
    np.testing.assert_array_equal(result[..., -1], alpha)
    colours = rendered(model_file, tmp_path / "in.png", 36, 42)
    if channels == 4:
        np.testing.assert_array_equal(result[..., :3], colours)
    else:
        assert np.abs(result[..., 0] - colours.mean(axis=-1)).max() <= 0.51


def test_grey_stays_grey(model_file: Path, tmp_path: Path) -> None:
    write_rgb(tmp_path / "in.png", picture(12, 14, 1))
    output = tmp_path / "out.png"
    run("--input", tmp_path / "in.png", "--model", model_file, "--output", output, "--scale", 2)
    result = read_photo(output).pixels
    assert result.shape == (24, 28, 1)
    colours = rendered(model_file, tmp_path / "in.png", 24, 28).mean(axis=-1)
    assert np.abs(result[..., 0] - colours).max() <= 0.51


def test_metadata_are_kept_unless_they_are_to_be_left_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 6, "(c) somebody"  # turned, copyright
    Image.fromarray(picture(12, 16)).save(
        tmp_path / "a.jpg", exif=exif, comment="hello", xmp=b"<x:xmpmeta/>", dpi=(300, 300)
    )
    for suffix in (".jpg", ".png", ".webp", ".tif"):
        for strip in ([], ["--strip-metadata"]):
            output = tmp_path / f"out{len(strip)}{suffix}"
            arguments = ("--input", tmp_path / "a.jpg", "--baseline", "bicubic", "--scale", 2)
            assert run(*arguments, "--output", output, *strip) == 0
            with Image.open(output) as image:
                image.load()
                found = image.getexif()
                beside = str({**image.info, **found})
            assert image.size == (24, 32), "the picture is upright"
            assert found.get(0x0112, 1) == 1
            assert found.get(0x8298) == (None if strip else "(c) somebody")
            for text in ("hello", "<x:xmpmeta/>"):
                assert (text in beside) != bool(strip), (suffix, text)
            assert read_photo(output).dpi == pytest.approx((300, 300), rel=0.01)


def test_profile_and_resolution_are_kept(model_file: Path, tmp_path: Path) -> None:
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_photo(tmp_path / "in.png", Photo(picture(8, 9), icc, (300.0, 300.0)))
    for name in ("out.png", "out.tif", "out.jpg"):
        output = tmp_path / name
        run("--input", tmp_path / "in.png", "--model", model_file, "--output", output, "--scale", 2)
        result = read_photo(output)
        assert result.icc == icc, name
        assert result.dpi == pytest.approx((300, 300), rel=0.01), name


def test_orientation_is_applied(model_file: Path, tmp_path: Path) -> None:
    upright = Image.fromarray(picture(10, 16))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter to the right
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "in.tif", exif=exif)
    output = tmp_path / "out.png"
    run("--input", tmp_path / "in.tif", "--model", model_file, "--output", output, "--scale", 2)
    expected = rendered(model_file, np.asarray(upright), 20, 32)
    np.testing.assert_array_equal(read_rgb(output), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats(suffix: str, model_file: Path, photo: Path) -> None:
    output = photo.parent / f"out{suffix}"
    run("--input", photo, "--model", model_file, "--output", output, "--scale", "4")
    difference = read_rgb(output).astype(int) - rendered(model_file, photo, 80, 120)
    assert np.abs(difference).mean() < 6


# Several photographs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five photographs, and a text that is none."""
    inside = tmp_path / "in"
    inside.mkdir()
    for number in range(1, 6):
        write_rgb(inside / f"p{number}.png", picture(6 + number, 9))
    (inside / "notes.txt").write_text("no picture")
    return inside


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_becomes_a_folder(model_file: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("--input", folder, "--model", model_file, "--output", out, "--scale", "2")
    assert sorted(contents(out)) == [f"p{number}.png" for number in range(1, 6)]
    np.testing.assert_array_equal(
        read_rgb(out / "p3.png"), rendered(model_file, folder / "p3.png", 18, 18)
    )


def test_patterns_and_lists(model_file: Path, folder: Path, tmp_path: Path) -> None:
    args = ("--model", model_file, "--scale", "2")
    run("--input", folder / "p[1-3].png", *args, "--output", tmp_path / "a")
    assert sorted(contents(tmp_path / "a")) == ["p1.png", "p2.png", "p3.png"]
    run("--input", folder / "p5.png", folder / "p1.png", *args, "--output", tmp_path / "b")
    assert sorted(contents(tmp_path / "b")) == ["p1.png", "p5.png"]
    run("--input", folder / "p4.png", *args, "--output", tmp_path / "b")
    assert sorted(contents(tmp_path / "b")) == ["p1.png", "p4.png", "p5.png"]


def test_what_is_there_is_skipped(
    model_file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    args = ("--input", folder, "--model", model_file, "--output", out, "--scale", "2")
    run(*args)
    whole = contents(out)
    (out / "p2.png").unlink()
    write_rgb(out / "p4.png", picture(7, 7))  # of another scale
    (out / "p5.png").write_bytes(b"no picture")
    capsys.readouterr()
    run(*args)
    *lines, last = capsys.readouterr().err.splitlines()[-4:]
    named = "2 results of this size were there already (p1.png, p3.png); --overwrite renders"
    assert last.startswith(named)
    said = [
        ("2/5", "p2.png", "16x18", ""),
        *((f"{n}/5", f"p{n}.png", f"{12 + 2 * n}x18", "; replaces what was there") for n in (4, 5)),
    ]
    for line, (place, name, size, note) in zip(lines, said, strict=True):
        start = re.escape(f"{place} {out / name}: {size} pixels, ")
        assert re.fullmatch(rf"{start}[0-9.]+ kB, [0-9.]+ s{note}", line)
    assert contents(out) == whole
    run(*args, "--overwrite")
    assert contents(out) == whole
    run(*args[:-1], "3")
    assert read_size(out / "p1.png") == (21, 27), "of another scale"
    assert run(*args, "--compare") == run(*args, "--compare") == 0
    assert "5 results of this size" in capsys.readouterr().err


def test_names_and_formats_of_results(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "trip" / "beach").mkdir(parents=True)
    write_rgb(folder / "trip" / "a.webp", picture(6, 7))
    write_rgb(folder / "trip" / "beach" / "p1.png", picture(5, 7))
    out = folder / "out"  # below the photographs: no photograph the next time
    args = ("--baseline", "bicubic", "-s", "2", "-o", out, "--format", "jpg", "--suffix", "_x2")
    for message in ("7/7 ", "7 results of this size were there already"):
        assert run(folder, *args, "--recursive") == 0
        assert message in capsys.readouterr().err
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == [*(f"p{n}_x2.jpg" for n in range(1, 6)), "trip/a_x2.jpg",
                     "trip/beach/p1_x2.jpg"]  # fmt: skip
    assert read_size(out / "trip" / "beach" / "p1_x2.jpg") == (10, 14)
    with Image.open(out / "p1_x2.jpg") as image:
        assert image.format == "JPEG"


def test_one_photograph_needs_no_option_names(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photo.parent)
    args = ("--baseline", "bicubic", "--scale", "2", "photo.png", "--format", "webp")
    for note in ("", "; replaces what was there"):
        assert run(*args) == 0
        said = capsys.readouterr().err
        assert re.fullmatch(rf"output.webp: 40x60 pixels, [0-9.]+ kB, [0-9.]+ s{note}\n", said)


@pytest.mark.parametrize("scale", [1, 4, 60])
def test_labels_grow_with_the_picture(scale: int, photo: Path) -> None:
    """Letters are a twentieth of the shorter side, and no smaller than can be read."""
    output = photo.parent / "out.png"
    run(photo, "-s", scale, "-o", output, "--compare", "--baseline", "lanczos")
    both = read_rgb(output)
    label = both[: both.shape[0] - 20 * scale]
    rows = np.flatnonzero((label < 128).any(axis=(1, 2)))
    letters = max(14, scale)
    assert 0.3 * letters <= rows[-1] - rows[0] + 1 <= letters
    for half in (label[:, : 30 * scale], label[:, -30 * scale :]):
        assert (half < 128).any(), "no name over this half"


def test_processes_share_a_folder(model_file: Path, folder: Path, tmp_path: Path) -> None:
    """As `torchrun` starts them: each result once, with the bytes of a single process."""
    args = ("--input", folder, "--model", model_file, "--scale", "2.5")
    run(*args, "--output", tmp_path / "one")
    shared = tmp_path / "two"
    seen = []
    for rank in range(2):
        before = set(contents(shared)) if shared.exists() else set()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RANK", str(rank))
            patch.setenv("WORLD_SIZE", "2")
            run(*args, "--output", shared)
        seen.append(set(contents(shared)) - before)
    assert [sorted(names) for names in seen] == [
        ["p1.png", "p3.png", "p5.png"],
        ["p2.png", "p4.png"],
    ]
    assert contents(shared) == contents(tmp_path / "one")


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The demo in two processes."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"),
            *(str(ROOT / "demo.py"), *map(str, arguments)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_torchrun_renders_a_folder(model_file: Path, folder: Path, tmp_path: Path) -> None:
    args = ("--input", folder, "--model", model_file, "--scale", "2.5")
    run(*args, "--output", tmp_path / "one")
    ended = torchrun(*args, "--output", tmp_path / "two")
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def errors_of(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of the demo's processes among those of torchrun."""
    return sorted(line for line in ended.stderr.splitlines() if line.startswith("error: "))


@pytest.mark.slow
def test_what_ends_no_photograph_but_its_own_over_processes(
    model_file: Path, tmp_path: Path
) -> None:
    """A broken one ends the process that had little else to do, long before the other's share."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(1, 9):
        write_rgb(folder / f"p{number}.png", picture(*((6, 7) if number == 4 else (60, 70))))
    (folder / "p2.png").write_bytes((folder / "p2.png").read_bytes()[:60])
    (folder / "p6.png").write_bytes(b"")
    args = ("--input", folder, "--model", model_file, "--scale", "12", "--box", "0,0,50,60")
    with pytest.raises(DataError, match="3 of 8 photographs could not be rendered"):
        run(*args, "--output", tmp_path / "one")
    ended = torchrun(*args, "--output", tmp_path / "two")
    assert ended.returncode == 1, ended.stderr
    *lines, last = errors_of(ended)
    assert last == "error: 3 of 8 photographs could not be rendered"
    assert [re.findall(r"photos/(p\d)", line) for line in lines] == [["p2"], ["p4"], ["p6"]], lines
    assert sorted(contents(tmp_path / "two")) == [f"p{n}.png" for n in (1, 3, 5, 7, 8)]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
def test_processes_report_a_common_mistake_once(folder: Path, tmp_path: Path) -> None:
    args = ("--input", folder, "--model", tmp_path / "none.pth", "--scale", "2")
    ended = torchrun(*args, "--output", tmp_path / "out")
    assert ended.returncode != 0
    assert len(errors_of(ended)) == 1, ended.stderr


def test_a_broken_photograph_does_not_stop_the_others(
    model_file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "p2.png").write_bytes((folder / "p2.png").read_bytes()[:60])
    args = ("--input", folder, "--model", model_file, "--output", tmp_path / "out", "--scale", "2")
    with pytest.raises(DataError, match="1 of 5 photographs could not be rendered"):
        run(*args)
    assert "p2.png" in capsys.readouterr().err
    assert sorted(contents(tmp_path / "out")) == ["p1.png", "p3.png", "p4.png", "p5.png"]


def test_a_box_outside_one_photograph_does_not_stop_the_others(
    model_file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rgb(folder / "p2.png", picture(4, 4))
    args = ("--input", folder, "--model", model_file, "--output", tmp_path / "out", "--scale", "2")
    with pytest.raises(DataError, match="1 of 5 photographs could not be rendered"):
        run(*args, "--box", "0,0,6,6")
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line[:5] == "error"]
    assert re.fullmatch(r"error: \S*p2.png: box: 0,0,6,6 given.*", error)
    assert sorted(contents(tmp_path / "out")) == ["p1.png", "p3.png", "p4.png", "p5.png"]
    with pytest.raises(ConfigError, match="5 of 5 photographs could not be rendered"):
        run(*args, "--box", "0,0,600,6", "--overwrite")


# Refusals

BAD: list[tuple[Sequence[str], type[UserError], str]] = [
    (["--resolution", "0,5"], ConfigError, "--resolution: '0,5' given; allowed: HEIGHT,WIDTH"),
    (["--resolution", "5"], ConfigError, "--resolution: '5' given"),
    (["--resolution", "a,b"], ConfigError, "--resolution: 'a,b' given"),
    (["--resolution", "-3,4"], ConfigError, "--resolution: '-3,4' given"),
    (["--resolution=-3,4"], ConfigError, "--resolution: '-3,4' given"),
    (["--resolution", "5,5,5"], ConfigError, "--resolution: '5,5,5' given"),
    (["--resolution", "2.5,3"], ConfigError, "--resolution: '2.5,3' given"),
    (["--resolution", "nan,3"], ConfigError, "--resolution: 'nan,3' given"),
    (["--resolution", "100000000,3"], ConfigError, "allowed: up to 10000000"),
    (["--resolution"], ConfigError, "--resolution: expected one argument"),
    (["--scale", "0"], ConfigError, "--scale: '0' given; allowed: S or SY,SX"),
    (["--scale", "-2"], ConfigError, "--scale: '-2' given"),
    (["--scale", "inf"], ConfigError, "--scale: 'inf' given"),
    (["--scale", "1,2,3"], ConfigError, "--scale: '1,2,3' given"),
    (["--scale", "2", "--resolution", "4,4"], ConfigError, "both given"),
    (["--scale", "2", ""], ConfigError, "photographs: '' given; allowed: a name or a path"),
    (["--scale", "2", "--import", ""], ConfigError, "--import: '' given"),
    (["--scale", "2", "--suffix", "a/b"], ConfigError, "--suffix: 'a/b' given; allowed: text"),
    (["--scale", "2", "--suffix", "_x2"], ConfigError, "--suffix: given with the file"),
    (["--scale", "2", "--format", "gif"], ConfigError, "--format: invalid choice: 'gif'"),
    (["--scale", "2", "--format", "jpg"], ConfigError, "a name that ends in .jpg, .jpeg"),
    ([], ConfigError, "--resolution or --scale: missing"),
    (["--scale", "2", "--box", "1,2,3"], ConfigError, "--box: '1,2,3' given"),
    (["--scale", "2", "--box", "-1,0,5,5"], ConfigError, "box: -1,0,5,5 given"),
    (["--scale", "2", "--box", "0,0,21,5"], ConfigError, "inside the picture, which is 0,0,20,30"),
    (["--scale", "2", "--baseline", "bicubic"], ConfigError, "--model and --baseline: both"),
    (["--scale", "2", "--max-pixels", "0"], ConfigError, "--max-pixels: 0 given"),
    (["--scale", "2", "--max-pixels", "x"], ConfigError, "--max-pixels: invalid int value"),
    (["--scale", "2", "--max-pixels", "599"], DataError, "limit of 599 (--max-pixels)"),
    (["--scale", "2", "--precision", "fp8"], ConfigError, "--precision: invalid choice: 'fp8'"),
    (["--scale", "2", "--gpu", "x"], ConfigError, "--gpu: 'x' given"),
    (["--scale", "2", "--sclae", "2"], ConfigError, "unrecognized arguments: --sclae"),
]


@pytest.mark.parametrize(("extra", "kind", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_options(
    extra: Sequence[str], kind: type[UserError], message: str, model_file: Path, photo: Path
) -> None:
    output = photo.parent / "out.png"
    with pytest.raises(kind) as caught:
        run("--input", photo, "--model", model_file, "--output", output, *extra)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(photo.parent) == ["photo.png"]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"--input": "nothing.png"}, DataError, "nothing.png: no such file"),
        ({"--input": "*.nothing"}, DataError, "no file matches"),
        ({"--input": "empty"}, DataError, "empty: no images"),
        ({"--input": "text.png"}, DataError, "text.png: no image"),
        ({"--model": "text.png"}, DataError, "text.png: "),
        ({"--model": "photo.png"}, DataError, "photo.png: no checkpoint"),
        ({"--model": "empty"}, DataError, "a folder"),
        ({"--model": "edsr-baseline-lif"}, ConfigError, "did you mean 'edsr-baseline-liif'"),
        ({"--output": "out.xyz"}, ConfigError, "ends in .png"),
        ({"--output": "out"}, ConfigError, "ends in .png"),
        ({"--output": "/proc/out.png"}, DataError, "out.png: can't be written (No such file"),
        ({"--output": "text.png/out.png"}, DataError, "out.png: can't be written (Not a dir"),
        ({"--output": "photo.png"}, ConfigError, "photo.png is an input"),
        ({"--input": "*.png", "--output": "text.png"}, ConfigError, "text.png is a file"),
        ({"--input": "t*/a.png", "--output": "results"}, ConfigError, "would both become"),
    ],
)
def test_bad_files(
    changes: dict[str, str],
    kind: type[UserError],
    message: str,
    model_file: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photo.parent)
    Path("empty").mkdir()
    Path("two").mkdir()
    Path("three").mkdir()
    for name in ("two/a.png", "three/a.png"):
        Image.fromarray(picture(4, 4)).save(name)
    Path("text.png").write_text("no picture")
    given = {"--input": "photo.png", "--model": str(model_file), "--output": "out.png", **changes}
    with pytest.raises(kind) as caught:
        run(*(part for option in given.items() for part in option), "--scale", "2")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {"out.png", "results"}.isdisjoint(os.listdir())


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_read(photo: Path) -> None:
    with pytest.raises(DataError, match=r"out.png: can't be written"):
        run("--input", photo, "--model", "nosuchmodel", "--scale", 2, "--output", "/proc/out.png")


@pytest.mark.parametrize(
    ("extra", "code"), [(["--resolution", "-3,4"], 2), (["--scale", "2", "--input", "none.png"], 1)]
)
def test_refusals_are_one_line_and_an_exit_code(
    extra: Sequence[str], code: int, model_file: Path, photo: Path, commands: Commands
) -> None:
    arguments = ("--input", photo, "--model", model_file, "--output", "out.png", *extra)
    ended = commands.run("demo.py", *arguments, folder=photo.parent)
    assert ended.code == code
    assert re.fullmatch(r"error: .*\n", ended.err)
    assert ended.out == ""


def test_the_compiler_stays_out_of_it() -> None:
    """torch's compiler would add 150 MB and most of the time that a small picture takes."""
    look = "import sys, demo; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], cwd=ROOT).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
def test_memory_does_not_grow_with_the_picture(tmp_path: Path) -> None:
    """Features as wide as EDSR-baseline-LIIF's; fewer layers, which memory does not depend on."""
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 2, "no_upsampling": True}}
    imnet = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [256]}}
    spec = {"name": "liif", "args": {"encoder_spec": encoder, "imnet_spec": imnet}}
    state = models.make(spec).state_dict()
    save_checkpoint(tmp_path / "model.pth", {"model": {**spec, "sd": state}, "epoch": 1})
    peaks = []
    for length in (1024, 2048):
        write_rgb(tmp_path / "photo.png", picture(length, length))
        command = [
            *(sys.executable, str(ROOT / "demo.py"), "--input", str(tmp_path / "photo.png")),
            *("--model", str(tmp_path / "model.pth"), "--scale", "4"),
            *("--output", str(tmp_path / "out.png")),
        ]
        held = []
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                # What is mapped from files, as the rows that wait in one, can be dropped any time.
                status = Path(f"/proc/{process.pid}/status").read_text()
                held += [int(found[1]) for found in re.finditer(r"RssAnon:\s*(\d+)", status)]
                time.sleep(0.005)
        assert process.returncode == 0
        peaks.append(max(held) / 1024)  # MB
        assert read_size(tmp_path / "out.png") == (4 * length, 4 * length)
    print(f"peak memory, MB: {peaks}")
    assert peaks[0] < 1500
    assert peaks[1] < 1.2 * peaks[0]


def test_an_end_from_outside_leaves_nothing_half_written(model_file: Path, tmp_path: Path) -> None:
    write_rgb(tmp_path / "photo.png", picture(300, 300))
    process = subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "demo.py"), "--input", str(tmp_path / "photo.png")),
            *("--model", str(model_file), "--scale", "40", "--output", str(tmp_path / "out.png")),
        ],
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 300
        while len(os.listdir(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(os.listdir(tmp_path)) == 2, "rendering has not begun"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143
    assert b"Traceback" not in errors
    assert os.listdir(tmp_path) == ["photo.png"]


def test_a_full_disk_is_one_line(model_file: Path, tmp_path: Path, commands: Commands) -> None:
    """By a limit on the size of files, which behaves as a disk that fills."""
    write_rgb(tmp_path / "photo.png", picture(60, 60))
    (tmp_path / "out.png").write_bytes(b"the last good one")
    arguments = ("--input", "photo.png", "--scale", "8", "--model", model_file)
    ended = commands.run(
        "demo.py", *arguments, "--output", "out.png", folder=tmp_path, file_limit=4096
    )
    assert ended.code == 1
    assert re.fullmatch(r"error: .*out.png.*\n", ended.err), ended
    assert (tmp_path / "out.png").read_bytes() == b"the last good one"
    assert sorted(os.listdir(tmp_path)) == ["out.png", "photo.png"]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif", ".png"])
def test_the_first_of_several_pictures_is_named(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.fromarray(picture(6, 7) // (k + 1)) for k in range(3)]
    for count in (1, 3):
        source = tmp_path / f"{count}{suffix}"
        frames[0].save(source, save_all=True, append_images=frames[1:count])
        run(
            "--input", source, "--baseline", "nearest", "--output", tmp_path / "o.png", "--scale", 2
        )
        said = [line for line in capfd.readouterr().err.splitlines() if "the first is used" in line]
        assert said == [f"{source}: 3 pictures (frames or pages); the first is used"] * (count > 1)


@pytest.mark.parametrize(
    ("name", "method", "told"),
    [
        ("a.JPG", [], True),
        ("a.png", [], False),
        ("a.jpg", ["--model", "compact-liif-photo"], False),
        ("a.jpg", ["--baseline", "bicubic"], False),
    ],
)
def test_of_a_jpeg_file_the_model_made_for_it_is_named(
    name: str,
    method: list[str],
    told: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(picture(9, 8)).save(tmp_path / name)
    demo.main([str(tmp_path / name), "-s", "2", "-o", str(tmp_path / "out.png"), *method])
    lines = [line for line in capsys.readouterr().err.splitlines() if "compact-liif-photo" in line]
    assert (len([line for line in lines if line.startswith("JPEG")]) == 1) is told
