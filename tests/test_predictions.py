"""Pictures of other programs, scored as a model's: found, paired, their sizes checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.images import read_rgb, write_rgb
from datasets.listing import match_some
from engine.evaluate.predictions import find_predictions
from engine.evaluate.suite_data import Pictures, find_suite
from engine.render import baselines
from tests.small import run, write_benchmark
from utils import ConfigError, DataError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a benchmark, load/benchmark/Set5, and bicubic enlargements in out/set5."""
    high = write_benchmark(tmp_path / "load") / "HR"
    monkeypatch.chdir(tmp_path)
    for scale in (2, 3):
        for low in sorted((high.parent / f"LR_bicubic/X{scale}").glob("*.png")):
            pixels = read_rgb(low)
            size = (pixels.shape[0] * scale, pixels.shape[1] * scale)
            made = baselines.enlarge("bicubic", pixels, size)
            write_rgb(Path(f"out/set5/x{scale}") / low.name, made)
    return tmp_path


def scored(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[dict[str, Any], str]:
    """The JSON and the output of a suite over set5."""
    given = ["--suite", "set5", "--json", "r.json", *arguments]
    code, output, errors = run(capsys, monkeypatch, *given)
    assert code == 0, errors
    return json.loads(Path("r.json").read_text()), output


def values(document: dict[str, Any], method: str) -> list[Any]:
    keep = ("image", "scale", "values")
    return [[r[k] for k in keep] for r in document["results"] if r["method"] == method]


def test_the_figures_are_those_of_the_method_that_made_them(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale that is not there is told, and a picture that was replaced is scored again."""
    arguments = ["--baseline", "bicubic", "--scales", "2", "3", "4", "--predictions", "Mine=out"]
    arguments += ["--panels", "panels", "--save-images", "images"]
    document, output = scored(capsys, monkeypatch, *arguments)
    bicubic, mine = values(document, "bicubic (PIL, 8-bit)"), values(document, "Mine")
    assert len(mine) == 6
    assert mine == [record for record in bicubic if record[1] != "4"]
    assert "Set5 x4: skipped, Mine has no folder out/set5/x4" in output
    assert "Mine: pictures of 8 bits in out" in output
    row = next(r for r in document["tables"][0]["rows"] if r["label"] == "Mine")
    assert row["cells"][2] == "-"
    saved = read_rgb(place / "images/Mine/set5/x3/photo2.png")
    assert np.array_equal(saved, read_rgb(place / "out/set5/x3/photo2x3.png"))
    assert not (place / "images/Mine/set5/x4").exists()
    assert len(list((place / "panels").glob("set5-x4-*.png"))) == 3

    changed = place / "out/set5/x2/photo1x2.png"
    write_rgb(changed, 255 - read_rgb(changed))
    again = values(scored(capsys, monkeypatch, *arguments)[0], "Mine")
    assert [a == b for a, b in zip(mine, again, strict=True)].count(False) == 1
    assert again[0][2]["psnr"] < 15


@pytest.mark.parametrize("target", ["Set5/X2", "X2", "set5", ""])
def test_folders_where_predictions_may_be(place: Path, target: str) -> None:
    shutil.copytree(place / "out/set5/x2", place / "other" / target)
    suite = Pictures(find_suite("set5", place / "load"), [(2.0, 2.0)], "paper")
    found = find_predictions(f"A={place / 'other'}", [suite])
    assert found.label == "A"
    for index in range(3):
        path = found.path(suite, index, (2.0, 2.0))
        assert path == place / "other" / target / f"photo{index + 1}x2.png"


def test_what_is_refused(place: Path) -> None:
    suite = Pictures(find_suite("set5", place / "load"), [(2.0, 2.0)], "paper")
    for given in ("out", "=out", "A="):
        with pytest.raises(ConfigError, match="allowed: NAME=DIR"):
            find_predictions(given, [suite])
    with pytest.raises(DataError, match="--predictions: nowhere: no such folder"):
        find_predictions("A=nowhere", [suite])
    with pytest.raises(DataError, match="--predictions: A has no folder load/set5/x2"):
        find_predictions("A=load", [suite])
    path = place / "out/set5/x2/photo2x2.png"
    write_rgb(path, np.zeros((40, 61, 3), np.uint8))
    with pytest.raises(DataError, match=r"photo2x2.png: 40x61 pixels; allowed: 40x60, as"):
        find_predictions("A=out", [suite])
    path.unlink()
    with pytest.raises(DataError, match=r"x2: 1 of 3 pictures are missing, .*HR/photo2.png"):
        find_predictions("A=out", [suite])


@pytest.mark.parametrize(
    "form", ["{}", "{}x2", "{}_x2_EDSR", "{}_SRF_2_SwinIR-M", "{}_sr", "out_{}", "{}_v2-best"]
)
@pytest.mark.parametrize("names", [["baby", "bird", "woman"], ["img_001", "img_002", "img_010"]])
def test_names_of_other_programs(form: str, names: list[str]) -> None:
    """Also among further pictures, which nobody has asked for."""
    wanted = [Path("HR") / f"{name}.png" for name in names]
    further = [] if form == "out_{}" else ["other_7"]  # what all begin with, on both sides
    found = [Path("out") / f"{form.format(name)}.jpg" for name in [*names, *further]]
    assert match_some(found, wanted) == found[:3]
    with pytest.raises(DataError, match="1 of 3 pictures are missing"):
        match_some(found[1:], wanted)


def test_pictures_that_names_do_not_tell_apart() -> None:
    found = [Path("out/a.png"), Path("out/A.jpg"), Path("out/b.png")]
    with pytest.raises(DataError, match="not told apart"):
        match_some(found, [Path("HR/a.png"), Path("HR/b.png")])
