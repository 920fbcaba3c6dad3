"""Suites: the paper's tables from one process, resumed, shared out, and told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.images import read_rgb, write_rgb
from engine.config import read_train_config
from engine.distributed import Processes
from engine.evaluate.suite import baseline_method, distinct_labels, model_method, run_suites
from engine.evaluate.suite_data import Pictures, find_suite
from engine.evaluate.suite_figures import SuiteFigures
from engine.evaluate.suite_results import ResultStore
from engine.evaluate.tables import Series, make_table, paper_row
from engine.evaluate.test_config import run_test
from scripts.prepare_data import main as prepare_data
from tests.commands import contents
from tests.small import (
    SPEC,
    downsampled,
    photograph,
    psnr_by_hand,
    render_by_hand,
    run,
    save_model,
    small_model,
    write_benchmark,
)
from tests.test_evaluate import folder_config
from utils import ConfigError, DataError, parse_scale

CPU = torch.device("cpu")
CONFIGS = Path(__file__).resolve().parent.parent / "configs/train-div2k"


def records_of(
    data_root: Path, store: Path, methods: list[Any], scales: str = "2 3", source: str = "paper"
) -> list[dict[str, Any]]:
    scale_list = [parse_scale(text) for text in scales.split()]
    suites = [Pictures(find_suite("set5", data_root), scale_list, source)]
    figures = SuiteFigures(None, None, suites, [method.label for method in methods])
    measures, results = ("psnr", "ssim"), ResultStore(store)
    return run_suites(suites, methods, measures, results, figures, device=CPU, progress=False)


def suite_command(*arguments: object, processes: int = 1, cwd: Path) -> Any:
    """`python test.py ...`, or the same under torchrun; run in cwd."""
    script = Path(__file__).parent.parent / "test.py"
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(script), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_suite_gives_the_figures_of_single_configurations(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path)
    method = model_method(str(save_model(tmp_path / "m.pth")), CPU)
    records = records_of(tmp_path, tmp_path / "r.json", [method], "2.5 2x3.5")
    for scale, text in ((2.5, "2.5"), ([2, 3.5], "2x3.5")):
        config = folder_config(folder / "HR", scale, f"benchmark-{text}")
        both = ("psnr", "ssim")
        single, names = run_test(config, small_model(), CPU, Processes(), metrics=both)
        mine = [record for record in records if record["scale"] == text]
        assert [record["image"] for record in mine] == names
        for record, image in zip(mine, single.images, strict=True):
            assert record["values"] == pytest.approx(image.values, abs=1e-6)
            assert (tuple(record["lr_size"]), tuple(record["size"])) == (image.lr_size, image.size)


def test_a_suite_agrees_with_each_pixel_by_hand(tmp_path: Path) -> None:
    high = tmp_path / "benchmark" / "Set5" / "HR"
    high.mkdir(parents=True)
    picture = photograph(20, 25)
    write_rgb(high / "a.png", picture)
    method = model_method(str(save_model(tmp_path / "m.pth")), CPU)
    (record,) = records_of(tmp_path, tmp_path / "r.json", [method], "1.5x2.25")
    low, truth = downsampled(picture, (1.5, 2.25))
    rendered = render_by_hand(small_model(), low, truth.shape[:2])
    expected = psnr_by_hand(rendered, truth, (2, 3))
    assert record["values"]["psnr"] == pytest.approx(expected, abs=1e-4)


def test_low_resolution_pictures_come_from_where_they_are_said_to(tmp_path: Path) -> None:
    write_benchmark(tmp_path)
    methods = [baseline_method("bicubic", CPU)]
    figures = {
        source: records_of(tmp_path, tmp_path / f"{source}.json", methods, "3", source)
        for source in ("paper", "supplied", "matlab", "pil")
    }
    values = {source: [r["values"] for r in found] for source, found in figures.items()}
    assert [found[0]["lr_source"] for found in figures.values()] == [
        "supplied",
        "supplied",
        "matlab",
        "pil",
    ]
    assert values["paper"] == values["supplied"] == values["matlab"]
    assert values["pil"] != values["matlab"]


def test_missing_low_resolution_pictures_leave_a_scale_out(tmp_path: Path) -> None:
    write_benchmark(tmp_path, scales=(2,))
    data = find_suite("set5", tmp_path)
    pictures = Pictures(data, [(2.0, 2.0), (4.0, 4.0), (6.0, 6.0)], "paper")
    assert pictures.scales == [(2.0, 2.0), (6.0, 6.0)]
    assert "LR_bicubic/X4" in pictures.missing[(4.0, 4.0)]
    assert "prepare_data.py benchmark" in pictures.missing[(4.0, 4.0)]


def test_a_folder_of_photographs_has_all_scales(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its LR is made as the benchmarks' was, so its figures are those of a prepared folder."""
    benchmark = write_benchmark(tmp_path)
    plain = tmp_path / "trip"
    shutil.copytree(benchmark / "HR", plain)
    scales = [(float(scale),) * 2 for scale in (2, 3, 4, 6, 8)]
    pictures = Pictures(find_suite(str(plain), tmp_path), scales, "paper")  # type: ignore[arg-type]
    assert pictures.missing == {}
    assert [*pictures.sources.values()] == ["matlab"] * 3 + ["pil"] * 2
    for index in range(3):
        for scale in (2, 3, 4):
            high = pictures.read(index)
            low, truth = pictures.pair(index, high, (scale, scale))
            supplied = f"{Path(pictures.name(index)).stem}x{scale}.png"
            assert np.array_equal(low, read_rgb(benchmark / f"LR_bicubic/X{scale}" / supplied))
            height, width = low.shape[:2]
            assert np.array_equal(truth, high[: height * scale, : width * scale])

    monkeypatch.chdir(tmp_path)
    model = save_model(tmp_path / "mine.pth")
    arguments = ["--suite", benchmark, plain, "--model", model, "--json", "r.json"]
    code, output, errors = run(capsys, monkeypatch, *arguments)
    assert code == 0, errors
    assert "LR: x2 x3 x4 MATLAB bicubic, made on the fly; x6 x8 PIL bicubic, made on" in output
    assert "skipped" not in output
    results = json.loads((tmp_path / "r.json").read_text())["results"]
    keep = ("image", "scale", "values", "lr_size", "size")
    by_suite = {
        suite: [[r[k] for k in keep] for r in results if r["suite"] == str(suite)]
        for suite in (benchmark, plain)
    }
    assert len(by_suite[plain]) == 3 * 5
    assert by_suite[plain] == by_suite[benchmark]

    prepare_data(["lr", "--hr", str(plain), "--scales", "2", "3", "--workers", "1"])
    prepared = Pictures(find_suite(str(plain), tmp_path), scales, "paper")  # type: ignore[arg-type]
    assert [*prepared.sources.values()] == ["supplied"] * 2 + ["matlab"] + ["pil"] * 2
    for scale in (2, 3):
        for made, found in zip(
            pictures.pair(2, high, (scale, scale)),
            prepared.pair(2, high, (scale, scale)),
            strict=True,
        ):
            assert np.array_equal(made, found)


