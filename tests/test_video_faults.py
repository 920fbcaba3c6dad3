"""Videos that end badly, are damaged or strange: nothing half-written, one line each."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

import av

import demo
from datasets.images import write_rgb
from engine.render.video_look import Look
from tests.clips import make_clip, moving, read_clip
from tests.commands import ROOT, Commands
from utils import DataError, UserError


def enlarge(source: Path, target: Path, *more: object) -> None:
    given = ["--input", source, "--baseline", "bicubic", "--output", target, *more]
    if "--scale" not in given:
        given += ["--scale", 2]
    assert demo.main([str(argument) for argument in given]) == 0


def fast_start(path: Path, target: Path) -> None:
    """Copy an .mp4 so that its header comes first, which then survives when it is cut off."""
    with (
        av.open(str(path)) as source,
        av.open(str(target), "w", options={"movflags": "faststart"}) as copy,
    ):
        streams = {s.index: copy.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Whole clips, by their endings."""
    folder = tmp_path_factory.mktemp("clips")
    for ending in (".mp4", ".mkv", ".webm", ".avi", ".ts", ".mov"):
        encoder = "libvpx-vp9" if ending == ".webm" else "libx264"
        sound = {"webm": "libopus"}.get(ending[1:], "aac")
        make_clip(folder / f"clip{ending}", encoder=encoder, sound=sound)
    fast_start(folder / "clip.mp4", folder / "clip.m4v")
    return {path.suffix: path.read_bytes() for path in sorted(folder.iterdir())}


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def spoil(start: float, seed: int, count: int = 40) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        places = np.random.default_rng(seed).integers(int(len(data) * start), len(data), count)
        array = np.frombuffer(data, np.uint8).copy()
        array[places] ^= 0xFF
        return array.tobytes()

    return change


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut to {share}": cut(share) for share in (0.0, 0.001, 0.02, 0.3, 0.6, 0.97)},
    "spoilt header": spoil(0.0, 1, 400),
    "zeros": lambda data: data[:40] + bytes(len(data) - 40),
}
ENDINGS = (".mp4", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mov")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("change", CHANGES)
def test_damaged_files_get_one_line(
    change: str,
    ending: str,
    clips: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An error of one line and nothing under the name; or, what FFmpeg repairs, a video."""
    source, target = tmp_path / f"in{ending}", tmp_path / "out.mp4"
    source.write_bytes(CHANGES[change](clips[ending]))
    error = error_of(source, target)
    left = {path.name for path in tmp_path.iterdir()} - {source.name}
    if not error:
        assert left == {"out.mp4"}
        frames = len(read_clip(target)["frames"])
        said = re.search("cut off[?]|can't be decoded|only [0-9]+ of", capsys.readouterr().err)
        assert said or frames > 20
        return
    assert "\n" not in error
    assert str(source) in error
    assert left <= {"out.unfinished.mp4"}
    if left:
        assert "out.unfinished.mp4" in error
        assert read_clip(tmp_path / "out.unfinished.mp4")["frames"]


def error_of(source: Path, target: Path) -> str:
    """The line that a video ends in; "" for none."""
    try:
        enlarge(source, target)
    except UserError as error:
        return str(error)
    return ""


def strange(name: str, folder: Path) -> Path:
    """A file or folder that is no common video."""
    path = folder / "strange.mp4"
    if name == "text":
        path.write_text("no video at all\n" * 50)
    elif name == "picture":
        write_rgb(folder / "p.png", moving(0))
        path.write_bytes((folder / "p.png").read_bytes())
        (folder / "p.png").unlink()
    elif name == "sound alone":
        with av.open(str(path), "w") as out:
            stream = out.add_stream("aac", rate=48000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate = 48000
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    elif name == "no frames":
        with av.open(str(path), "w") as out:
            stream = out.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 48, 36, "yuv420p"
            out.start_encoding()
    elif name == "random":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif name == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "can't be read as a video"),
        ("random", "can't be read as a video"),
        ("sound alone", "no video in it"),
        ("no frames", "no frames|no video in it|can't be read as a video"),
        ("folder", "no images"),
        ("missing", "no such file"),
        ("picture", "a name that ends in .png"),
    ],
)
def test_strange_files_get_one_line(name: str, message: str, tmp_path: Path) -> None:
    source = strange(name, tmp_path)
    with pytest.raises(UserError) as caught:
        enlarge(source, tmp_path / "out.mp4")
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {source.name}


@pytest.mark.parametrize(
    ("size", "encoder", "layout", "ending"),
    [
        ((2, 2), "libx264", "yuv420p", ".mp4"),
        ((35, 47), "libx264", "yuv444p", ".mp4"),
        ((35, 47), "libvpx-vp9", "yuv420p", ".webm"),
        ((1, 1), "ffv1", "bgr0", ".mkv"),
        ((36, 48), "libx264", "gray", ".mkv"),
        ((36, 48), "libx264", "yuv422p10le", ".mp4"),
        ((36, 48), "mjpeg", "yuvj420p", ".avi"),
        ((36, 48), "ffv1", "yuva420p", ".mkv"),
    ],
)
def test_strange_videos_pass(
    size: tuple[int, int], encoder: str, layout: str, ending: str, tmp_path: Path
) -> None:
    """Odd sizes, grey, alpha, and layouts that few programs write."""
    deep = 10 if "10" in layout else 8
    matrix, full = (0, True) if layout == "bgr0" else (6, layout == "yuvj420p")
    look = Look(layout, matrix, full=full, bits=deep)
    make_clip(tmp_path / f"in{ending}", 3, size, encoder, look, tags=layout == "yuvj420p")
    for target in ("out.mp4", "out.mkv", "out.webm", "out.gif"):
        enlarge(tmp_path / f"in{ending}", tmp_path / target, "--scale", 3)
        frame = read_clip(tmp_path / target)["frames"][0]
        assert 0 <= frame.height - 3 * size[0] <= 1
        assert 0 <= frame.width - 3 * size[1] <= 1
        seen = frame.to_ndarray(format="rgb24")[: 3 * size[0], : 3 * size[1]]
        expected = moving(0, size).mean(axis=(0, 1))
        if layout != "gray" and min(size) > 8:
            np.testing.assert_allclose(seen.mean(axis=(0, 1)), expected, atol=4)


def test_a_wrong_ending_does_not_matter(clips: dict[str, bytes], tmp_path: Path) -> None:
    for name in ("clip.dat", "clip.png", "clip", "clip.webm"):
        (tmp_path / name).write_bytes(clips[".mp4"])
        enlarge(tmp_path / name, tmp_path / "out.mp4")
        assert len(read_clip(tmp_path / "out.mp4")["frames"]) == 31


def test_a_damaged_frame_stops_or_is_repeated(
    clips: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.m4v", tmp_path / "out.mp4"
    source.write_bytes(spoil(0.6, 3, 30)(clips[".m4v"]))
    with pytest.raises(DataError) as caught:
        enlarge(source, target)
    found = re.search(r"frame (\d+) \(from 0, at .* s\) is damaged", str(caught.value))
    assert found
    assert not target.exists()
    frames = read_clip(tmp_path / "out.unfinished.mp4")["frames"]
    assert len(frames) == int(found[1])
    assert f"the {len(frames)} frames before it" in str(caught.value)
    capsys.readouterr()
    enlarge(source, target, "--on-bad-frame", "repeat", "--quality", 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("; the frame before is repeated")
    whole = tmp_path / "whole.mp4"
    whole.write_bytes(clips[".mp4"])
    result = read_clip(target)
    assert result["times"] == pytest.approx(read_clip(whole)["times"], abs=1e-4)
    number = len(frames)
    same = [frame.to_ndarray(format="rgb24") for frame in result["frames"]]
    np.testing.assert_array_equal(same[number], same[number - 1])


@pytest.mark.parametrize("how", ["stop", "repeat"])
def test_damage_over_two_processes(how: str, clips: dict[str, bytes], tmp_path: Path) -> None:
    """The same lines and exit code as by one process, and the same frames up to the damage.

    What FFmpeg makes of later frames, and of the three before that may depend on one of them,
    hangs on what its memory held before.
    """
    source = tmp_path / "in.m4v"
    source.write_bytes(spoil(0.6, 3, 30)(clips[".m4v"]))
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    ended, frames = [], []
    for name, start in (("one", ()), ("two", launcher)):
        target = tmp_path / name / "out.mp4"
        target.parent.mkdir()
        given = [
            "-i",
            source,
            "-o",
            target,
            "-s",
            2,
            "--baseline",
            "bicubic",
            "--on-bad-frame",
            how,
        ]
        command = [sys.executable, *start, ROOT / "demo.py", *given, "--quality", 100]
        done = subprocess.run(
            [*map(str, command)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
        said = [line for line in done.stderr.splitlines() if "is damaged" in line]
        left = [*target.parent.iterdir()]
        assert [path.name for path in left] == [f"out{'.unfinished' if how == 'stop' else ''}.mp4"]
        ended.append((done.returncode, [line.replace(f"{name}/", "") for line in said]))
        frames.append([frame.to_ndarray() for frame in read_clip(left[0])["frames"]])
    assert ended[0] == ended[1]
    assert ended[0][0] == (1 if how == "stop" else 0)
    found = re.search(r"frame (\d+) \(from 0", ended[0][1][0])
    assert found
    assert len(frames[0]) == len(frames[1])
    for first, second in list(zip(*frames, strict=True))[: int(found[1]) - 3]:
        np.testing.assert_array_equal(first, second)


def started(source: Path, target: Path) -> subprocess.Popen[str]:
    """The demo as users start it, some frames into a long video."""
    process = subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "demo.py"), "--baseline", "lanczos"),
            *("-i", str(source), "-s", "8", "-o", str(target)),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell's background jobs, such as tests may be, have Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        parts = [path for path in target.parent.glob(".*.tmp") if path.stat().st_size > 0]
        if parts:
            return process
        time.sleep(0.02)
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_end_from_outside_leaves_nothing(kind: signal.Signals, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mkv", 400, (90, 120))
    (tmp_path / "out").mkdir()
    process = started(tmp_path / "clip.mkv", tmp_path / "out/out.mp4")
    process.send_signal(kind)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143}.get(kind, 130)
    assert "Traceback" not in errors
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left == [] if kind != signal.SIGKILL else all(name.endswith(".tmp") for name in left)


def test_a_full_disk_leaves_nothing(commands: Commands, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mkv", 60, (90, 120))
    args = ("--input", "clip.mkv", "--baseline", "bicubic", "--scale", 4, "--output", "out.mkv")
    ended = commands.run("demo.py", *args, "--quality", 100, folder=tmp_path, file_limit=200_000)
    assert ended.code == 1
    assert re.fullmatch(r"out.mkv: can't be written \(File too large\)", ended.line)
    assert os.listdir(tmp_path) == ["clip.mkv"]


def test_a_full_file_system_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file systems can be mounted here")
    try:
        make_clip(tmp_path / "clip.mkv", 60, (90, 120))
        with pytest.raises(DataError, match=r"can't be written \(No space left on device\)"):
            enlarge(tmp_path / "clip.mkv", disk / "out.mp4", "--quality", 100, "--scale", 4)
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """Anonymous memory at its most, of 30 and of 300 frames; x264 looks at 40 at a time."""
    peaks = []
    for frames in (30, 300):
        make_clip(tmp_path / "clip.mp4", frames, (90, 120), sound="aac")
        process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "demo.py"), "--baseline", "bicubic"),
                *("-i", "clip.mp4", "-s", "3", "-o", "out.mp4"),
            ],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        held = [0]
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            held += [int(found[1]) for found in re.finditer(r"RssAnon:\s*(\d+)", status)]
            time.sleep(0.01)
        assert process.wait() == 0
        peaks.append(max(held))
    print(f"kB: {peaks}")
    assert peaks[1] < peaks[0] + 20_000, peaks
