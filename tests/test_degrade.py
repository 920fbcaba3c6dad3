"""Damage: each step against its plain definition, and the same draws whoever makes them."""

from __future__ import annotations

import argparse
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import datasets
from datasets.degrade import Degrade, damage_of
from datasets.images import read_rgb
from datasets.resize import resize_matlab, resize_pil
from datasets.wrappers import SRImplicitDownsampled
from engine.config import config_dict, read_train_config
from engine.config_files import read_degrade
from engine.evaluate.suite import baseline_method, record_key
from engine.evaluate.suite_data import Pictures, find_suite
from engine.evaluate.suite_report import progress_path
from engine.loader import TRAIN_ITEMS, Batches, Drawn
from engine.workers import Loader
from scripts.prepare_data import main as prepare_data
from tests.runs import make_pictures, tiny_config
from tests.small import photograph, psnr_by_hand, run, write_benchmark
from utils import ConfigError

KINDS = ["4:4:4", "4:2:0"]
PATH = "train_dataset__wrapper__args__degrade"
MIXTURE: list[dict[str, Any]] = [
    {"name": "blur", "sigma": [0, 1.2], "anisotropic": 0.5, "prob": 0.5, "before": True},
    {"name": "noise", "sigma": [0, 12], "grey": 0.5, "shuffle": True},
    {"name": "noise", "photons": [100, 1e4], "prob": 0.5, "shuffle": True},
    {"name": "resize", "scale": [1, 2], "filters": ["bilinear", "lanczos"], "shuffle": True},
    {"name": "jpeg", "quality": [30, 95], "subsampling": ["4:4:4", "4:2:0"]},
]


def damaged(pixels: np.ndarray, *steps: dict[str, Any], seed: int = 0) -> np.ndarray:
    return Degrade(steps).apply(pixels, lambda same: same, np.random.default_rng(seed))


def grey(height: int, width: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def saved_as_jpeg(pixels: np.ndarray, **how: Any) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **how)
    return np.asarray(Image.open(file).convert("RGB"))


@pytest.mark.parametrize("sigma", [0.6, 1.3, 2.5])
def test_a_blurred_point_is_a_gaussian(sigma: float) -> None:
    pixels = grey(41, 45, 0)
    pixels[20, 20] = 255
    y, x = np.mgrid[-20:21, -20:25]
    gaussian = np.exp(-(y**2 + x**2) / (2 * sigma**2))
    expected = 255 * gaussian / gaussian.sum()
    result = damaged(pixels, {"name": "blur", "sigma": sigma})
    assert np.abs(result - expected[..., None]).max() < 0.51


def test_an_anisotropic_blur_has_two_sigmas_and_any_direction() -> None:
    """The second moments of a blurred block of light, less its own, are the covariance."""
    pixels = grey(121, 121, 0)
    pixels[55:66, 55:66] = 255
    y, x = np.mgrid[-60:61, -60:61]
    step = {"name": "blur", "sigma": [2, 5], "anisotropic": 1}
    sigmas, angles = [], []
    for seed in range(60):
        light = damaged(pixels, step, seed=seed)[..., 0] / (121 * 255)
        moments = np.array([[(light * x * x).sum(), (light * x * y).sum()]] * 2)
        moments[1] = moments[0, 1], (light * y * y).sum()
        values, vectors = np.linalg.eigh(moments - 10 * np.eye(2))  # (11**2 - 1) / 12
        sigmas += np.sqrt(values).tolist()
        angles.append(math.atan2(vectors[1, 1], vectors[0, 1]) % math.pi)
    assert 1.7 < min(sigmas) < 2.5
    assert 4.5 < max(sigmas) < 5.3
    assert abs(np.mean(angles) - math.pi / 2) < 0.4
    assert np.std(angles) > 0.6


