"""The benchmarks run from start to table, on small work."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runtime import has_bf16
from tests.browser import NoBrowser, chromium

SMALL = {
    "decode.py": ["--height", "8", "--scale", "2"],
    "train_step.py": ["--batch", "1", "--size", "8", "--queries", "16"],
}


Rows = list[list[str]]


def rows_of(root: Path, script: str, *arguments: str) -> Rows:
    """The cells of the rows below the heads of the tables that a benchmark prints."""
    command = [sys.executable, f"benchmarks/{script}", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^\| (.+) \|$", done.stdout, re.M)
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    heads = [number for number, row in enumerate(cells) if row[0] == "---"]
    return [row for number, row in enumerate(cells) if not {number, number + 1}.intersection(heads)]


COMMON = ["--rounds", "2", "--threads", "1", "--device", "cpu"]
FP32 = [*COMMON, "--precisions", "fp32"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["liif", "metasr"])
@pytest.mark.parametrize("script", SMALL)
def test_benchmark_prints_its_table(root: Path, script: str, model: str) -> None:
    found = rows_of(root, script, *SMALL[script], "--model", model, *COMMON)
    rows = [(*row[0].split(), *row[1:3]) for row in found]
    precisions = ["fp32", "bf16"] if has_bf16("cpu") else ["fp32"]
    assert [row[:2] for row in rows] == [("plain", "fp32"), *(("ours", p) for p in precisions)]
    assert all(float(milliseconds) > 0 for _, _, milliseconds, _ in rows)
    assert float(rows[0][3]) == 1


@pytest.mark.slow
def test_the_viewer_is_timed(root: Path) -> None:
    if os.environ.get("LIIF_BROWSER") != "1":
        pytest.skip("LIIF_BROWSER is not 1")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(chromium())
        except NoBrowser as missing:
            pytest.skip(str(missing))
    ((size, *times),) = rows_of(root, "viewer.py", "--megapixels", "0.01", "--rounds", "1")
    assert size == "82x123"
    assert len(times) == 3
    assert all(float(milliseconds) > 0 for milliseconds in times)


@pytest.mark.slow
def test_training_step_with_both_loaders(root: Path) -> None:
    loaders = ["--loader", "batch", "workers", "device", "--steps", "3", "--workers", "1"]
    pictures = ["--images", "2", "--picture", "40", "50"]
    rows = rows_of(root, "train_step.py", *SMALL["train_step.py"], *loaders, *pictures, *FP32)
    names = ["plain fp32", "ours fp32", "ours fp32, workers", "ours fp32, device"]
    assert [row[0] for row in rows] == names
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
def test_loader_shows_times_and_memory(root: Path) -> None:
    work = ["--images", "2", "--items", "2", "--rounds", "2", "--picture", "200", "230"]
    rows = rows_of(root, "loader.py", *work, "--device", "cpu")
    names = ["pickles of whole pictures", "`cache: none`", "`cache: in_memory`", "`cache: bin`"]
    assert [row[0] for row in rows] == [*names, "batches made on cpu"]
    assert all(float(row[1]) > 0 for row in rows)
    assert float(rows[0][2]) == 1
    assert all(float(row[5]) >= 0 for row in rows if row[5])


@pytest.mark.slow
def test_every_step_of_damage_is_timed(root: Path) -> None:
    rows = rows_of(root, "loader.py", "--degrade", "--items", "1", "--rounds", "2")
    assert {row[0].split(",")[0] for row in rows} == {"blur", "noise", "jpeg", "resize"}
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
def test_rendering_beside_the_plain_version(root: Path) -> None:
    plain, ours = rows_of(root, "render.py", "--size", "12", "--scale", "2", *FP32)
    assert (plain[0], ours[0]) == ("plain fp32", "ours fp32")
    assert float(ours[-1]) <= 1  # level of 255


@pytest.mark.slow
def test_the_compact_model_beside_the_papers(root: Path) -> None:
    rows = rows_of(root, "render.py", "--compact", "--size", "12", "--scale", "2", *FP32)
    assert [row[0] for row in rows] == ["EDSR-baseline-LIIF fp32", "compact-liif fp32"]
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
def test_decoders_beside_their_plain_versions(root: Path) -> None:
    rows = rows_of(root, "decoders.py", "--height", "8", "--scale", "2", *FP32)
    names = ["liif", "metasr", "lte", "lte-fast", "sronet", "ciaosr", "lmliif"]
    assert [row[0] for row in rows] == [f"{name} fp32" for name in names]
    assert all(float(row[1]) > 0 and float(row[3]) > 0 for row in rows)
    assert all(float(row[-1]) < 1e-4 for row in rows)
