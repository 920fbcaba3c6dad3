"""Studies: what is refused, what is paired with what, and real ones, killed and split."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import datasets
import models
from datasets.images import write_rgb
from engine.evaluate.statistics import over_pictures, over_seeds
from engine.evaluate.study import Run, Study, StudyConfig, document, read_study, summarise
from engine.evaluate.study_report import chart, markdown
from engine.loader import TRAIN_ITEMS, Batches, Drawn
from tests.runs import make_pictures, tiny_config
from tests.small import photograph
from utils import ConfigError, DataError

ROOT = Path(__file__).resolve().parent.parent


def study_file(folder: Path, **changes: Any) -> Path:
    """A study of two tiny variants with two seeds, and all that it needs, in this folder."""
    make_pictures(folder / "pictures")
    (folder / "test").mkdir(exist_ok=True)
    for number in range(3):
        write_rgb(folder / f"test/{number}.png", photograph(40, 44, 40 * number))
    base = tiny_config(val_dataset=None, epoch_val=None, epoch_max=2, ema_decay=None)
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    content = {
        "base": "base.yaml",
        "set": ["epoch_save=null"],
        "variants": {"full": [], "no-cell": ["model.args.cell_decode=false"]},
        "reference": "full",
        "seeds": [0, 1],
        "test": {"suites": ["test"], "scales": [2, 3], "lr": "pil"},
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "ful"}, "reference: 'ful' given; allowed: full, no-cell.*full"),
        ({"variants": {"full": [], "x": {"sets": []}}}, "variants.x: .* given; allowed: a list of"),
        ({"variants": {"full": [], "a/b": []}}, "variants: 'a/b' given; allowed: letters"),
        ({"variants": {"full": ["model.args.cel=1"]}}, "variants.full: .*cel"),
        ({"variants": {"full": {"base": "no.yaml"}}}, "variants.full: no.yaml: can't be read"),
        ({"set": ["seed=5"]}, "set: 'seed=5' given; allowed: .* by the key seeds"),
        ({"variants": {"full": ["seed=5"]}}, "variants.full: 'seed=5' given; allowed: .* seeds"),
        ({"variants": {"full": {"set": ["seed=5"]}}}, "variants.full: 'seed=5' given"),
        ({"set": ["resume=x.pth"]}, "resume: 'x.pth' given; allowed: none, .*; or init"),
        ({"variants": {"full": ["init=x.pth"]}}, "variants.full: init: 'x.pth' is neither a file"),
        ({"seeds": [1, 1]}, "seeds: .* given; allowed: different numbers"),
        ({"test": {"suites": ["set5"]}}, "no folder .*Set5.*; get it with: python scripts"),
        ({"test": {"suites": ["no-such"]}}, "no-such"),
        ({"test": {"suites": ["test"], "metrics": ["pnsr"]}}, "pnsr"),
        ({"test": {"suites": ["test"], "scales": ["x"]}}, "scales"),
        (
            {"test": {"suites": ["test"], "scales": [2.5], "protocol": "ciaosr"}},
            "scales: 2.5 given; allowed with protocol ciaosr: whole numbers",
        ),
        ({"test": {"suites": ["test"], "degrade": ["no.yaml"]}}, "no.yaml: can't be read"),
        (
            {"test": {"suites": ["test"], "degrade": ["none", "none"]}},
            "degrade: none given; allowed: files of different names",
        ),
        ({"sed": [0]}, "sed"),
    ],
)
def test_what_cannot_be_meant_is_one_message(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_study(study_file(folder, **changes))


@pytest.mark.parametrize("start", ["init=compact-liif", "init=rdn-liif", "resume=auto"])
def test_known_weights_to_start_from_are_no_fault_nor_fetched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    monkeypatch.setenv("LIIF_CACHE", str(folder / "cache"))
    assert len(read_study(study_file(folder, set=[start])).runs) == 4
    assert not (folder / "cache").exists()


def made_up(values: np.ndarray) -> tuple[Study, dict[str, Any]]:
    """A study of made-up figures (variants, seeds, pictures) at x2 of one suite."""
    names = ["full", "other"]
    test = {"suites": [], "scales": [], "lr": "pil", "metrics": ["psnr"]}
    config = StudyConfig(
        base="", variants={name: [] for name in names}, reference="full", seeds=[0, 1, 2], test=test
    )  # type: ignore[arg-type]
    runs = [Run(name, seed, "", (), Path(), {}) for seed in range(3) for name in names]
    results = {
        run.name: {
            "results": [
                {"suite": "s", "scale": "2", "image": str(i), "values": {"psnr": float(value)}}
                for i, value in enumerate(values[names.index(run.variant), run.seed])
            ],
            "cost": {"weights": 7, "seconds_per_step": 0.1, "milliseconds_per_megapixel": 9.0},
        }
        for run in runs
    }
    return Study("made-up", config, Path(), tuple(runs)), results


def test_summary_is_paired_by_seed_and_picture() -> None:
    values = np.random.default_rng(0).normal(30, 2, (2, 3, 8))
    values[1] = values[0] + 0.25 + np.random.default_rng(1).normal(0, 0.01, (3, 8))
    study, results = made_up(values)
    reference, other = summarise(study, results)
    assert reference.difference is None
    assert reference.mean == pytest.approx(values[0].mean())
    assert reference.std == pytest.approx(values[0].mean(1).std(ddof=1))
    differences = values[1] - values[0]
    assert other.difference == pytest.approx(differences.mean())
    assert other.seeds == pytest.approx(over_seeds(differences))
    assert other.pictures == pytest.approx(over_pictures(differences))
    # The spread of pictures and seeds, 2 dB, has no part in it.
    assert other.seeds is not None
    assert other.seeds.half < 0.02


def test_pictures_without_error_or_figure_leave_the_others_their_difference() -> None:
    values = np.full((2, 3, 8), 30.0)
    values[1] += 0.5
    values[:, :, 2] = np.inf  # by both: no difference
    study, results = made_up(values)
    for result in results.values():  # too small for SSIM
        result["results"] += [{**one, "values": {"ssim": None}} for one in result["results"]]
    reference, other = summarise(study, results)
    assert (reference.mean, reference.std) == (np.inf, None)
    assert other.difference == pytest.approx(0.5 * 7 / 8)
    assert other.seeds == pytest.approx((0.5 * 7 / 8,) * 2)
    assert "nan" not in markdown(study, [reference, other], results)


def test_runs_tested_on_different_pictures_are_refused() -> None:
    study, results = made_up(np.random.default_rng(0).normal(30, 2, (2, 3, 8)))
    del results["other-1"]["results"][3]  # as if removed before this test
    with pytest.raises(DataError, match="other-1: no psnr of picture 3 of s x2, which full-0 has"):
        summarise(study, results)
    del results["full-1"], results["full-2"]
    results["other-1"]["results"] = []
    with pytest.raises(DataError, match=r"other-1: no psnr of picture 0 .* remove result.json of"):
        document(study, results)


def test_table_and_chart_say_what_the_summary_does() -> None:
    values = np.zeros((2, 3, 8)) + 30
    values[1] += np.array([0.2, 0.3, 0.5])[:, None]  # 1/3 +- 4.3027 * 0.15275 / sqrt(3)
    study, results = made_up(values)
    rows = summarise(study, results)
    text = markdown(study, rows, results)
    assert "| full | 30.00 ± 0.00 |" in text
    assert "| other | 30.33 ± 0.15 |" in text
    assert "| other | +0.33; seeds -0.05 to +0.71; pictures +0.33 to +0.33 |" in text
    assert "| other | 7 | 0.1 | 9 |" in text
    figure = chart(study, rows)
    assert figure is not None
    (line, *_), ticks = figure.axes[0].lines[1:], figure.axes[0].get_xticklabels()
    assert line.get_ydata() == pytest.approx([1 / 3])
    assert [tick.get_text() for tick in ticks] == ["x2"]


def test_an_unfinished_study_is_told_as_far_as_it_is() -> None:
    study, results = made_up(np.random.default_rng(0).normal(30, 2, (2, 3, 8)))
    del results["full-0"], results["other-1"]
    (_, other) = summarise(study, results)
    assert other.difference is not None  # of seed 2 alone
    assert other.seeds is None
    assert document(study, results)["finished"] == "4 of 6 runs"


def test_variants_of_a_seed_share_data_draws_and_encoder(folder: Path) -> None:
    """Which is what makes the pairing strong."""
    full, no_cell = read_study(study_file(folder)).runs[:2]
    assert (full.name, no_cell.name) == ("full-0", "no-cell-0")
    spec = full.definition["training"]["model"]
    other = no_cell.definition["training"]["model"]
    assert spec != other
    encoders = []
    for each in (spec, other):
        torch.manual_seed(0)
        encoders.append(models.make(each).encoder.state_dict())
    assert all(torch.equal(encoders[0][key], encoders[1][key]) for key in encoders[0])

    batches = []
    for run in (full, no_cell):
        part = run.definition["training"]["train_dataset"]
        wrapper = datasets.make(part["wrapper"], {"dataset": datasets.make(part["dataset"])})
        seed = run.definition["training"]["seed"]
        drawn = Drawn(wrapper, seed=seed, stream=TRAIN_ITEMS, on_bad_image="stop")
        order = Batches(len(wrapper), part["batch_size"], seed=seed, training=True)
        batches.append([drawn(keys) for keys in order])
    for batch, other_batch in zip(*batches, strict=True):
        for name in ("indices", "inp", "coord", "cell", "gt"):
            assert torch.equal(batch[name], other_batch[name])


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts/study.py"), "tiny.yaml", *options]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *options), cwd=folder, capture_output=True, text=True, timeout=600
    )


def figures(folder: Path) -> dict[str, Any]:
    """`study.json` without its times."""
    content = json.loads((folder / "save/study-tiny/study.json").read_text())
    for variant in content["variants"].values():
        for one in variant["runs"].values():
            cost = one["cost"]
            assert cost.pop("seconds_per_step") > 0
            assert cost.pop("milliseconds_per_megapixel") > 0
    return content


@pytest.mark.slow
def test_killed_or_split_a_study_gives_the_same_figures(tmp_path: Path) -> None:
    whole, killed, split = (tmp_path / name for name in ("whole", "killed", "split"))
    for place in (whole, killed, split):
        place.mkdir()
        study_file(place)
    started = time.monotonic()
    done = run(whole)
    assert done.returncode == 0, done.stderr
    seconds = time.monotonic() - started
    expected = figures(whole)
    assert expected["finished"] == "4 of 4 runs"
    summary = expected["variants"]["no-cell"]["summary"]
    assert [(row["scale"], row["metric"]) for row in summary] == [("2", "psnr"), ("3", "psnr")]
    assert (whole / "save/study-tiny/study.png").stat().st_size > 10_000

    rng = random.Random(0)
    for number in range(3):
        process = subprocess.Popen(
            command(killed), cwd=killed, start_new_session=True, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(rng.uniform(0.1, 0.9) * seconds / (2 if number else 1))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert run(killed).returncode == 0
    assert figures(killed) == expected

    assert run(split, "--only", "2/2").returncode == 0
    assert figures(split)["finished"] == "2 of 4 runs"
    assert run(split, "--only", "1/2").returncode == 0
    assert figures(split) == expected

    # What is finished is not done again, and SIGTERM ends what runs.
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("result.json")}
    again = run(whole)
    assert "4 of 4 runs are finished already" in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("result.json")}
    study_file(whole, test={"suites": ["test"], "scales": [4], "lr": "pil"})
    other = run(whole)
    assert other.returncode == 1
    assert other.stderr.count("\n") == 1
    assert "a run of another study" in other.stderr


@pytest.mark.slow
def test_a_variant_that_fails_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "no-weights.pth").write_text("")
    variants = {"full": [], "broken": ["init=no-weights.pth"]}
    study_file(tmp_path, variants=variants, seeds=[0])
    done = run(tmp_path)
    assert done.returncode == 1
    assert "broken-0: failed, train_liif.py: exit code" in done.stderr
    assert "no-weights.pth" in done.stderr
    assert figures(tmp_path)["finished"] == "1 of 2 runs"


@pytest.mark.slow
def test_a_dry_run_says_what_it_would_do(tmp_path: Path) -> None:
    study_file(tmp_path)
    done = run(tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "no-cell-1: base.yaml epoch_save=null model.args.cell_decode=false seed=1" in done.stdout
    assert "4 runs, training about " in done.stdout
    assert not (tmp_path / "save").exists()


def test_damaged_pictures_are_part_of_what_a_run_is(folder: Path) -> None:
    steps = folder / "steps.yaml"
    test = {"suites": ["test"], "scales": [2], "lr": "pil"}
    definitions = []
    for sigma in (None, 3, 4):
        steps.write_text(f"- {{name: noise, sigma: {sigma or 1}}}\n")
        damage = {} if sigma is None else {"degrade": ["none", "steps.yaml"]}
        study = read_study(study_file(folder, test={**test, **damage}))
        definitions.append(study.runs[0].definition["test"]["degrade"])
    assert definitions[0] == {"none": None}
    assert [definition["steps"][0]["sigma"] for definition in definitions[1:]] == [3, 4]


def test_parts_are_checked(folder: Path) -> None:
    study_file(folder)
    done = run(folder, "--only", "3/2")
    assert done.returncode == 2
    assert done.stderr == "error: --only: '3/2' given; allowed: I/N, I from 1 to N\n"


def test_a_damaged_result_is_one_line(folder: Path) -> None:
    path = study_file(folder)
    place = read_study(path).runs[0].folder
    place.mkdir(parents=True)
    (place / "result.json").write_text("{")
    with pytest.raises(DataError, match=r"result\.json: can't be read"):
        read_study(path)