def test_a_blur_mirrors_the_picture_about_its_border_pixels() -> None:
    pixels = photograph(12, 15)
    mirrored = np.pad(pixels, ((11, 11), (14, 14), (0, 0)), mode="reflect")
    step = {"name": "blur", "sigma": 2.0}
    whole = damaged(mirrored, step)[11:-11, 14:-14]
    assert np.abs(damaged(pixels, step).astype(int) - whole).max() <= 1
    assert np.array_equal(damaged(grey(1, 7, 90), {"name": "blur", "sigma": 3}), grey(1, 7, 90))
    assert np.array_equal(damaged(pixels, {"name": "blur", "sigma": 0}), pixels)


def test_gaussian_noise_has_its_sigma_in_levels() -> None:
    noise = damaged(grey(200, 200, 128), {"name": "noise", "sigma": 10}).astype(float) - 128
    assert noise.std() == pytest.approx(math.sqrt(100 + 1 / 12), rel=0.01)
    assert abs(noise.mean()) < 0.1
    assert abs(np.corrcoef(noise.reshape(-1, 3).T)[0, 1:]).max() < 0.02


def test_poisson_noise_is_that_of_counted_photons() -> None:
    """k photons vary by the root of k, so dark parts vary less than bright ones."""
    for level in (40, 160):
        noise = damaged(grey(200, 200, level), {"name": "noise", "photons": 1000}) - float(level)
        expected = 255 / 1000 * math.sqrt(1000 * level / 255)
        assert noise.std() == pytest.approx(math.sqrt(expected**2 + 1 / 12), rel=0.02)
        assert abs(noise.mean()) < 0.1


def test_photons_and_sigma_add_up() -> None:
    both = {"name": "noise", "photons": 1000, "sigma": 6}
    noise = damaged(grey(200, 200, 100), both) - 100.0
    variance = 255 / 1000 * 100 + 36 + 1 / 12
    assert noise.std() == pytest.approx(math.sqrt(variance), rel=0.02)


@pytest.mark.parametrize("kind", [{"sigma": 8}, {"photons": 500}])
def test_grey_noise_is_the_same_in_each_channel(kind: dict[str, Any]) -> None:
    pixels = grey(50, 50, 120) + np.array([0, 10, 20], np.uint8)
    noise = damaged(pixels, {"name": "noise", "grey": 1, **kind}).astype(int) - pixels
    assert noise.std() > 4
    assert np.abs(noise - noise[..., :1]).max() <= 1


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_jpeg_is_pillows(subsampling: str) -> None:
    pixels = photograph(45, 53)
    step = {"name": "jpeg", "quality": 40, "subsampling": subsampling, "offset": False}
    expected = saved_as_jpeg(pixels, quality=40, subsampling=subsampling)
    assert np.array_equal(damaged(pixels, step), expected)


def test_jpegs_blocks_begin_anywhere() -> None:
    """Of a ramp, what is constant in each block shows where blocks begin."""
    pixels = np.repeat(np.arange(96, dtype=np.uint8), 3).reshape(1, 96, 3).repeat(8, axis=0)
    seen = set()
    for seed in range(60):
        step = {"name": "jpeg", "quality": 1, "subsampling": "4:4:4"}
        row = damaged(pixels, step, seed=seed)[4, :, 0].astype(int)
        seen.add(int(np.flatnonzero(np.diff(row))[2] + 1) % 8)
    assert seen == set(range(8))


def test_qualities_and_subsamplings_are_drawn_from_all_that_is_given() -> None:
    pixels = photograph(48, 48)
    step = {"name": "jpeg", "quality": [50, 52], "subsampling": KINDS, "offset": False}
    made = {damaged(pixels, step, seed=seed).tobytes() for seed in range(100)}
    expected = {
        saved_as_jpeg(pixels, quality=quality, subsampling=kind).tobytes()
        for quality in (50, 51, 52)
        for kind in KINDS
    }
    assert len(expected) == 6
    assert made == expected


def test_a_second_resize_is_pillows() -> None:
    pixels = photograph(40, 51)
    step = {"name": "resize", "scale": 2.5, "filters": "bilinear"}
    small = resize_pil(pixels, (16, 20), "bilinear")
    assert np.array_equal(damaged(pixels, step), resize_pil(small, (40, 51), "bilinear"))


