"""Videos through the demo: what comes out beside the pixels, and that these are the demo's."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av")

import av

import demo
import models
from datasets.images import read_photo, read_rgb, write_rgb
from engine.render.video_look import Look, convert, look_of, stored, upright
from engine.weights.checkpoint import save_checkpoint
from tests.clips import make_clip, moving, planes, read_clip
from tests.test_zoom import SPEC
from utils import ConfigError, DataError

BT2020 = pytest.mark.skipif(int(av.__version__[:2]) < 18, reason="BT.2020 needs PyAV 18")
ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: object) -> None:
    assert demo.main([str(argument) for argument in arguments]) == 0


def enlarge(source: Path, target: Path, *more: object) -> dict[str, Any]:
    run("--input", source, "--baseline", "bicubic", "--output", target, *(more or ("--scale", 2)))
    return read_clip(target)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    state = models.make(SPEC).eval().state_dict()
    save_checkpoint(tmp_path / "m.pth", {"model": {**SPEC, "sd": state}})
    return tmp_path / "m.pth"


def lossless(path: Path, frames: int = 5, size: tuple[int, int] = (36, 48)) -> None:
    """A clip whose frames are `moving` to the bit."""
    make_clip(path, frames, size, "ffv1", Look(pix_fmt="bgr0", matrix=0, full=True), tags=False)


@pytest.mark.parametrize("degrees", [0, 90, -90, 180])
@pytest.mark.parametrize(
    ("source", "target", "sound", "text"),
    [
        (".mp4", ".mp4", "aac", "mov_text"),
        (".mp4", ".mkv", "aac", "mov_text"),
        (".mkv", ".mp4", "flac", "subrip"),
        (".mkv", ".mkv", "libopus", "ass"),
        (".mkv", ".webm", "flac", "subrip"),
    ],
)
def test_nothing_is_lost(
    source: str,
    target: str,
    sound: str,
    text: str,
    degrees: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = tmp_path / f"clip{source}"
    look = Look(matrix=1, primaries=9, transfer=16, full=True, aspect=Fraction(4, 3))
    make_clip(clip, look=look, degrees=degrees, sound=sound, text=text)
    before, after = read_clip(clip), enlarge(clip, tmp_path / f"out{target}")
    exact = 1e-9 if (source, target) == (".mp4", ".mp4") else 1.1e-3
    # Sound of .mp4 begins before 0, which other containers can't: all streams move together.
    shift = after["times"][0] - before["times"][0]
    assert shift == pytest.approx(0.0215 if (source, target) == (".mp4", ".mkv") else 0, abs=1e-3)
    assert np.subtract(after["times"], shift) == pytest.approx(before["times"], abs=exact)
    assert len(after["times"]) == 31
    if target == ".webm":
        before["aspect"] = after["aspect"] = None  # which PyAV can't write there
        assert "sides of pixels" in capsys.readouterr().err
    before["pix_fmt"] = before["pix_fmt"].replace("yuvj", "yuv")
    after["pix_fmt"] = after["pix_fmt"].replace("yuvj", "yuv")
    for key in ("rotation", "aspect", "colours", "title", "kinds", "languages", "pix_fmt"):
        assert after[key] == before[key], key
    assert after["rotation"] == (degrees if degrees != 180 else pytest.approx(-180))
    assert [words.split(b",")[-1] for _, words in after["text"]] == [b"Bonjour", b"Au revoir"]
    assert [at - shift for at, _ in after["text"]] == pytest.approx([0.1, 0.5], abs=exact)
    if target == ".webm":
        assert after["codecs"][1] == "opus"
        assert after["sounds_at"][-1] == pytest.approx(before["sounds_at"][-1], abs=0.06)
    else:
        assert after["sound"] == before["sound"]
        moved = np.subtract(after["sounds_at"], shift)
        assert moved == pytest.approx(before["sounds_at"], abs=exact)
    frame = after["frames"][0]
    assert (frame.height, frame.width) == (72, 96)


def test_the_last_frame_is_shown_as_long(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4")
    enlarge(tmp_path / "clip.mp4", tmp_path / "out.mp4")
    lengths = []
    for name in ("clip.mp4", "out.mp4"):
        with av.open(str(tmp_path / name)) as file:
            lengths.append(file.streams.video[0].duration * file.streams.video[0].time_base)
    assert float(lengths[1]) == pytest.approx(float(lengths[0]), abs=0.02)


@pytest.mark.parametrize("degrees", [0, 90])
def test_frames_are_the_demos(degrees: int, model_file: Path, tmp_path: Path) -> None:
    """Each is what the demo makes of it as a picture, to the bit where the codec is lossless."""
    clip, frames = tmp_path / "clip.mkv", 4
    look = Look(pix_fmt="bgr0", matrix=0, full=True)
    make_clip(clip, frames, encoder="ffv1", look=look, tags=False, degrees=degrees)
    how = ("--model", model_file, "--scale", "2.5,3", "--box", "2,3,30.5,31")
    run("--input", clip, "--output", tmp_path / "out.mkv", "--quality", 100, *how)
    result = read_clip(tmp_path / "out.mkv")["frames"]
    assert len(result) == frames
    for number, frame in enumerate(result):
        picture = tmp_path / f"{number}.png"
        write_rgb(picture, np.ascontiguousarray(np.rot90(moving(number), degrees // 90)))
        run("--input", picture, "--output", tmp_path / "one.png", *how)
        seen = np.rot90(frame.to_ndarray(format="rgb24"), degrees // 90)
        np.testing.assert_array_equal(seen, read_rgb(tmp_path / "one.png"))


def test_comparisons_are_the_demos(tmp_path: Path) -> None:
    lossless(tmp_path / "clip.mkv", 2)
    how = ("--baseline", "lanczos", "--resolution", "60,80", "--compare")
    run("--input", tmp_path / "clip.mkv", "--output", tmp_path / "out.mkv", "--quality", 100, *how)
    write_rgb(tmp_path / "1.png", moving(1))
    run("--input", tmp_path / "1.png", "--output", tmp_path / "one.png", *how)
    frame = read_clip(tmp_path / "out.mkv")["frames"][1].to_ndarray(format="rgb24")
    np.testing.assert_array_equal(frame, read_rgb(tmp_path / "one.png"))


@BT2020
@pytest.mark.parametrize("target", [".mkv", ".mp4", ".webm"])
def test_ten_bits_stay_ten(target: str, tmp_path: Path) -> None:
    look = Look("yuv420p10le", matrix=9, primaries=9, transfer=16, bits=10)
    options = {"x265-params": "log-level=none:lossless=1"}
    make_clip(tmp_path / "clip.mkv", 3, (64, 96), "libx265", look, options)
    more = ("--scale", 1, "--quality", 95)
    after = enlarge(tmp_path / "clip.mkv", tmp_path / f"out{target}", *more)
    before = read_clip(tmp_path / "clip.mkv")["frames"]
    assert after["pix_fmt"] == "yuv420p10le"
    assert after["colours"] == (9, 1, 9, 16)
    for number, frame in enumerate(after["frames"]):
        got = convert(frame, look, "rgb48le").to_ndarray().astype(float) / 65535
        truth = moving(number, (64, 96), deep=True) / 65535
        assert np.sqrt(np.mean((got - truth) ** 2)) < 0.03, number  # chroma has half the pixels
        own = convert(before[number], look, "rgb48le").to_ndarray() / 65535
        assert np.sqrt(np.mean((got - own) ** 2)) < 0.012, number


@BT2020
def test_ten_bits_lose_nothing_on_the_way(tmp_path: Path) -> None:
    """10-bit codes come back from RGB: more than 256 levels, and what they were within one code."""
    look = Look("yuv444p10le", matrix=9, bits=10)
    make_clip(tmp_path / "clip.mkv", 2, encoder="ffv1", look=look)
    after = enlarge(tmp_path / "clip.mkv", tmp_path / "out.mkv", "--scale", 1, "--quality", 100)
    assert after["pix_fmt"] == "yuv444p10le"
    for old, new in zip(read_clip(tmp_path / "clip.mkv")["frames"], after["frames"], strict=True):
        assert np.abs(planes(old).astype(int) - planes(new)).max() <= 1


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(("matrix", "size"), [(1, (720, 1280)), (6, (400, 600)), (9, (400, 600))])
def test_colours_stay(
    matrix: int, size: tuple[int, int], full: bool, tags: bool, tmp_path: Path
) -> None:
    """Also where nothing is said of them, and twice the size would change what players assume."""
    if matrix == 9 and int(av.__version__[:2]) < 18:
        pytest.skip("BT.2020 needs PyAV 18")
    if not tags and (full or matrix == 9):
        pytest.skip("can't be known without tags")
    look = Look(matrix=matrix, full=full)
    make_clip(tmp_path / "c.mkv", 1, size, "ffv1", look, tags=tags)
    after = enlarge(tmp_path / "c.mkv", tmp_path / "o.mkv", "--scale", 2, "--quality", 100)
    assert after["colours"][:2] == (matrix, 2 if full else 1)
    (frame,) = after["frames"]
    got = convert(frame, look, "rgb24").to_ndarray()[1::2, 1::2].astype(int)
    assert np.abs(got - moving(0, size)).mean() < 2  # of a wrong matrix or range 7 and more


def test_turned_pixels_turn_back() -> None:
    pixels = moving(0, (3, 5))
    for matrix in [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]:
        for a, b, c, d in [matrix, tuple(-v for v in matrix[:2]) + matrix[2:]]:
            look = Look(display=(a, b, 0, c, d, 0, 0, 0, 1))
            np.testing.assert_array_equal(stored(upright(pixels, look), look), pixels)
            shown = upright(pixels, look)
            for y, x in np.ndindex(3, 5):  # the matrix takes (x, y) there, up to a shift
                across, down = a * x + c * y, b * x + d * y
                across += (shown.shape[1] - 1) * (a + c < 0)
                down += (shown.shape[0] - 1) * (b + d < 0)
                np.testing.assert_array_equal(shown[down, across], pixels[y, x])


def test_a_part_of_the_time(tmp_path: Path) -> None:
    """From --start on, with the frame that is shown then, to --end; sound and texts as well."""
    clip = tmp_path / "clip.mp4"
    make_clip(clip, sound="aac", text="mov_text", gop=5)
    before = read_clip(clip)
    after = enlarge(clip, tmp_path / "out.mp4", "--scale", 1, "--start", 0.35, "--end", 0.9)
    shown = [time for time in before["times"] if 0.35 < time < 0.9]
    assert after["times"] == pytest.approx([0, *(time - 0.35 for time in shown)], abs=1e-4)
    (at, first), (later, second) = after["text"]
    assert at == pytest.approx(0, abs=1e-3)
    assert later == pytest.approx(0.15, abs=1e-3)
    assert b"Bonjour" in first
    assert b"Au revoir" in second
    sounds = zip(before["sound"], before["sounds_at"], strict=True)
    assert after["sound"] == [sound for sound, time in sounds if 0.35 <= time < 0.9]
    first = after["frames"][0].to_ndarray(format="rgb24").astype(int)
    seen = [frame.to_ndarray(format="rgb24") for frame in before["frames"]]
    errors = [np.abs(first - frame).mean() for frame in seen]
    assert int(np.argmin(errors)) == sum(time <= 0.35 for time in before["times"]) - 1


def test_transport_streams_begin_at_zero(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.ts", sound="aac", encoder="libx264")
    before = read_clip(tmp_path / "clip.ts")
    assert min(before["times"][0], before["sounds_at"][0]) > 0.05
    after = enlarge(tmp_path / "clip.ts", tmp_path / "out.mp4")
    assert after["times"][0] < 0.1
    assert len(after["times"]) == 31
    assert np.diff(after["times"]) == pytest.approx(
        np.diff(read_clip(tmp_path / "clip.ts")["times"]), abs=1e-4
    )


def test_numbered_pictures_out_and_in(tmp_path: Path) -> None:
    lossless(tmp_path / "clip.mkv", 11)
    run("-i", tmp_path / "clip.mkv", "-s", 2, "--baseline", "bicubic", "-o", tmp_path / "frames")
    names = sorted(os.listdir(tmp_path / "frames"))
    assert names == [f"{n:06}.png" for n in range(1, 12)]
    more = ("-s", 1, "--quality", 100, "--fps", 10)
    after = enlarge(tmp_path / "frames", tmp_path / "again.mkv", *more)
    assert after["times"] == pytest.approx(np.arange(11) / 10, abs=1e-3)
    for name, frame in zip(names, after["frames"], strict=True):
        np.testing.assert_array_equal(
            frame.to_ndarray(format="rgb24"), read_rgb(tmp_path / "frames" / name)
        )
    with pytest.raises(DataError, match=r"frames: not empty"):
        run(
            "-i", tmp_path / "clip.mkv", "-s", 2, "--baseline", "bicubic", "-o", tmp_path / "frames"
        )


def test_a_folder_of_photographs_and_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    write_rgb(folder / "photo.png", moving(0))
    make_clip(folder / "clip.mp4", 3)
    make_clip(folder / "old.avi", 3)
    args = ("-i", folder, "-s", 2, "--baseline", "bicubic", "-o", tmp_path / "out")
    run(*args)
    assert sorted(os.listdir(tmp_path / "out")) == ["clip.mp4", "old.mp4", "photo.png"]
    assert read_photo(tmp_path / "out/photo.png").pixels.shape == (72, 96, 3)
    capsys.readouterr()
    run(*args)
    assert capsys.readouterr().err.count("there already") == 3


def test_a_moving_gif_is_a_video_where_one_is_asked_for(tmp_path: Path) -> None:
    lossless(tmp_path / "clip.mkv", 4)
    enlarge(tmp_path / "clip.mkv", tmp_path / "small.gif", "-s", 1)
    after = enlarge(tmp_path / "small.gif", tmp_path / "large.gif")
    assert len(after["frames"]) == 4
    assert after["frames"][0].height == 72
    run("-i", tmp_path / "small.gif", "-s", 2, "--baseline", "bicubic", "-o", tmp_path / "one.png")
    assert read_rgb(tmp_path / "one.png").shape == (72, 96, 3)


def test_sides_become_even(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lossless(tmp_path / "clip.mkv", 2)
    after = enlarge(
        tmp_path / "clip.mkv", tmp_path / "o.mp4", "--resolution", "35,47", "--quality", 100
    )
    assert "edges repeated to 36x48" in capsys.readouterr().err
    frame = after["frames"][0].to_ndarray()[:36]
    np.testing.assert_array_equal(frame[:, -1], frame[:, -2])
    np.testing.assert_array_equal(frame[-1], frame[-2])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--start", "-1"], "--start -1, --end inf given"),
        (["--start", "2", "--end", "1"], "allowed: seconds, START < END"),
        (["--start", "nan"], "allowed: seconds, START < END"),
        (["--quality", "0"], "--quality: 0 given; allowed: 1 to 100"),
        (["--fps", "0"], "--fps: 0 given"),
        (["--fps", "1/0"], "--fps: '1/0' given"),
        (["--fps", "1e999999999"], "--fps: '1e999999999' given"),
        (["--box", "0,0,99,9"], "box: 0,0,99,9 given"),
        (["--start", "50"], "no frames between --start and --end"),
        (["--max-pixels", "100"], "36x48 pixels, more than the limit of 100"),
        (["--output", "out.avi"], "allowed: a name that ends in .mp4, .mkv, .webm, .gif"),
        (["--output", "clip.mp4"], "clip.mp4 is an input"),
        (["--baseline", "bicubic-matlab", "--box", "0,0,9,9"], "whole pictures of 8 bits only"),
    ],
)
def test_one_line(
    extra: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip(tmp_path / "clip.mp4", 2)
    monkeypatch.chdir(tmp_path)
    usual = {"--input": "clip.mp4", "--scale": "2", "--baseline": "bicubic", "--output": "out.mp4"}
    given = {**usual, **dict(zip(extra[::2], extra[1::2], strict=True))}
    with pytest.raises((ConfigError, DataError)) as caught:
        demo.main([part for pair in given.items() for part in pair])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_pyav_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "clip.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"package av is needed .*: pip install av"):
        enlarge(tmp_path / "clip.mp4", tmp_path / "out.mp4")


def test_frames_come_in_order_over_processes(model_file: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    make_clip(clip, 7, sound="flac", text="subrip")
    args = ("--input", clip, "--model", model_file, "--scale", "2", "--quality", "100", "--output")
    run(*args, tmp_path / "one.mkv")
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    ended = subprocess.run(
        [
            sys.executable,
            *launcher,
            str(ROOT / "demo.py"),
            *map(str, args),
            str(tmp_path / "two.mkv"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    one, two = read_clip(tmp_path / "one.mkv"), read_clip(tmp_path / "two.mkv")
    assert one["times"] == two["times"]
    assert one["sound"] == two["sound"]
    assert one["text"] == two["text"]
    for a, b in zip(one["frames"], two["frames"], strict=True):
        np.testing.assert_array_equal(a.to_ndarray(), b.to_ndarray())


def test_the_look_is_read(tmp_path: Path) -> None:
    make_clip(tmp_path / "c.mp4", 2, look=Look("yuv422p", 1, full=True), degrees=90)
    with av.open(str(tmp_path / "c.mp4")) as file:
        look = look_of(next(file.decode(video=0)), file.streams.video[0])
    assert (look.pix_fmt, look.matrix, look.full, look.bits) == ("yuv422p", 1, True, 8)
    assert look.turn[0]
