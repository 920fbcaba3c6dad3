"""Which photographs a command means, and where their results go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from datasets.images import WRITTEN_SUFFIXES
from engine.render.jobs import plan_jobs
from utils import ConfigError, DataError


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(*names: str | bytes) -> None:
    """Pictures of these names, each of another colour, in the format of their ending or PNG."""
    for number, name in enumerate(map(os.fsdecode, names)):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        suffix = Path(name).suffix.lower()
        kind = {".jpg": "JPEG", ".gif": "GIF", ".bmp": "BMP"}.get(suffix, "PNG")
        with open(name, "wb") as file:
            Image.new("RGB", (5, 4), (40 * number, 200, 100)).save(file, kind)


def targets(inputs: Sequence[str], output: str | None = "out") -> dict[str, str]:
    jobs, _ = plan_jobs(inputs, output, WRITTEN_SUFFIXES)
    return {str(job.source): str(job.target) for job in jobs}


def test_results_have_names_of_their_own() -> None:
    make("in/a.png", "in/a.jpg", "in/a.gif", "in/a.bmp", "in/b.gif", "in/C.bmp", "in/c.gif", "in/d")
    assert targets(["in"]) == {
        "in/a.png": "out/a.png",
        "in/a.jpg": "out/a.jpg",
        "in/a.gif": "out/a.gif.png",
        "in/a.bmp": "out/a.bmp.png",
        "in/b.gif": "out/b.png",
        "in/C.bmp": "out/C.bmp.png",  # one with c.png where case is ignored
        "in/c.gif": "out/c.gif.png",
        "in/d": "out/d.png",
    }


def test_one_name_in_two_folders_is_refused() -> None:
    make("x/a.png", "y/a.png")
    for inputs in (["x", "y"], ["*/a.png"]):
        with pytest.raises(ConfigError, match=r"x/a.png and y/a.png would both become out/a.png"):
            targets(inputs)
    assert targets(["x", "x/a.png", "./x/a.png"]) == {"x/a.png": "out/a.png"}


@pytest.mark.parametrize("given", ["in", "in/*"])
def test_what_is_no_picture_is_left_out(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By content and by ending, the same for a folder and a pattern."""
    make("in/b.JFIF", "in/a", "in/10.png", "in/9.png", "in/album.png/x.png")
    for name in ("._9.png", ".DS_Store", "Thumbs.db"):
        Path("in", name).write_bytes(b"\0\5\x16\7")
    assert list(targets([given])) == ["in/9.png", "in/10.png", "in/a", "in/b.JFIF"]
    assert capsys.readouterr().err == ""
    Path("in/notes.txt").write_text("no picture")
    os.mkfifo("in/pipe.png")
    assert len(targets([given])) == 4
    said = f"{given}: 2 of 6 files left out, for they are no images (the first: 'notes.txt')\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing.png", "nothing.png: no such file"),
        ("loop.png", "loop.png: no such file"),
        ("loop", "loop: no such file"),
        ("*.txt", r"\*.txt: no image matches"),
        ("*.nothing", r"\*.nothing: no file matches"),
        ("empty", "empty: no images"),
        ("pipe.png", "pipe.png: no such file"),
    ],
)
def test_inputs_that_are_none(given: str, message: str) -> None:
    for name in ("loop", "loop.png"):
        Path(name).symlink_to(name)
    Path("notes.txt").write_text("")
    Path("empty").mkdir()
    os.mkfifo("pipe.png")
    with pytest.raises(DataError, match=f"^{message}"):
        targets([given])


def test_missing_folders_are_made() -> None:
    make("in/a.png")
    assert targets(["in"], "some/new/folder") == {"in/a.png": "some/new/folder/a.png"}
    assert Path("some/new/folder").is_dir()
    assert targets(["in/a.png"], "other/new/a.png") == {"in/a.png": "other/new/a.png"}
    assert targets(["in/a.png"], "more/") == {"in/a.png": "more/a.png"}
    assert os.listdir("other/new") == os.listdir("more") == []


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    make("home/in/a.png", "home/in/b.png")
    expected = {str(tmp_path / f"home/in/{n}.png"): str(tmp_path / f"home/{n}.png") for n in "ab"}
    assert targets(["~/in"], "~") == targets(["~/in/*.png"], "~/") == expected