def test_low_resolution_pictures_of_another_number_or_size_are_refused(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, scales=(2, 3))
    data = find_suite("set5", tmp_path)
    (folder / "LR_bicubic" / "X4").symlink_to(folder / "LR_bicubic" / "X2")
    with pytest.raises(DataError, match=r"photo1x2.png: not .*photo1.png at x4"):
        records_of(tmp_path, tmp_path / "r.json", [baseline_method("nearest", CPU)], "4")
    (folder / "LR_bicubic" / "X3" / "photo2x3.png").unlink()
    with pytest.raises(DataError, match=r"X3 has 2 images and .*HR has 3"):
        Pictures(data, [(3.0, 3.0)], "paper")


def test_known_results_are_not_computed_again(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path)
    store, method = tmp_path / "r.json", baseline_method("bicubic", CPU)
    first = records_of(tmp_path, store, [method])
    content = json.loads(store.read_text())
    for record in content["results"]:
        record["values"]["psnr"] = 99.0
    store.write_text(json.dumps(content))
    again = records_of(tmp_path, store, [method])
    assert [record["values"]["psnr"] for record in again] == [99.0] * len(first)
    # A photograph that has changed since is measured again.
    write_rgb(folder / "HR" / "photo2.png", photograph(40, 61, offset=200))
    changed = records_of(tmp_path, store, [method])
    fresh = [record["image"] for record in changed if record["values"]["psnr"] != 99.0]
    assert fresh == ["photo2.png", "photo2.png"]


