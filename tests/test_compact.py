"""The bundled weights: what they are, what they reach, and that the recipe makes them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine.config import read_train_config
from engine.weights.checkpoint import load_checkpoint
from engine.weights.pretrained import BUNDLED, load_model

FOLDER = Path("configs/train-bsds500")
DEFAULT, PHOTO = BUNDLED.values()
# The stages of each; a test repeats the beginning of the first.
STAGES = {
    DEFAULT: [f"train_compact-liif{n}.yaml" for n in ("", "-2", "-3")],
    PHOTO: [f"train_compact-liif-photo{n}.yaml" for n in ("", "-2")],
}
LOSSES = {DEFAULT: "compact_losses.csv", PHOTO: "compact_photo_losses.csv"}
SPLITS = ["split.json", "split-photo.json"]


@pytest.mark.parametrize("weights", STAGES, ids=lambda path: path.stem)
def test_small_whole_and_of_the_shipped_recipe(root: Path, weights: Path) -> None:
    checkpoint = load_checkpoint(weights)
    stages = [read_train_config(root / FOLDER / name) for name in STAGES[weights]]
    spec = {key: checkpoint["model"][key] for key in ("name", "args")}
    assert weights.stat().st_size < 3_000_000
    assert checkpoint["checksum"].startswith("sha256:")
    assert all({**spec, "sd": None} == {"sd": None, **stage.model} for stage in stages)
    assert checkpoint["epoch"] == stages[-1].epoch_max
    assert all(torch.isfinite(value).all() for value in load_model(weights).state_dict().values())


@pytest.mark.parametrize("weights", STAGES, ids=lambda path: path.stem)
def test_the_model_card_names_the_file(root: Path, weights: Path) -> None:
    card = (root / "docs" / "model-card.md").read_text()
    assert load_checkpoint(weights)["checksum"].removeprefix("sha256:") in card


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest, root: Path) -> dict[str, list[str]]:
    return json.loads((root / "configs" / "train-bsds500" / request.param).read_text())


def test_never_trained_on_what_measures_it(split: dict[str, list[str]]) -> None:
    assert not set(split["train"]) & set(split["val"])
    assert len(split["train"]) + len(split["val"]) == 400


def test_split_holds_no_picture_of_b100(split: dict[str, list[str]], reference: Path) -> None:
    b100 = {path.name for path in (reference / "data" / "bsds500" / "val").iterdir()}
    assert len(b100) == 100
    assert not b100 & {*split["train"], *split["val"]}


def test_what_is_held_out_of_the_first_training_is_held_out_of_the_second(root: Path) -> None:
    folder = root / "configs" / "train-bsds500"
    first, second = (json.loads((folder / name).read_text()) for name in SPLITS)
    assert set(first["val"]) < set(second["val"])


@pytest.mark.slow
def test_gains_over_bicubic_on_set5(root: Path, reference: Path, tmp_path: Path) -> None:
    data = tmp_path / "benchmark"
    data.mkdir()
    (data / "Set5").symlink_to(reference / "data" / "Set5")
    command = [sys.executable, "test.py", "--suite", "set5", "--data-root", str(tmp_path)]
    command += ["--model", str(DEFAULT), "--baseline", "bicubic", "--metrics", "psnr"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    rows = {
        line.split("|")[1].strip(" *"): [float(cell) for cell in line.split("|")[2:-1]]
        for line in done.stdout.splitlines()
        if line.startswith(("| **bicubic", "| **compact-liif"))
    }
    bicubic, compact = rows.values()
    gains = [ours - plain for ours, plain in zip(compact[:5], bicubic[:5], strict=True)]
    assert all(g > least for g, least in zip(gains, (3.5, 3.0, 2.8, 0.0, 0.0), strict=True)), gains


def start_recipe(
    root: Path, folder: Path, photographs: Path, recipe: str
) -> subprocess.Popen[bytes]:
    """The recipe, started by its own command in `folder`."""
    (folder / "load" / "bsds500").mkdir(parents=True)
    (folder / "load" / "bsds500" / "images").symlink_to(photographs)
    (folder / "configs").symlink_to(root / "configs")
    command = [sys.executable, str(root / "train_liif.py"), "--config", str(FOLDER / recipe)]
    command += ["--name", "run", "--set", "save_minutes=0.1", "num_workers=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)


def first_losses(process: subprocess.Popen[bytes], folder: Path, count: int) -> list[float]:
    """The first losses of a run in `folder`, which is stopped when it has written them."""
    record = folder / "save" / "run" / "losses.csv"
    losses: list[float] = []
    deadline = time.monotonic() + 900
    while len(losses) < count and time.monotonic() < deadline and process.poll() is None:
        time.sleep(1)
        if record.exists():
            losses = [float(row["loss"]) for row in csv.DictReader(record.open())]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143
    return losses[:count]


@pytest.mark.slow
@pytest.mark.parametrize("weights", STAGES, ids=lambda path: path.stem)
def test_first_steps_of_the_recipe_reproduce(
    root: Path, reference: Path, tmp_path: Path, weights: Path
) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for part in ("train", "test"):
        for path in (reference / "data" / "bsds500" / part).glob("*.jpg"):
            (photographs / path.name).symlink_to(path)
    folders = [tmp_path / name for name in ("one", "two")]
    started = [
        start_recipe(root, folder, photographs, STAGES[weights][0]) for folder in folders
    ]  # side by side
    runs = [first_losses(*pair, count=100) for pair in zip(started, folders, strict=True)]
    assert runs[0] == runs[1]
    with (root / "tests" / "data" / LOSSES[weights]).open() as file:
        recorded = [float(row["loss"]) for row in csv.DictReader(file)][:100]
    # Another processor or library rounds differently, and a hundred steps let that grow.
    assert sum(runs[0]) == pytest.approx(sum(recorded), rel=0.05)