def test_steps_come_in_their_order_around_the_reduction() -> None:
    pixels = photograph(40, 40)
    blur = {"name": "blur", "sigma": 1.5, "before": True}
    jpeg = {"name": "jpeg", "quality": 30, "offset": False}
    made = Degrade([jpeg, blur]).apply(
        pixels, lambda large: resize_pil(large, (20, 20)), np.random.default_rng(0)
    )
    small = resize_pil(damaged(pixels, blur), (20, 20))
    assert np.array_equal(made, saved_as_jpeg(small, quality=30, subsampling="4:2:0"))


def test_shuffled_steps_exchange_places_and_others_keep_theirs() -> None:
    steps = [
        {"name": "blur", "sigma": 1, "shuffle": True},
        {"name": "noise", "sigma": 1},
        {"name": "resize", "scale": 2, "shuffle": True},
        {"name": "jpeg", "quality": 30, "shuffle": True},
    ]
    degrade = Degrade(steps)
    rng = np.random.default_rng(0)
    orders = [tuple(type(step).__name__ for step in degrade.drawn(False, rng)) for _ in range(200)]
    assert {order[1] for order in orders} == {"Noise"}
    assert len(set(orders)) == 6


def test_steps_are_applied_as_often_as_they_say() -> None:
    degrade = Degrade([{"name": "blur", "sigma": 1, "prob": 0.3}, {"name": "noise", "sigma": 1}])
    rng = np.random.default_rng(0)
    lengths = [len(degrade.drawn(False, rng)) for _ in range(4000)]
    assert set(lengths) == {1, 2}
    assert np.mean(lengths) == pytest.approx(1.3, abs=0.03)


def ranges(low: float, high: float) -> st.SearchStrategy[Any]:
    number = st.floats(low, high)
    return number | st.tuples(number, number).map(sorted)


SHARES = st.floats(0, 1)
QUALITIES = st.integers(1, 100)
FILTERS = ["bicubic", "bilinear", "lanczos", "nearest"]


def random_step(name: str, needed: dict[str, Any], **optional: Any) -> st.SearchStrategy[Any]:
    common = {"prob": SHARES, "before": st.booleans(), "shuffle": st.booleans()}
    needed = {"name": st.just(name), **needed}
    return st.fixed_dictionaries(needed, optional={**common, **optional})