def test_a_picture_without_error_is_infinite_and_json_stays_json(tmp_path: Path) -> None:
    write_rgb(write_benchmark(tmp_path) / "HR" / "photo2.png", np.zeros((40, 61, 3), np.uint8))
    for scale in (2, 3, 4):
        low = tmp_path / f"benchmark/Set5/LR_bicubic/X{scale}/photo2x{scale}.png"
        write_rgb(low, np.zeros_like(read_rgb(low)))
    store, method = tmp_path / "r.json", baseline_method("bicubic", CPU)
    first = records_of(tmp_path, store, [method])
    figures = [record["values"]["psnr"] for record in first if record["image"] == "photo2.png"]
    assert figures == [np.inf] * 2

    def never(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads(store.read_text(), parse_constant=never)
    assert records_of(tmp_path, store, [method]) == first


def test_another_method_leaves_known_results_alone(tmp_path: Path) -> None:
    write_benchmark(tmp_path)
    store, bicubic = tmp_path / "r.json", baseline_method("bicubic", CPU)
    first = records_of(tmp_path, store, [bicubic])

    def never(image: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        raise AssertionError("computed again")

    both = [replace(bicubic, enlarge=never), baseline_method("nearest", CPU)]
    records = records_of(tmp_path, store, both)
    assert records[::2] == first
    assert {record["method"] for record in records[1::2]} == {"nearest (PIL)"}


def test_other_weights_or_precision_are_other_results(tmp_path: Path) -> None:
    path = str(save_model(tmp_path / "m.pth"))
    other = str(save_model(tmp_path / "other.pth", small_model(seed=1)))
    keys = {
        model_method(path, CPU).key,
        model_method(path, CPU, precision="bf16").key,
        model_method(path, CPU, self_ensemble=True).key,
        model_method(path, CPU, strips=2).key,
        model_method(other, CPU).key,
    }
    assert len(keys) == 5
    (tmp_path / "copy.pth").write_bytes(Path(path).read_bytes())
    assert model_method(str(tmp_path / "copy.pth"), CPU).key in keys


def test_an_interrupted_suite_goes_on(tmp_path: Path) -> None:
    write_benchmark(tmp_path)
    lanczos, store = baseline_method("lanczos", CPU), tmp_path / "r.json"
    whole = records_of(tmp_path, tmp_path / "whole.json", [lanczos])
    calls = 0

    def enlarge(image: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return lanczos.enlarge(image, size)

    method = replace(lanczos, enlarge=enlarge)
    with pytest.raises(KeyboardInterrupt):
        records_of(tmp_path, store, [method])
    content = json.loads(store.read_text())
    assert (content["complete"], len(content["results"])) == (False, 3)
    records = records_of(tmp_path, store, [method])
    assert calls == 4 + 3, "three are not computed again"
    keep = ("image", "scale", "values")
    assert [[r[k] for k in keep] for r in records] == [[r[k] for k in keep] for r in whole]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "other", "results": []}', "null"])
def test_a_file_that_holds_no_results_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(DataError, match="holds no results of a suite"):
        ResultStore(path)
    assert path.read_text() == content


def test_suites_are_found_by_name_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'urban100'"):
        find_suite("urban10", tmp_path)
    assert find_suite("DIV2K", tmp_path).eval_type((12, 12)).border == (18, 18)
    folder = write_benchmark(tmp_path)
    assert find_suite(str(folder), tmp_path).high == folder / "HR"
    assert find_suite(str(folder / "HR"), tmp_path).high == folder / "HR"


def test_models_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [
        save_model(tmp_path / "a" / "m.pth"),
        save_model(tmp_path / "b" / "m.pth", small_model(seed=1)),
    ]
    methods = distinct_labels([model_method(str(path), CPU) for path in [*paths, paths[0]]])
    assert [method.label for method in methods] == ["m", "m [2]"]


def spec_of(
    encoder: str = "edsr-baseline", hidden: list[int] | None = None, **args: Any
) -> dict[str, Any]:
    encoder_spec = {"name": encoder, "args": {"no_upsampling": True}}
    imnet = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": hidden or [256] * 4}}
    return {"name": "liif", "args": {"encoder_spec": encoder_spec, "imnet_spec": imnet, **args}}


@pytest.mark.parametrize(
    ("spec", "row"),
    [
        (spec_of(), "edsr-baseline-liif"),
        (spec_of("rdn"), "rdn-liif"),
        (spec_of(cell_decode=False), "edsr-baseline-liif (-c)"),
        (spec_of(feat_unfold=False), "edsr-baseline-liif (-u)"),
        (spec_of(local_ensemble=False), "edsr-baseline-liif (-e)"),
        (spec_of(hidden=[256, 256]), "edsr-baseline-liif (-d)"),
        (spec_of(feat_unfold=False, cell_decode=False), None),
        (spec_of("rcan"), None),
        (SPEC, None),
        (
            {"name": "metasr", "args": {"encoder_spec": {"name": "rdn", "args": {}}}},
            "rdn-metasr",
        ),
        *(
            (read_train_config(CONFIGS / f"train_{name}.yaml").model, row)
            for name, row in (
                ("edsr-baseline-lte", "edsr-baseline-lte"),
                ("edsr-baseline-sronet", "edsr-baseline-srno"),
                ("edsr-baseline-ciaosr", "edsr-baseline-ciaosr"),
                ("rdn-lte", "rdn-lte"),
                ("swinir-lte", None),
                ("edsr-baseline-lte-fast", None),
            )
        ),
    ],
)
def test_models_find_their_row_of_the_paper(spec: dict[str, Any], row: str | None) -> None:
    assert paper_row(spec) == row


def test_tables_show_the_published_row_and_the_difference() -> None:
    ours = Series("mine", "rdn-liif", (38.20, None, 32.4996))
    table = make_table("set5", "psnr", "Set5", ["a note"], ["2", "2.5", "4"], [ours])
    rows = {row.label: row.cells for row in table.rows}
    assert rows["mine"] == ("38.200", "-", "32.500")
    assert rows["published (paper)"] == ("38.17", "-", "32.50")
    assert rows["difference"] == ("+0.030", "-", "+0.000")
    assert rows["rdn-metasr (paper)"] == ("38.22", "-", "32.38")
    assert sum("rdn-liif" in label for label in rows) == 0
    lines = table.markdown().splitlines()
    assert "| method | x2 | x2.5 | x4 |" in lines
    assert "| **mine** | 38.200 | - | 32.500 |" in lines
    ends = {len(line) for line in table.text().splitlines()[2:] if not line.startswith("---")}
    assert len(ends) == 1, "the last column is flush"


@pytest.mark.parametrize(("protocol", "difference"), [("paper", False), ("ciaosr", True)])
def test_followers_stand_beside_their_papers(protocol: str, difference: bool) -> None:
    """With a difference where both were taken by one protocol."""
    series = [
        Series("a", "edsr-baseline-lte", (34.70, 20.53)),
        Series("b", "edsr-baseline-ciaosr", (34.98, 20.44)),
        Series("c", "edsr-baseline-srno", (34.75, 20.56)),
    ]
    table = make_table("div2k", "psnr", "DIV2K", [], ["2", "30"], series, protocol)
    after = {
        row.label: [other.cells for other in table.rows[i + 1 : i + 3]]
        for i, row in enumerate(table.rows)
        if row.kind == "ours"
    }
    assert after["a"][0] == ("34.72", "20.53")
    assert after["b"][0] == ("34.88", "20.44")
    assert after["c"][0] == ("34.85", "20.56")
    assert (after["a"][1] == ("-0.020", "+0.000")) is not difference
    assert (after["b"][1] == ("+0.100", "+0.000")) is difference
    labels = [row.label for row in table.rows]
    other = "published (follow-up paper, by another protocol: ciaosr)"
    assert (other in labels) is not difference
    assert any("follow-up paper, LR by PIL at all scales" in label for label in labels)


def test_the_command_tells_tables_json_and_what_it_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_benchmark(tmp_path / "load")
    monkeypatch.chdir(tmp_path)
    model = save_model(tmp_path / "mine.pth")
    arguments = ["--suite", "set5", "urban100", "--scales", 2, 3.5, "--model", model]
    arguments += ["--baseline", "bicubic", "nearest", "--json", "out/r.json"]
    code, output, errors = run(capsys, monkeypatch, *arguments)
    assert code == 0, errors
    assert "Urban100: skipped" in output
    assert "python scripts/prepare_data.py benchmark" in output
    content = json.loads((tmp_path / "out" / "r.json").read_text())
    assert content["complete"] is True
    assert len(content["results"]) == 3 * 2 * 3
    assert content["methods"][2]["label"] == "mine"
    assert len(content["methods"][2]["sha256"]) == 64
    assert content["versions"]["torch"] == torch.__version__
    values = [r["values"]["psnr"] for r in content["results"] if r["method"] == "mine"][::2]
    mean = next(row["cells"][0] for row in content["tables"][0]["rows"] if row["label"] == "mine")
    assert float(mean) == pytest.approx(sum(values) / 3, abs=5e-4)
    assert f"| **mine** | {mean} |" in (tmp_path / "out" / "r.md").read_text()
    assert not (tmp_path / "save").exists()


def test_another_model_is_shown_in_the_panels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_benchmark(tmp_path / "load", scales=(2,))
    monkeypatch.chdir(tmp_path)
    shown = []
    for seed in (0, 1):
        model = save_model(tmp_path / "mine.pth", small_model(seed))
        arguments = ["--suite", "set5", "--scales", 2, "--baseline", "bicubic", "--model", model]
        arguments += ["--json", "r.json", "--panels", "panels", "--save-images", "images"]
        assert run(capsys, monkeypatch, *arguments)[0] == 0
        shown.append(contents(tmp_path / "panels") | contents(tmp_path / "images" / "mine"))
    assert shown[0].keys() == shown[1].keys()
    assert not any(shown[0][name] == shown[1][name] for name in shown[0])


def test_two_processes_share_a_suite_and_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_benchmark(tmp_path / "load")
    monkeypatch.chdir(tmp_path)
    model = save_model(tmp_path / "mine.pth")
    arguments = ["--suite", "set5", "--scales", 2, 3, "--model", model, "--json"]
    code, _, errors = run(capsys, monkeypatch, *arguments, "one.json")
    two = suite_command(*arguments, "two.json", processes=2, cwd=tmp_path)
    assert (code, two.returncode) == (0, 0), errors + two.stderr
    results = [
        json.loads((tmp_path / f"{name}.json").read_text())["results"] for name in ("one", "two")
    ]
    assert [(r["image"], r["scale"]) for r in results[0]] == [
        (f"photo{n}.png", s) for n in (1, 2, 3) for s in ("2", "3")
    ]
    for a, b in zip(*results, strict=True):
        assert (a["image"], a["scale"], a["method"]) == (b["image"], b["scale"], b["method"])
        assert a["values"] == pytest.approx(b["values"], abs=1e-4)
    assert two.stdout.count("Set5, PSNR") == 1, "the main process alone prints"
    assert not list(tmp_path.glob("*.part-*"))


@pytest.mark.parametrize("scale", [pytest.param(s, marks=pytest.mark.slow) for s in "23468"])
def test_the_published_row_comes_out(reference: Path, tmp_path: Path, scale: str) -> None:
    data_root = tmp_path / "load"
    (data_root / "benchmark").mkdir(parents=True)
    (data_root / "benchmark" / "Set5").symlink_to(reference / "data" / "Set5")
    method = model_method(str(reference / "weights" / "edsr-baseline-liif.pth"), CPU)
    records = records_of(data_root, tmp_path / "r.json", [method], scale)
    published = {"2": 37.988, "3": 34.400, "4": 32.237, "6": 28.955, "8": 26.982}
    mean = sum(record["values"]["psnr"] for record in records) / 5
    assert method.row == "edsr-baseline-liif"
    assert mean == pytest.approx(published[scale], abs=0.002)


@pytest.mark.parametrize(
    ("script", "suites"),
    [("test-benchmark.sh", "set5 set14 b100 urban100"), ("test-div2k.sh", "div2k")],
)
def test_scripts_of_the_papers_tables(script: str, suites: str, root: Path, tmp_path: Path) -> None:
    """By a Python that says what it was asked; from another folder, with a file and with a name."""
    (tmp_path / "my.pth").touch()
    path = os.path.relpath(root / "scripts" / script, tmp_path)

    def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
        command, environment = ["bash", path, *arguments], {**os.environ, "PYTHON": "echo"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    model = tmp_path.resolve() / "my.pth"
    assert asked("my.pth", "0,1", "--metrics", "psnr").stdout == (
        f"test.py --suite {suites} --model {model} --gpu 0,1 --metrics psnr\n"
    )
    assert asked("rdn-liif", "--json", "x").stdout == (
        f"test.py --suite {suites} --model rdn-liif --json x\n"
    )
    assert asked().returncode == 2
    assert asked().stderr.startswith(f"usage: bash scripts/{script} MODEL.pth")
