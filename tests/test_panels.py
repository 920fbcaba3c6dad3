"""Panels and charts: what they show and where."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tensorboardX.proto.event_pb2 import Event

from datasets.images import read_rgb, write_rgb
from datasets.resize import resize_pil
from datasets.wrappers import SRImplicitDownsampled, SRImplicitPaired
from engine.config import DataNorm, Norm
from engine.evaluate.charts import COLOURS, Line, figure_pixels, line_chart
from engine.evaluate.evaluate import to_uint8
from engine.evaluate.metrics import EvalType
from engine.evaluate.panels import (
    GAP,
    HEAD,
    LABEL,
    TILE,
    PanelColumn,
    comparison_panel,
    error_colours,
    fitted,
    font,
    middle_pair,
    most_different_crop,
    training_panel,
    with_baselines,
)
from engine.evaluate.suite_data import Pictures, find_suite
from engine.evaluate.suite_figures import SuiteFigures, file_part, file_stems
from engine.train.monitor import TensorBoardWriter
from tests.small import HALF, photograph, run, small_model, write_benchmark
from utils import DataError

NORM = DataNorm(inp=Norm(sub=[0.5], div=[0.5]), gt=Norm(sub=[0.5], div=[0.5]))


def test_the_crop_is_where_the_pictures_differ_most() -> None:
    first = photograph(90, 120)
    second = first.copy()
    second[40:50, 70:80] //= 2
    second[5:8, 5:8] //= 2
    top, left = most_different_crop([first, second], 24)
    assert top <= 40
    assert top + 24 >= 50
    assert left <= 70
    assert left + 24 >= 80


def test_the_crop_agrees_with_a_search_of_every_place() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (17, 21, 3)).astype(np.uint8) for _ in range(3)]
    spread = np.stack(pictures).astype(float).var(0).sum(-1)
    sums = {
        (top, left): spread[top : top + 6, left : left + 6].sum()
        for top in range(12)
        for left in range(16)
    }
    assert most_different_crop(pictures, 6) == max(sums, key=lambda place: sums[place])


def test_a_panel_holds_the_crops_and_their_errors() -> None:
    truth = photograph(96, 80)
    low = resize_pil(truth, (24, 20))
    same, worse = truth.copy(), truth.copy()
    worse[30:60, 20:50] = 255 - worse[30:60, 20:50]
    panel = comparison_panel(
        "title", low, truth, [PanelColumn("same", same), PanelColumn("worse", worse)]
    )
    top, left = most_different_crop([same, worse], 64)
    first = panel.shape[1] - 3 * (GAP + TILE)
    rows = slice(HEAD + LABEL, HEAD + LABEL + TILE)
    for column, expected in enumerate([truth, worse, truth]):
        x = first + column * (GAP + TILE)
        shown = panel[rows, x : x + TILE]
        part = expected[top : top + 64, left : left + 64]
        assert (shown == part.repeat(TILE // 64, 0).repeat(TILE // 64, 1)).all()
    below = slice(HEAD + 2 * LABEL + TILE, HEAD + 2 * LABEL + 2 * TILE)
    no_error = panel[below, first : first + TILE]
    errors = panel[below, first + GAP + TILE : first + GAP + 2 * TILE]
    assert (no_error == error_colours(np.zeros((1, 1)), 1.0)[0, 0]).all()
    assert (errors != no_error).any(-1).mean() > 0.1
    given = low[top // 4 : -(-(top + 64) // 4), left // 4 : -(-(left + 64) // 4)]
    rows, columns = (((np.arange(TILE) + 0.5) * n / TILE).astype(int) for n in given.shape[:2])
    assert (panel[below, -GAP - TILE : -GAP] == given[rows][:, columns]).all()


def test_nearest_and_bicubic_come_first_with_their_psnr() -> None:
    truth = photograph(48, 48)
    low = resize_pil(truth, (12, 12))
    shown = with_baselines(low, truth, [PanelColumn("model", truth, "exact")], EvalType())
    assert [item.label for item in shown] == ["nearest (PIL)", "bicubic (PIL, 8-bit)", "model"]
    error = (shown[1].picture.astype(float) - truth) / 255
    assert shown[1].figure == f"{-10 * np.log10((error**2).mean()):.2f} dB"


def test_error_colours_run_from_light_to_dark() -> None:
    ramp = error_colours(np.linspace(0, 2, 50)[None], 1.0)[0].astype(int).sum(-1)
    assert (np.diff(ramp) <= 0).all()
    assert ramp[0] > 700
    assert ramp[-1] == ramp[25] < 150


def test_long_labels_are_cut_to_their_place() -> None:
    text = "save/_train_edsr-baseline-liif_with-a-long-tag/epoch-1000"
    short = fitted(text, 19, 150)
    assert font(19).getlength(short) <= 150
    assert (short[:4], short[-3:]) == ("save", "000")
    assert fitted("short", 19, 150) == "short"


def coloured(chart: np.ndarray, colour: str) -> int:
    """How many pixels of a chart have that colour, nearly."""
    rgb = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(chart.astype(int) - rgb).sum(-1) < 12).sum())


@pytest.mark.parametrize("points", [1, 2, 8])
def test_a_chart_shows_every_line(points: int) -> None:
    xs = [2.0 * (i + 1) for i in range(points)]
    lines = [
        Line(f"method {n}", tuple((x, 30.0 + n - x / 2) for x in xs)) for n in range(len(COLOURS))
    ]
    ticks = [(x, f"x{x:g}") for x in xs]
    chart = figure_pixels(line_chart("title", "subtitle", lines, ticks))
    assert chart.shape == (840, 1500, 3)
    assert all(coloured(chart, colour) > 200 for colour in COLOURS)
    assert (chart == figure_pixels(line_chart("title", "subtitle", lines, ticks))).all()


def test_lines_that_coincide_are_told_apart() -> None:
    points = tuple((x, 40.0 - 2 * x) for x in (2.0, 3.0, 4.0))
    lines = [Line(f"method {n}", points) for n in range(3)]
    figure = line_chart("t", "s", lines, [(x, f"x{x:g}") for x, _ in points])
    drawn = figure.axes[0].lines
    assert len({line.get_marker() for line in drawn}) == 3
    assert all(line.get_markerfacecolor() == "none" for line in drawn)
    chart = figure_pixels(figure)
    plot = chart[:, : int(figure.axes[0].get_window_extent().x1)]  # without the legend
    assert all(coloured(plot, colour) > 200 for colour in COLOURS[:3])


def test_labels_of_a_chart_do_not_lie_on_each_other() -> None:
    ticks = [(2, "x2"), (7**0.5, "x2x3.5"), (7**0.5, "x3.5x2"), (2.7, "x2.7"), (30, "x30")]
    line = Line("method", tuple((x, 30 - x / 2) for x, _ in ticks), ((2, 29.5),))
    figure = line_chart("t", "s", [line], ticks)
    figure.canvas.draw()
    texts = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert [text.get_text().strip() for text in texts] == [label for _, label in ticks]
    places = [text.get_window_extent() for text in texts]
    for place in places:
        place.y1 = place.y0 + 14  # the last line alone; those before it are empty
    clashes = [
        (i, j) for j in range(len(places)) for i in range(j) if places[i].overlaps(places[j])
    ]
    assert clashes == []
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"method", "published"}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("edsr-baseline-liif", "edsr-baseline-liif"),
        ("_train_mine/epoch-last", "_train_mine/epoch-last"),
        ("$a$ and $b", "$a$ and $b"),
        ("caf\udce9", "caf\ufffd"),
        (
            "save/_train_edsr-baseline-liif_with-a-long-tag/epoch-1000",
            "save/_train_edsr-ba…-long-tag/epoch-1000",
        ),
    ],
)
def test_a_chart_shows_any_name(label: str, expected: str) -> None:
    points = ((2.0, 30.0), (3.0, 29.0))
    figure = line_chart(label, "s", [Line(label, points)], [(2.0, "x2"), (3.0, "x3")])
    figure_pixels(figure)
    (text,) = figure.legends[0].get_texts()
    assert text.get_text() == expected
    assert figure.axes[0].get_title(loc="left")[-2:] == expected[-2:]


def test_files_that_are_there_are_not_wanted_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_benchmark(tmp_path / "load")
    monkeypatch.chdir(tmp_path)
    arguments = ["--suite", "set5", "--scales", 2, 3, "--baseline", "bicubic", "lanczos"]
    arguments += ["--panels", "panels", "--save-images", "images", "--json", "r.json"]
    code, _, errors = run(capsys, monkeypatch, *arguments)
    assert code == 0, errors
    panels = sorted(path.name for path in (tmp_path / "panels").iterdir())
    assert panels == sorted(
        [f"set5-x{s}-photo{n}.png" for s in (2, 3) for n in (1, 2, 3)] + ["set5-psnr.png"]
    )
    images = tmp_path / "images" / "bicubic-PIL-8-bit" / "set5" / "x3"
    low = tmp_path / "load" / "benchmark" / "Set5" / "LR_bicubic" / "X3" / "photo1x3.png"
    expected = resize_pil(read_rgb(low), (48, 51))
    assert (read_rgb(images / "photo1.png") == expected).all()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("panels/*x*")}
    (tmp_path / "panels" / "set5-x2-photo2.png").unlink()
    run(capsys, monkeypatch, *arguments)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("panels/*x*")}
    changed = {path.name for path in after if before[path] != after[path]}
    assert changed == {"set5-x2-photo2.png"}


def test_predictions_are_rounded() -> None:
    picture = torch.tensor([-0.1, 1.1, 0.5, 0.4999 / 255, 254.51 / 255]).expand(3, 2, 5)
    assert to_uint8(picture)[1, :, 2].tolist() == [0, 255, 128, 0, 255]
    assert to_uint8(picture).shape == (2, 5, 3)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't be made"):
        SuiteFigures(tmp_path / "file" / "images", None, [], [])


def test_names_of_files_are_plain() -> None:
    assert file_part("bicubic (PIL, 8-bit)") == "bicubic-PIL-8-bit"
    assert file_part("../../etc/passwd") == "etc-passwd"
    assert file_part("***") == "unnamed"


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["b.png", "a.jpg"], ["b", "a"]),
        (["a.png", "a.jpg", "b.png"], ["a", "a.jpg", "b"]),
        (["a.png", "A.jpg"], ["a", "A.jpg"]),
        (["a.png.webp", "a.png", "a.jpg"], ["a.png", "a", "a.jpg"]),
        (["a.png", "a.jpg", "a.jpg.png"], ["a", "a.jpg", "a.jpg-2"]),
        (["a.png", "A.PNG"], ["a", "A-2"]),
        (["caf\udce9.png", "caf\udce8.png"], ["caf\udce9", "caf\udce8"]),
    ],
)
def test_no_two_results_have_one_name(names: list[str], stems: list[str]) -> None:
    assert file_stems(names) == stems


def test_long_names_are_shortened_and_stay_distinct(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 250)
    folder.mkdir()
    for end in "ab":
        write_rgb(tmp_path / "short.png", photograph(20, 20))
        os.rename(tmp_path / "short.png", folder / ("x" * 250 + end + ".png"))
    suite = Pictures(find_suite(str(folder), tmp_path), [(2.0, 2.0)], "pil")
    figures = SuiteFigures(tmp_path / "images", tmp_path / "panels", [suite], ["m" * 300])
    parts = [figures.paths(suite, index, (2, 2), ["m" * 300]) for index in (0, 1)]
    files = [file for part in parts for place in part for file in place]
    assert len(set(files)) == 4
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()  # fails where a part of the path is too long
        assert file.suffix == ".png"


def hostile_folder(folder: Path) -> list[np.ndarray]:
    """Pictures of one stem, of the longest name, and of a name that is not UTF-8; all differ."""
    folder.mkdir()
    pictures = [photograph(30, 40, offset=30 * number) for number in range(5)]
    for name, picture in zip(
        ["a.png", "a.tiff", "A.tif", "x" * 200 + ".png"], pictures, strict=False
    ):
        write_rgb(folder / name, picture)
    os.rename(folder / "a.png", os.fsencode(folder) + b"/caf\xe9.png")
    write_rgb(folder / "a.png", pictures[4])
    return pictures


@pytest.mark.parametrize("mode", ["config", "suite"])
def test_every_photograph_has_its_own_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    pictures = hostile_folder(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    arguments: list[Any] = ["--suite", "in", "--scales", 2, "--lr", "pil", "--panels", "new/panels"]
    if mode == "config":
        config = {
            "test_dataset": {
                "dataset": {"name": "image-folder", "args": {"root_path": "in"}},
                "wrapper": {"name": "sr-implicit-downsampled", "args": {"scale_min": 2}},
                "batch_size": 1,
            },
            "eval_type": "benchmark-2",
            "data_norm": {"inp": HALF, "gt": HALF},
        }
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        arguments = ["--config", "c.yaml"]
    arguments += ["--baseline", "bicubic", "--save-images", "new/images", "--json", "new/r.json"]
    code, _, errors = run(capsys, monkeypatch, *arguments)
    assert code == 0, errors
    saved = [read_rgb(path) for path in sorted((tmp_path / "new" / "images").rglob("*.png"))]
    expected = [resize_pil(resize_pil(picture, (15, 20)), (30, 40)) for picture in pictures]
    assert len(saved) == 5
    assert all(any((made == one).all() for made in saved) for one in expected)
    names = os.listdir(tmp_path / "new" / "panels") if mode == "suite" else []
    assert len(names) == (5 if mode == "suite" else 0)


class Held:
    """A data set of one item whose pictures are in memory already."""

    def __init__(self, *pictures: np.ndarray) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return 1

    def pixels(self, index: int) -> tuple[np.ndarray, ...]:
        return self.pictures


def wrapper_of(paired: bool) -> Any:
    truth = photograph(70, 90)
    if paired:
        low = resize_pil(truth, (35, 45))
        return SRImplicitPaired(Held(low, truth), inp_size=10)
    return SRImplicitDownsampled(Held(truth), inp_size=10, sample_q=20)


@pytest.mark.parametrize("paired", [False, True])
def test_training_gets_the_same_panel_of_the_same_pictures(paired: bool) -> None:
    model, wrapper = small_model().train(), wrapper_of(paired)
    device = torch.device("cpu")
    first = training_panel(model, wrapper, NORM, device=device, side=48)
    torch.rand(3)
    second = training_panel(model, wrapper, NORM, device=device, side=48)
    assert model.training
    assert (first == second).all()
    assert first.shape[2] == 3
    other = training_panel(small_model(seed=3), wrapper, NORM, device=device, side=48)
    assert (other != first).any()


def test_tensorboard_gets_the_panel_and_texts(tmp_path: Path) -> None:
    panel = training_panel(small_model(), wrapper_of(False), NORM, device=torch.device("cpu"))
    assert panel is not None
    writer = TensorBoardWriter(tmp_path, 1)
    writer.picture(3, "val/panel", panel)
    writer.text(0, "config", "a: 1\nb: 2")
    (path,) = tmp_path.iterdir()
    data, found = path.read_bytes(), {}
    while data:  # length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event()
        event.ParseFromString(data[12 : 12 + length])
        data = data[16 + length :]
        found |= {value.tag.split("/")[0]: (event.step, value) for value in event.summary.value}
    step, value = found["val"]
    (tmp_path / "panel.jpg").write_bytes(value.image.encoded_image_string)
    assert step == 3
    shown = read_rgb(tmp_path / "panel.jpg")
    assert shown.shape == panel.shape
    assert np.abs(shown.astype(float) - panel).mean() < 3  # JPEG
    assert b"a: 1\n    b: 2" in found["config"][1].tensor.string_val[0]


def test_the_middle_of_a_pair_stays_a_pair() -> None:
    truth = photograph(70, 90)
    low = resize_pil(truth, (35, 45))
    low_part, truth_part = middle_pair((low, truth), 4.0, 24)
    assert (low_part.shape[:2], truth_part.shape[:2]) == ((12, 12), (24, 24))
    place = np.array([11, 16])
    assert (low_part == low[place[0] : place[0] + 12, place[1] : place[1] + 12]).all()
    assert (truth_part == truth[22:46, 32:56]).all()
    low_part, truth_part = middle_pair((truth,), 4.0, 26)
    assert (low_part.shape[:2], truth_part.shape[:2]) == ((6, 6), (24, 24))