RANDOM_STEPS = st.one_of(
    random_step("blur", {"sigma": ranges(0, 12)}, anisotropic=SHARES),
    random_step("noise", {"sigma": ranges(0, 255)}, grey=SHARES, photons=ranges(1, 1e6)),
    random_step("noise", {"photons": ranges(1, 1e6)}, grey=SHARES),
    random_step(
        "jpeg",
        {"quality": QUALITIES | st.tuples(QUALITIES, QUALITIES).map(sorted)},
        subsampling=st.sampled_from([*KINDS, KINDS]),
        offset=st.booleans(),
    ),
    random_step(
        "resize",
        {"scale": ranges(1, 16)},
        filters=st.lists(st.sampled_from(FILTERS), min_size=1),
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(RANDOM_STEPS, max_size=5),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.integers(0, 2**63 - 1),
)
def test_any_list_of_steps(steps: list[dict[str, Any]], size: tuple[int, int], seed: int) -> None:
    """The size stays, levels are bytes, and the seed alone decides; settings survive a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    before = pixels.copy()
    made = damaged(pixels, *steps, seed=seed)
    assert (made.shape, made.dtype) == ((*size, 3), np.uint8)
    assert np.array_equal(pixels, before)
    again = Degrade(json.loads(json.dumps(Degrade(steps).document())))
    assert again.key == Degrade(steps).key
    assert np.array_equal(made, again.apply(pixels, lambda p: p, np.random.default_rng(seed)))


def test_flat_pictures_stay_flat() -> None:
    """Nothing but noise changes a picture without detail, its borders included."""
    quiet = [step for step in MIXTURE if step["name"] != "noise"]
    for seed in range(10):
        assert np.abs(damaged(grey(23, 31, 128), *quiet, seed=seed) - 128.0).max() == 0


def test_what_a_picture_has_always_depends_on_its_files_name() -> None:
    degrade = Degrade([{"name": "noise", "sigma": 9}])
    pixels = grey(9, 9, 90)
    one, same, other = (
        damage_of(degrade, file).apply(pixels, lambda p: p)
        for file in ("a/1.png", "1.png", "2.png")
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def wrapper_of(folder: Path, degrade: Any) -> Any:
    part = tiny_config(**{PATH: degrade})["train_dataset"]
    dataset = datasets.make(part["dataset"], {"root_path": str(folder)})
    return datasets.make(part["wrapper"], {"dataset": dataset})


def test_items_are_the_same_for_any_workers_and_from_any_place(tmp_path: Path) -> None:
    make_pictures(tmp_path)
    wrapper = wrapper_of(tmp_path, MIXTURE)

    def batches(first: int, workers: int) -> list[Any]:
        sampler = Batches(len(wrapper), 4, seed=3, training=True)
        drawn = Drawn(wrapper, seed=3, stream=TRAIN_ITEMS, on_bad_image="stop")
        sampler.start(2, first)
        return [batch["inp"] for batch in Loader(drawn, sampler, workers)]

    alone = batches(0, 0)
    for first, workers in ((0, 3), (2, 0), (3, 1)):
        assert all(map(torch.equal, alone[first:], batches(first, workers)))


def test_only_the_input_is_damaged(tmp_path: Path) -> None:
    """Crops, flips and samples stay those of a run without damage; targets stay clean."""
    make_pictures(tmp_path, size=(60, 70))
    clean, mixed = (wrapper_of(tmp_path, steps) for steps in (None, MIXTURE))
    different = 0
    for seed in range(20):
        one, two = (part.sample(1, np.random.default_rng(seed)) for part in (clean, mixed))
        assert all(torch.equal(one[key], two[key]) for key in ("coord", "cell", "gt"))
        assert one["inp"].shape == two["inp"].shape
        assert two["inp"].min() >= 0
        assert two["inp"].max() <= 1
        different += not torch.equal(one["inp"], two["inp"])
    assert different == 20


def test_a_wrappers_item_by_hand() -> None:
    class One:
        def __len__(self) -> int:
            return 1

        def pixels(self, index: int) -> tuple[np.ndarray, ...]:
            return (photograph(48, 40),)

    steps = [
        {"name": "blur", "sigma": 1, "before": True},
        {"name": "jpeg", "quality": 20, "offset": False},
    ]
    wrapper = SRImplicitDownsampled(One(), 10, 3, 3, augment=True, degrade=steps)
    for seed in range(4):
        plan = wrapper.draw(0, np.random.default_rng(seed))
        top, left = plan.inp.box.top, plan.inp.box.left
        crop = photograph(48, 40)[top : top + 30, left : left + 30]
        small = damaged(resize_pil(damaged(crop, steps[0]), (10, 10)), steps[1])
        item = wrapper.sample(0, np.random.default_rng(seed))
        expected = plan.flips.apply(small).transpose(2, 0, 1)
        assert np.array_equal((item["inp"] * 255).round().numpy(), expected)


def test_every_problem_is_told_at_once() -> None:
    steps = [
        {"name": "blur", "sigma": [2, 1], "prob": 1.5},
        {"name": "blurr"},
        {"name": "jpeg", "quality": [0, 90], "subsampling": "4:1:1"},
        {"name": "noise", "sigm": 3},
        {"sigma": 3},
        "jpeg",
        {"name": "resize"},
    ]
    with pytest.raises(ConfigError) as caught:
        read_train_config(tiny_config(**{PATH: steps}))
    _, *lines = str(caught.value).split("\n")
    place = "train_dataset.wrapper.args.degrade"
    for line, (start, words) in zip(
        lines,
        [
            ("[0].prob: 1.5 given", "allowed: a number of at least 0 and of at most 1"),
            ("[0].sigma: [2, 1] given", "allowed: the smaller number first"),
            ("[1].name: unknown step 'blurr' (did you mean 'blur'?)", "blur, noise, jpeg, resize"),
            ("[2].quality", "of at least 1 and of at most 100"),
            ("[2].subsampling: '4:1:1' given", "'4:4:4', '4:2:0'"),
            ("[3].sigm: unknown key 'sigm' (did you mean 'sigma'?)", "sigma, photons, grey"),
            ("[3].sigma: missing, and so is photons", "one of the two, or both"),
            ("[4].name: missing", "blur, noise, jpeg, resize"),
            ("[5]: 'jpeg' given", "a step as {name, ...}"),
            ("[6].scale: missing", "a number of at least 1"),
        ],
        strict=True,
    ):
        assert line.strip().startswith(f"{place}{start}"), line
        assert words in line


def test_steps_survive_being_saved_with_a_run() -> None:
    saved = config_dict(read_train_config(tiny_config(**{PATH: MIXTURE})))
    assert saved["train_dataset"]["wrapper"]["args"]["degrade"] == MIXTURE
    assert config_dict(read_train_config(saved)) == saved


def test_steps_are_refused_beside_device_data() -> None:
    with pytest.raises(ConfigError, match=r"args\.degrade: given beside device_data"):
        read_train_config(tiny_config(device_data=True, **{PATH: MIXTURE}))
    read_train_config(tiny_config(device_data=True, **{PATH: []}))


JPEG_40 = Path(__file__).parent.parent / "configs/degrade/jpeg-40.yaml"


def suite_results(content: dict[str, Any]) -> dict[str, list[float]]:
    """PSNR by method, picture after picture."""
    found: dict[str, list[float]] = {}
    for record in content["results"]:
        found.setdefault(record["method"], []).append(record["values"]["psnr"])
    return found


@pytest.mark.parametrize("source", ["paper", "matlab", "pil"])
def test_a_suite_of_damaged_pictures(
    source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Figures are those of each damaged picture by hand; JSON and tables say what was done."""
    folder = write_benchmark(tmp_path / "load", scales=(2,))
    monkeypatch.chdir(tmp_path)
    asked = ["--suite", "set5", "--scales", 2, "--lr", source, "--baseline", "bicubic"]
    asked += ["--metrics", "psnr", "--json", "r.json"]
    code, clean_output, errors = run(capsys, monkeypatch, *asked)
    assert code == 0, errors
    clean = suite_results(json.loads(Path("r.json").read_text()))
    assert "EDSR-baseline" in clean_output or "edsr-baseline-liif" in clean_output
    damaged_by_jpeg = [*asked, "--degrade", JPEG_40]
    code, output, errors = run(capsys, monkeypatch, *damaged_by_jpeg)
    assert code == 0, errors
    content = json.loads(Path("r.json").read_text())
    (values,), (before,) = suite_results(content).values(), clean.values()
    for index, (value, was) in enumerate(zip(values, before, strict=True), 1):
        high = read_rgb(folder / f"HR/photo{index}.png")
        size = high.shape[0] // 2, high.shape[1] // 2
        truth = high[: 2 * size[0], : 2 * size[1]]
        low = resize_pil(truth, size) if source == "pil" else resize_matlab(truth, size)
        low = saved_as_jpeg(low, quality=40, subsampling="4:2:0")
        enlarged = resize_pil(low, (truth.shape[0], truth.shape[1]))
        assert value == pytest.approx(psnr_by_hand(enlarged / 255, truth, (2, 2)), abs=1e-3)
        assert value < was
    note = "LR damaged, each picture by draws of its own: jpeg (quality 40, subsampling 4:2:0"
    assert note in output
    assert "edsr-baseline-liif" not in output, "published figures are of clean pictures"
    step = {"name": "jpeg", "prob": 1.0, "before": False, "shuffle": False, "quality": 40}
    assert content["degrade"] == [{**step, "subsampling": "4:2:0", "offset": False}]
    assert json.loads(json.dumps(content))["complete"]
    code, _, errors = run(capsys, monkeypatch, *damaged_by_jpeg)
    assert "3 results of an earlier run" in errors


def test_each_list_of_steps_has_results_of_its_own(tmp_path: Path) -> None:
    write_benchmark(tmp_path, scales=(2,))
    method = baseline_method("bicubic", torch.device("cpu"))
    lists = [None, [{"name": "noise", "sigma": 5}], [{"name": "noise", "sigma": 6}]]
    keys, paths, lows = set(), set(), []
    for steps in lists:
        degrade = None if steps is None else Degrade(steps)
        data = replace(find_suite("set5", tmp_path), degrade=degrade)
        pictures = Pictures(data, [(2.0, 2.0)], "paper")
        keys.add(record_key(method, pictures, 0, (2.0, 2.0)))
        options = argparse.Namespace(
            suite=["set5"], metrics=[], scales=None, lr=None, data_root=None, protocol=None
        )
        paths.add(progress_path([method], options, degrade))
        lows.append(pictures.pair(0, pictures.read(0), (2.0, 2.0))[0])
        again = pictures.pair(0, pictures.read(0), (2.0, 2.0))[0]
        assert np.array_equal(lows[-1], again)
    assert (len(keys), len(paths)) == (3, 3)
    assert np.abs(lows[1].astype(int) - lows[0]).std() < np.abs(lows[2].astype(int) - lows[0]).std()


def test_damage_before_the_reduction_needs_a_reduction(tmp_path: Path) -> None:
    write_benchmark(tmp_path, scales=(2,))
    steps = [{"name": "blur", "sigma": 2, "before": True}]
    data = replace(find_suite("set5", tmp_path), degrade=Degrade(steps))
    with pytest.raises(ConfigError, match=r"supplied low-resolution pictures \(x2\); allowed with"):
        Pictures(data, [(2.0, 2.0)], "paper")
    pictures = Pictures(data, [(2.0, 2.0)], "pil")
    low, truth = pictures.pair(0, pictures.read(0), (2.0, 2.0))
    assert np.array_equal(low, resize_pil(damaged(truth, *steps), (24, 26)))


def test_prepared_low_resolution_pictures_are_those_of_the_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_benchmark(tmp_path, scales=(2,))
    steps = tmp_path / "steps.yaml"
    steps.write_text("- {name: noise, sigma: [2, 9]}\n- {name: jpeg, quality: [30, 90]}\n")
    asked = ["lr", "--hr", folder / "HR", "--scales", 2, "--degrade", steps]

    def prepare() -> str:
        prepare_data([str(part) for part in [*asked, "--output", tmp_path / "low"]])
        return capsys.readouterr().err

    with pytest.raises(ConfigError, match="--degrade: given without --output"):
        prepare_data([str(part) for part in asked])
    assert "3 pictures made" in prepare()
    data = replace(find_suite("set5", tmp_path), degrade=read_degrade(steps))
    pictures = Pictures(data, [(2.0, 2.0)], "matlab")
    for index in range(3):
        made = read_rgb(tmp_path / f"low/X2/photo{index + 1}x2.png")
        assert np.array_equal(made, pictures.pair(index, pictures.read(index), (2.0, 2.0))[0])
    assert "0 pictures made, 3 already there" in prepare()
    steps.write_text("- {name: noise, sigma: 3}\n")
    assert "3 pictures made" in prepare()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "s.yaml: no steps given"),
        ("name: blur", "s.yaml: {'name': 'blur'} given; allowed: a list, each a step"),
        (
            "- {name: jpeg, quality: 101}\n- {name: fog}",
            r"s.yaml\[0\].quality.*\[1\].name: unknown",
        ),
        ("- [", "s.yaml: no YAML"),
        (None, "s.yaml: "),
    ],
)
def test_a_file_of_steps_that_is_no_good(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_degrade(tmp_path / "s.yaml")
    assert "\n" not in str(caught.value)
