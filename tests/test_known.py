"""The command that gets a folder which a configuration names and nobody has put there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import datasets
from datasets.known import how_to_get
from scripts.prepare_data import parse_arguments
from utils import DataError

PREPARE = "; get it with: python scripts/prepare_data.py"


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("./load/div2k/DIV2K_train_HR", f"{PREPARE} div2k"),
        ("load/div2k/DIV2K_valid_LR_bicubic/X3", f"{PREPARE} div2k"),
        ("load/div2k/DIV2K_train_LR_bicubic/X2", f"{PREPARE} div2k --parts train-lr-x2"),
        ("load/benchmark/B100/HR", f"{PREPARE} benchmark"),
        ("/data/benchmark/Set5/LR_bicubic/X2/", f"{PREPARE} benchmark --root /data"),
        ("my data/sample/train", f"{PREPARE} sample --root 'my data'"),
        ("/sample/valid", f"{PREPARE} sample --root /"),
        ("sample/valid", f"{PREPARE} sample --root ."),
        ("load/benchmark/Mine/HR", ""),
        ("load/benchmark/Set5", ""),
        ("mydiv2k/DIV2K_train_HR", ""),
        ("nowhere/LR_bicubic/X2", ""),
    ],
)
def test_commands(folder: str, command: str) -> None:
    assert how_to_get(Path(folder)) == command


def test_every_folder_of_the_configurations_has_one(root: Path) -> None:
    own = root / "configs/own"  # which users fill themselves
    paths = [path for path in (root / "configs").rglob("*.yaml") if path.parent != own]
    texts = [path.read_text() for path in paths]
    folders = {name for text in texts for name in re.findall(r"root_path(?:_[12])?: (.+)", text)}
    assert len(folders) > 20
    for folder in folders:
        how = how_to_get(Path(folder))
        assert how.startswith(PREPARE), folder
        parse_arguments(how.removeprefix(PREPARE).split())  # or it ends with a usage line


def test_missing_folders_are_told_with_it(tmp_path: Path) -> None:
    """One line of what is missing and how to get it, from data sets as from suites."""
    place = tmp_path / "load" / "benchmark" / "Set14" / "HR"
    spec = {"name": "image-folder", "args": {"root_path": str(place)}}
    line = f"{PREPARE} benchmark --root {tmp_path / 'load'}"
    with pytest.raises(DataError) as missing:
        datasets.make(spec)
    assert str(missing.value) == f"{place}: no such folder{line}"
    place.mkdir(parents=True)
    with pytest.raises(DataError) as empty:
        datasets.make(spec)
    assert str(empty.value) == f"{place}: no images{line}"


def test_own_low_resolution_pictures_are_made_by_a_command(tmp_path: Path) -> None:
    trip, low = tmp_path / "trip", tmp_path / "trip-LR_bicubic" / "X3"
    assert how_to_get(low) == ""
    trip.mkdir()
    made = f"; make it with: python scripts/prepare_data.py lr --hr {trip} --scales 3"
    assert how_to_get(low) == made
