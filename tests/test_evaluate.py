"""Figures over loaders, against figures worked out by hand; and the published ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import demo
from datasets.images import read_rgb, read_size, write_rgb
from datasets.transforms import to_picture
from engine.config import DataNorm, Norm, TestConfig, read_test_config
from engine.distributed import Processes
from engine.evaluate.evaluate import Evaluation, evaluate, predict
from engine.evaluate.suite import model_method
from engine.evaluate.test_config import make_wrapper, run_test
from engine.render import render_once
from engine.runtime import has_bf16
from engine.weights import load_model
from tests.small import (
    HALF,
    downsampled,
    photograph,
    psnr_by_hand,
    render_by_hand,
    save_model,
    small_model,
    write_benchmark,
)
from utils import ConfigError, DataError, make_coord

CPU = torch.device("cpu")
NORM = DataNorm(inp=Norm(sub=[0.5], div=[0.5]), gt=Norm(sub=[0.5], div=[0.5]))


def sampled_batch(size: int, queries: int) -> dict[str, Tensor]:
    return {
        "inp": torch.rand(size, 3, 8, 9),
        "coord": torch.rand(size, queries, 2) * 2 - 1,
        "cell": torch.full((size, queries, 2), 2 / 20),
        "gt": torch.rand(size, queries, 3),
    }


def folder_config(folder: Path, scale: Any, eval_type: str | None, **changes: Any) -> TestConfig:
    return read_test_config(
        {
            "test_dataset": {
                "dataset": {"name": "image-folder", "args": {"root_path": str(folder)}},
                "wrapper": {"name": "sr-implicit-downsampled", "args": {"scale_min": scale}},
                "batch_size": 1,
            },
            "eval_type": eval_type,
            "data_norm": {"inp": HALF, "gt": HALF},
            **changes,
        }
    )


def measure(config: TestConfig, method: nn.Module | str, **settings: Any) -> Evaluation:
    return run_test(config, method, CPU, Processes(), **settings)[0]


def test_sampled_batches_are_pooled_and_weighted_by_their_size() -> None:
    torch.manual_seed(0)
    model = small_model()
    batches = [sampled_batch(3, 50), sampled_batch(1, 50)]
    total = 0.0
    for batch in batches:
        with torch.no_grad():
            answer = model((batch["inp"] - 0.5) / 0.5, batch["coord"], batch["cell"])
        error = (answer * 0.5 + 0.5).clamp(0, 1) - batch["gt"]
        total += -10 * np.log10(error.square().mean().item()) * len(error)
    result = evaluate(model, batches, CPU, NORM)
    assert (result.count, result.images) == (4, [])
    assert result.psnr == pytest.approx(total / 4, abs=1e-5)


def test_the_model_comes_back_in_its_mode_and_no_gradient_is_kept() -> None:
    model = small_model().train()
    evaluate(model, [sampled_batch(1, 5)], CPU, NORM)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_size_of_chunks_changes_nothing() -> None:
    torch.manual_seed(0)
    model, batch = small_model(), sampled_batch(2, 101)
    with torch.no_grad():
        whole = predict(model, batch["inp"], batch["coord"], batch["cell"])
        parts = predict(model, batch["inp"], batch["coord"], batch["cell"], eval_bsize=7)
    assert (whole - parts).abs().max() < 1e-6


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_reaches_the_model(precision: str) -> None:
    torch.manual_seed(0)
    model, batch = small_model(), sampled_batch(1, 200)
    with torch.no_grad():
        exact = model((batch["inp"] - 0.5) / 0.5, batch["coord"], batch["cell"]) * 0.5 + 0.5
    picture = photograph(12, 10)
    result = render_once(picture, model, (30, 22), precision=precision)
    reference = render_once(picture, model, (30, 22))
    difference = (result - reference).abs().max().item()
    assert exact.std() > 0.05
    assert result.dtype == torch.float32
    assert difference == 0 if precision == "fp32" else 0 < difference < 0.05


@pytest.mark.parametrize(
    ("scale", "eval_type", "border"),
    [(2.5, "benchmark-2.5", (3, 3)), ([2, 3.5], "benchmark-2x3.5", (2, 4))],
)
def test_any_scale_agrees_with_each_pixel_by_hand(
    tmp_path: Path, scale: Any, eval_type: str, border: tuple[int, int]
) -> None:
    model, figures = small_model(), []
    pair = (scale, scale) if isinstance(scale, float) else tuple(scale)
    for number, size in enumerate([(19, 22), (17, 25)]):
        picture = photograph(*size, offset=50 * number)
        write_rgb(tmp_path / f"{number}.png", picture)
        low, high = downsampled(picture, pair)
        rendered = render_by_hand(model, low, high.shape[:2])
        figures.append(psnr_by_hand(rendered, high, border))
    result = measure(folder_config(tmp_path, scale, eval_type), model)
    assert [image.values["psnr"] for image in result.images] == pytest.approx(figures, abs=1e-4)
    assert result.psnr == pytest.approx(np.mean(figures), abs=1e-4)


def test_sizes_are_carried_where_a_square_root_would_guess_wrong(tmp_path: Path) -> None:
    write_rgb(tmp_path / "wide.png", photograph(16, 64))
    result = measure(folder_config(tmp_path, 2, "benchmark-2"), small_model())
    assert (result.images[0].lr_size, result.images[0].size) == ((8, 32), (16, 64))


def test_predictions_are_clamped_and_not_rounded(tmp_path: Path) -> None:
    picture = photograph(20, 24)
    write_rgb(tmp_path / "a.png", picture)
    model = small_model()
    low, high = downsampled(picture, (2, 2))
    exact = render_by_hand(model, low, (20, 24))
    rounded = np.round(exact * 255) / 255
    assert exact.min() == 0 or exact.max() == 1, "some colours have to need clamping"
    figure = measure(folder_config(tmp_path, 2, "benchmark-2"), model).psnr
    assert figure == pytest.approx(psnr_by_hand(exact, high, (2, 2)), abs=1e-4)
    assert abs(figure - psnr_by_hand(rounded, high, (2, 2))) > 1e-4


def test_self_ensemble_is_the_mean_of_eight_turned_pictures() -> None:
    """Also where scales differ per axis, and so cells do."""
    model, low = small_model(), photograph(7, 9)
    height, width = 14, 31
    total = torch.zeros(3, height, width, dtype=torch.float64)
    for transpose in (False, True):
        for axes in ([], [1], [2], [1, 2]):
            inp = to_picture(low).flip(axes)
            size = (height, width)
            if transpose:
                inp, size = inp.transpose(1, 2), (width, height)
            cell = torch.tensor([2 / size[0], 2 / size[1]]).expand(1, height * width, 2)
            with torch.no_grad():
                colours = model((inp[None] - 0.5) / 0.5, make_coord(size)[None], cell)
            picture = colours[0].double().t().reshape(3, *size)
            total += (picture.transpose(1, 2) if transpose else picture).flip(axes)
    expected = (total / 8 * 0.5 + 0.5).clamp(0, 1)
    result = render_once(low, model, (height, width), self_ensemble=True, eval_bsize=100)
    assert (result - expected).abs().max() < 1e-5
    plain = render_once(low, model, (height, width))
    assert (result - plain).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [2, 3])
def test_demo_suite_and_configuration_make_the_same_picture(
    scale: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One level apart at most, and the model's own answer to all queries at once."""
    monkeypatch.setattr("engine.render.tiling.WINDOW", 500)  # several tiles
    folder = write_benchmark(tmp_path, scales=(scale,))
    file, model = save_model(tmp_path / "m.pth"), small_model()
    high, low = folder / "HR", folder / "LR_bicubic" / f"X{scale}"
    config = paired_config(low, high, f"benchmark-{scale}")
    _, names = run_test(config, model, CPU, Processes(), save_images=tmp_path / "saved")
    method = model_method(str(file), CPU)
    assert len(names) == 3
    for name in (Path(name).stem for name in names):
        photo, size = low / f"{name}x{scale}.png", read_size(high / f"{name}.png")
        size = (size[0] // scale * scale, size[1] // scale * scale)
        cell = torch.tensor([2 / size[0], 2 / size[1]]).expand(1, size[0] * size[1], 2)
        inp = to_picture(read_rgb(photo))[None] * 2 - 1
        with torch.no_grad():
            own = (model(inp, make_coord(size)[None], cell) * 0.5 + 0.5).clamp(0, 1)
        expected = own.view(*size, 3).mul(255).round().int()
        arguments = ["--input", photo, "--model", file, "--resolution", f"{size[0]},{size[1]}"]
        assert demo.main([*map(str, arguments), "--output", str(tmp_path / "out.png")]) == 0
        suite = method.enlarge(read_rgb(photo), size)
        pictures = {
            "demo": torch.from_numpy(read_rgb(tmp_path / "out.png").astype(np.int32)),
            "suite": suite.permute(1, 2, 0).mul(255).round().int(),
            "configuration": torch.from_numpy(read_rgb(tmp_path / f"saved/{name}.png")).int(),
        }
        for way, picture in pictures.items():
            assert picture.shape == expected.shape, way
            assert (picture - expected).abs().max() <= 1, way


def paired_config(low: Path, high: Path, eval_type: str) -> TestConfig:
    args = {"root_path_1": str(low), "root_path_2": str(high)}
    data = {
        "dataset": {"name": "paired-image-folders", "args": args},
        "wrapper": {"name": "sr-implicit-paired", "args": {}},
        "batch_size": 1,
    }
    norm = {"inp": HALF, "gt": HALF}
    return read_test_config({"test_dataset": data, "eval_type": eval_type, "data_norm": norm})


@pytest.mark.slow
def test_a_suite_holds_no_features_of_a_whole_picture(
    root: Path, reference: Path, tmp_path: Path
) -> None:
    """The projected features of 1020x678 pixels alone would take 700 MB."""
    (tmp_path / "high").mkdir()
    picture = np.tile(photograph(512, 360), (3, 6, 1))[:1356, :2040]
    write_rgb(tmp_path / "high" / "a.png", picture)
    # A small process starts the command: the peak of one that starts another counts as the other's.
    starter = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    starter += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = [sys.executable, str(root / "test.py"), "--suite", str(tmp_path / "high")]
    command += ["--scales", "2", "--lr", "pil"]
    command += ["--model", str(reference / "weights" / "edsr-baseline-liif.pth")]
    done = subprocess.run(
        [sys.executable, "-c", starter, *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    peak = int(done.stdout.splitlines()[-1]) / 1024  # MB
    print(f"peak memory, MB: {peak:.0f}")
    assert peak < 1100


def test_whole_crops_are_pooled_in_validation_and_single_in_tests(tmp_path: Path) -> None:
    for number in range(2):
        write_rgb(tmp_path / f"{number}.png", photograph(20, 20, offset=120 * number))
    config = folder_config(tmp_path, 2, None)
    single = measure(config, small_model())
    wrapper = make_wrapper(config)
    batch = [torch.utils.data.default_collate([wrapper[0], wrapper[1]])]
    pooled = evaluate(small_model(), batch, CPU, NORM)
    errors = [10 ** (-(image.values["psnr"] or 0) / 10) for image in single.images]
    assert len(set(errors)) == 2
    assert pooled.psnr == pytest.approx(-10 * np.log10(np.mean(errors)), abs=1e-4)
    assert single.psnr == pytest.approx(np.mean([-10 * np.log10(e) for e in errors]), abs=1e-4)


def test_an_eval_type_refuses_sampled_queries(tmp_path: Path) -> None:
    write_rgb(tmp_path / "a.png", photograph(40, 40))
    config = folder_config(tmp_path, 2, "benchmark-2")
    config.test_dataset.wrapper["args"]["sample_q"] = 50
    with pytest.raises(ConfigError, match="whole pictures; leave out sample_q"):
        measure(config, small_model())


def test_sampled_tests_draw_the_same_each_time(tmp_path: Path) -> None:
    write_rgb(tmp_path / "a.png", photograph(60, 60))
    config = folder_config(tmp_path, 2, None)
    config.test_dataset.wrapper["args"] |= {"inp_size": 10, "sample_q": 50}
    first, second = measure(config, small_model()), measure(config, small_model())
    assert first.psnr == second.psnr


def test_a_picture_smaller_than_the_border_is_a_clear_error(tmp_path: Path) -> None:
    write_rgb(tmp_path / "a.png", photograph(16, 40))
    with pytest.raises(DataError, match="nothing left inside a border"):
        measure(folder_config(tmp_path, 8, "benchmark-8"), small_model())


def set5_config(root: Path, data: Path, scale: int, precision: str = "fp32") -> TestConfig:
    """The shipped configuration, its folders below `data`."""
    args = "test_dataset.dataset.args"
    overrides = [f"{args}.root_path={data}/HR"]
    if scale <= 4:
        low = f"{args}.root_path_1={data}/LR_bicubic/X{scale}"
        overrides = [low, f"{args}.root_path_2={data}/HR"]
    overrides.append(f"precision={precision}")
    return read_test_config(root / "configs" / "test" / f"test-set5-{scale}.yaml", overrides)


def published_figures(root: Path, scale: int) -> dict[str, Any]:
    return json.loads((root / "tests" / "data" / "set5.json").read_text())[f"x{scale}"]


@pytest.fixture(scope="module")
def published_model(reference: Path) -> nn.Module:
    return load_model(reference / "weights" / "edsr-baseline-liif.pth")


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4, 6, 8])
def test_published_weights_give_the_published_figures(
    root: Path, reference: Path, published_model: nn.Module, scale: int
) -> None:
    config = set5_config(root, reference / "data" / "Set5", scale)
    published = published_figures(root, scale)
    result, names = run_test(config, published_model, CPU, Processes())
    assert result.psnr == pytest.approx(published["mean"], abs=0.002)
    assert names == list(published["images"])
    for image in result.images:
        expected = published["images"][names[image.index]]
        assert image.values["psnr"] == pytest.approx(expected["psnr"], abs=0.002)
        assert [list(image.lr_size), list(image.size)] == [expected["lr"], expected["hr"]]


@pytest.mark.parametrize("scale", [4, 8])
def test_published_weights_give_the_published_figure_of_one_picture(
    root: Path, reference: Path, published_model: nn.Module, tmp_path: Path, scale: int
) -> None:
    for folder, name in (("HR", "butterfly"), ("LR_bicubic/X4", "butterflyx4")):
        (tmp_path / folder).mkdir(parents=True)
        source = reference / "data" / "Set5" / folder / f"{name}.png"
        (tmp_path / folder / f"{name}.png").symlink_to(source)
    result = measure(set5_config(root, tmp_path, scale), published_model)
    expected = published_figures(root, scale)["images"]["butterfly.png"]["psnr"]
    assert result.psnr == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("scale", [2, 3, 4, 6, 8])
def test_bicubic_gives_the_published_figures(root: Path, reference: Path, scale: int) -> None:
    published = published_figures(root, scale)
    result = measure(set5_config(root, reference / "data" / "Set5", scale), "bicubic")
    assert result.psnr == pytest.approx(published["mean_pil_bicubic"], abs=0.002)
    for image, expected in zip(result.images, published["images"].values(), strict=True):
        assert image.values["psnr"] == pytest.approx(expected["psnr_pil_bicubic"], abs=0.002)


@pytest.mark.slow
@pytest.mark.skipif(not has_bf16("cpu"), reason="this processor has no bf16")
@pytest.mark.parametrize("scale", [2, 3, 4, 6, 8])
def test_bf16_stays_close_to_the_published_figures(
    root: Path, reference: Path, published_model: nn.Module, scale: int
) -> None:
    config = set5_config(root, reference / "data" / "Set5", scale, precision="bf16")
    result = measure(config, published_model)
    assert result.psnr == pytest.approx(published_figures(root, scale)["mean"], abs=0.02)
