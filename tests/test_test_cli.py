"""`python test.py`: what it prints, and one line for each mistake."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from datasets.images import read_rgb, write_rgb
from datasets.resize import resize_pil
from tests.commands import Commands
from tests.small import HALF, photograph, run, save_model, small_model, write_benchmark
from tests.test_suites import suite_command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, a model `m.pth` and a configuration `c.yaml` (x2 pairs)."""
    benchmark = write_benchmark(tmp_path / "load")
    save_model(tmp_path / "m.pth")
    config = {
        "test_dataset": {
            "dataset": {
                "name": "paired-image-folders",
                "args": {
                    "root_path_1": str(benchmark / "LR_bicubic" / "X2"),
                    "root_path_2": str(benchmark / "HR"),
                },
            },
            "wrapper": {"name": "sr-implicit-paired", "args": {}},
            "batch_size": 1,
        },
        "eval_type": "benchmark-2",
        "eval_bsize": 30000,
        "data_norm": {"inp": HALF, "gt": HALF},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_last_line_is_the_result(place: Path, commands: Commands) -> None:
    arguments = ["--config", "c.yaml", "--model", "m.pth", "--json", "r.json"]
    result = commands.run("test.py", *arguments, folder=place)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    content = json.loads((place / "r.json").read_text())
    assert lines[-1] == f"result: {content['psnr']:.4f}"
    assert [image["name"] for image in content["images"]] == [f"photo{n}.png" for n in (1, 2, 3)]
    figures = [image["values"]["psnr"] for image in content["images"]]
    assert content["psnr"] == pytest.approx(np.mean(figures), abs=1e-9)
    assert content["protocol"]["lr_source"] == "as supplied"
    assert content["protocol"]["border"] == "2x2"
    assert "LR as supplied" in lines[-3]


@pytest.mark.slow
def test_two_processes_print_what_one_prints(place: Path) -> None:
    arguments = ["--config", "c.yaml", "--model", "m.pth"]
    one = suite_command(*arguments, cwd=place)
    two = suite_command(*arguments, processes=2, cwd=place)
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    pairs = zip(one.stdout.split(), two.stdout.split(), strict=True)
    for first, second in pairs:
        try:
            assert float(first) == pytest.approx(float(second), abs=1e-4)
        except ValueError:
            assert first == second
    assert all(two.stdout.count(f"photo{n}.png") == 1 for n in (1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["config", "suite"])
def test_a_broken_picture_seen_by_one_process_ends_both_in_lines(place: Path, kind: str) -> None:
    (place / "load/benchmark/Set5/HR/photo2.png").write_bytes(b"no picture")
    measured = ["--config", "c.yaml"] if kind == "config" else ["--suite", "set5"]
    started = time.monotonic()
    ended = suite_command(*measured, "--model", "m.pth", processes=2, cwd=place)
    assert ended.returncode != 0
    assert time.monotonic() - started < 240
    own = ended.stderr.split("torch.distributed.elastic")[0]  # what torchrun says of it comes after
    assert re.search(r"^error: .*photo2.png", own, re.MULTILINE), ended.stderr
    assert "RuntimeError" not in ended.stderr
    advice = "goes on from here" if kind == "suite" else "measures again"
    others = re.findall(r"^error: another process of this run has ended; (.*)", own, re.MULTILINE)
    assert others in ([], [f"the same command {advice}"]), ended.stderr  # torchrun may be faster


def test_baselines_and_settings_on_the_command_line(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--config", "c.yaml", "--baseline", "bicubic", "--save-images", "out"]
    code, output, _ = run(capsys, monkeypatch, *arguments, "--set", "eval_type=div2k-2")
    assert code == 0
    low = read_rgb(place / "load/benchmark/Set5/LR_bicubic/X2/photo1x2.png")
    high = read_rgb(place / "load/benchmark/Set5/HR/photo1.png")
    picture = resize_pil(low, (48, 52))
    assert (read_rgb(place / "out" / "photo1.png") == picture).all()
    difference = (picture.astype(float) - high[:48, :52])[8:-8, 8:-8] / 255
    assert f"photo1.png  48x52  psnr {-10 * np.log10((difference**2).mean()):.4f}" in output
    assert "PSNR of RGB, border 8x8 cut" in output


def test_the_average_of_the_weights_is_used_unless_told_otherwise(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = torch.load(place / "m.pth", weights_only=True)
    checkpoint["ema"] = small_model(seed=5).state_dict()
    torch.save(checkpoint, place / "ema.pth")
    save_model(place / "five.pth", small_model(seed=5))

    def result(*arguments: str) -> str:
        code, output, _ = run(capsys, monkeypatch, "--config", "c.yaml", *arguments)
        assert code == 0
        return output.splitlines()[-1]

    plain, five = result("--model", "m.pth"), result("--model", "five.pth")
    assert plain != five
    assert result("--model", "ema.pth") == five
    assert result("--model", "ema.pth", "--raw-weights") == plain


def test_the_normalisation_is_that_of_the_file(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a model that was trained with another, which is then said in one line."""
    checkpoint = torch.load(place / "m.pth", weights_only=True)
    own = {"inp": {"sub": [0.4, 0.5, 0.6], "div": [1.0]}, "gt": {"sub": [0.45], "div": [0.3]}}
    same = {"inp": {"sub": [0.5] * 3, "div": [0.5]}, "gt": HALF}
    for name, norm in (("own", own), ("same", same)):
        torch.save({**checkpoint, "config": {"data_norm": norm}}, place / f"{name}.pth")

    def result(name: str, *arguments: str) -> tuple[str, str]:
        given = ("--config", "c.yaml", "--model", f"{name}.pth", *arguments)
        code, output, errors = run(capsys, monkeypatch, *given)
        assert code == 0
        return output.splitlines()[-1], errors

    plain, errors = result("m")
    assert errors == ""
    assert result("same") == (plain, "")
    half = {"inp": HALF, "gt": HALF}
    line = f"data_norm: {half} is used, of the configuration; own.pth was trained with {own}\n"
    assert result("own") == (plain, line)
    fitting, errors = result("own", "--set", f"data_norm={json.dumps(own)}")
    assert errors == ""
    assert fitting != plain
    published = "data_norm={}"  # as the published code: x - 0 over 1
    assert result("own", "--set", published)[0] == result("m", "--set", published)[0] != plain


SUITE = ["--suite", "set5", "--model", "m.pth"]
SAMPLED = ["--config", "c.yaml", "--set", "eval_type=null", "test_dataset.wrapper.args.sample_q=50"]
MISTAKES: list[tuple[int, str, list[Any]]] = [
    (2, "give --config FILE or --suite NAME", []),
    (2, "one of the two", ["--config", "c.yaml", "--suite", "set5", "--model", "m.pth"]),
    (2, "give --model MODEL, --baseline NAME, or --predictions", ["--config", "c.yaml"]),
    (2, "did you mean 'bicubic'", ["--config", "c.yaml", "--baseline", "bicubik"]),
    (2, "one --model or one --baseline", ["--config", "c.yaml", "--model", "a", "--model", "b"]),
    (2, "--scales goes with --suite", ["--config", "c.yaml", "--model", "m.pth", "--scales", "2"]),
    (2, "--set goes with --config", ["--suite", "set5", "--model", "m.pth", "--set", "a=1"]),
    (2, "neither a file nor", ["--config", "c.yaml", "--model", "nothing.pth"]),
    (2, "can't be read", ["--config", "nothing.yaml", "--model", "m.pth"]),
    (2, "eval_type", ["--config", "c.yaml", "--model", "m.pth", "--set", "eval_type=set5-2"]),
    (2, "metrics: 'snr'", ["--config", "c.yaml", "--model", "m.pth", "--metrics", "snr"]),
    (2, "allowed: set5", ["--suite", "set55", "--model", "m.pth"]),
    (2, "--scales: '0'", ["--suite", "set5", "--model", "m.pth", "--scales", "0"]),
    (2, "fp16 needs CUDA", ["--suite", "set5", "--model", "m.pth", "--precision", "fp16"]),
    (2, "--eval-bsize: 0", ["--suite", "set5", "--model", "m.pth", "--eval-bsize", "0"]),
    (
        2,
        "--self-ensemble goes",
        ["--config", "c.yaml", "--baseline", "nearest", "--self-ensemble"],
    ),
    (2, "--self-ensemble: whole pictures", [*SAMPLED, "--model", "m.pth", "--self-ensemble"]),
    (2, "--baseline: whole pictures", [*SAMPLED, "--baseline", "nearest"]),
    (1, "Urban100: skipped, no folder", ["--suite", "urban100", "--model", "m.pth"]),
    (1, "can't be", ["--suite", "set5", "--model", "m.pth", "--json", "m.pth/r.json"]),
    (1, "no results of a suite", ["--suite", "set5", "--model", "m.pth", "--json", "c.yaml"]),
    (1, "can't be made", ["--suite", "set5", "--model", "m.pth", "--panels", "m.pth/p"]),
    (1, "c.yaml", ["--config", "c.yaml", "--model", "c.yaml"]),
    # Results that would replace each other, or what they are made of.
    (
        2,
        "--save-images: load/benchmark/Set5/HR/photo1.png is a test picture",
        ["--config", "c.yaml", "--model", "m.pth", "--save-images", "load/benchmark/Set5/HR"],
    ),
    (
        2,
        "--json: c.yaml is the file",
        ["--config", "c.yaml", "--model", "m", "--json", "./c.yaml"],
    ),
    (2, "--markdown: r is the file", [*SUITE, "--json", "r", "--markdown", "r"]),
    (2, "--markdown: r.md is the file of --json", [*SUITE, "--json", "r.md"]),
    (2, "--json: d.yaml is the file", [*SUITE, "--json", "d.yaml", "--degrade", "d.yaml"]),
    (1, "can't be", [*SUITE, "--markdown", "m.pth/r.md"]),
    *((2, f"{name}: ''", [*SUITE, name, ""]) for name in ("--suite", "--json", "--save-images")),
]


@pytest.mark.parametrize(("code", "words", "arguments"), MISTAKES)
def test_a_mistake_is_one_line_and_an_exit_code(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    words: str,
    arguments: list[Any],
) -> None:
    if torch.cuda.is_available() and "fp16" in words:
        pytest.skip("CUDA is here")
    given, output, errors = run(capsys, monkeypatch, *arguments)
    assert given == code, errors
    assert words in errors
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors + output


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "size":
        write_rgb(path, photograph(30, 90))


@pytest.mark.parametrize("mode", ["config", "suite"])
@pytest.mark.parametrize("kind", ["truncated", "text", "size"])
def test_a_broken_picture_is_named(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    kind: str,
) -> None:
    damage(place / "load/benchmark/Set5/HR/photo2.png", kind)
    what = ["--config", "c.yaml"] if mode == "config" else ["--suite", "set5", "--scales", "2"]
    code, _, errors = run(capsys, monkeypatch, *what, "--model", "m.pth")
    assert code == 1
    assert "photo2.png" in errors
    assert errors.count("\n") == 1, errors


@pytest.mark.parametrize("words", ["no such folder", "no images"])
def test_a_missing_or_empty_folder_is_named(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    folder = place / "elsewhere"
    if words == "no images":
        folder.mkdir()
    override = f"test_dataset.dataset.args.root_path_2={folder}"
    arguments = ["--config", "c.yaml", "--model", "m.pth", "--set", override]
    code, _, errors = run(capsys, monkeypatch, *arguments)
    assert code == 1
    assert words in errors
    assert str(folder) in errors
