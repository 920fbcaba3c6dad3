"""Items of the wrappers: published figures, properties of the random draws, errors."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets
from datasets.resize import resize_pil
from datasets.transforms import Box, Flips, Plan, View, make_item
from datasets.wrappers import SRImplicitDownsampled
from utils import ConfigError, DataError, make_coord, to_pixel_samples

STORED = np.load(Path(__file__).parent / "data" / "wrappers.npz")
CASES = json.loads(str(STORED["cases"]))


class Floats:
    """Items as a data set from elsewhere has them: nothing but float pictures."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Pixels(Floats):
    """Items as uint8 pixels with names, as the folders have them."""

    def pixels(self, index: int) -> tuple[np.ndarray, ...]:
        return self.items[index]

    def names(self, index: int) -> tuple[str, ...]:
        return tuple(f"file{index}-{number}.png" for number in range(len(self.items[index])))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def floats(pixels: np.ndarray) -> torch.Tensor:
    return torch.tensor(pixels).permute(2, 0, 1).float() / 255


def stored_picture(name: str, size: list[int]) -> torch.Tensor:
    rng = np.random.RandomState(zlib.crc32(name.encode()) % 2**32)
    return torch.from_numpy(rng.randint(0, 256, (3, *size)).astype(np.float32) / 255)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_published_items(case: dict[str, Any]) -> None:
    """Whole items, every number exactly as the published code makes it."""
    single = case["spec"]["name"] == "sr-implicit-downsampled"
    items: list[Any] = []
    for i in range(case["n"]):
        high = stored_picture(f"hr{i}", case["hr"])
        items.append(high if single else (stored_picture(f"lr{i}", case["lr"]), high))
    item = datasets.make(case["spec"], {"dataset": Floats(items)})[case["index"]]
    for key in ("inp", "coord", "cell", "gt"):
        wanted = STORED[f"{case['name']}/{key}"]
        assert item[key].dtype == torch.float32
        assert np.array_equal(item[key].numpy(), wanted), key


def test_all_stored_cases_are_there() -> None:
    assert len(CASES) == 15


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.booleans(), st.booleans(), st.integers(1, 6), st.integers(1, 6))
def test_samples_are_pixels_of_the_changed_picture(
    horizontal: bool, vertical: bool, transpose: bool, height: int, width: int
) -> None:
    """Sampling some pixels gives the same numbers as making all and picking from them."""
    pixels = noise(height, width, seed=height)
    whole = floats(pixels)
    whole = whole.flip(-1) if horizontal else whole
    whole = whole.flip(-2) if vertical else whole
    whole = whole.transpose(-2, -1) if transpose else whole
    coord, colours = to_pixel_samples(whole)
    view = View(0, Box(0, 0, height, width))
    flips = Flips(horizontal, vertical, transpose)
    samples = np.random.default_rng(1).permutation(height * width)[: height * width // 2 + 1]
    item = make_item((pixels,), Plan(view, view, flips, samples))
    assert torch.equal(item["inp"], whole)
    assert torch.equal(item["coord"], coord[samples])
    assert torch.equal(item["gt"], colours[samples])
    everything = make_item((pixels,), Plan(view, view, flips))
    assert torch.equal(everything["coord"], coord)
    assert torch.equal(everything["gt"], colours)
    cell = torch.tensor([2 / whole.shape[-2], 2 / whole.shape[-1]])
    assert torch.equal(item["cell"], cell.expand(len(samples), 2))


def test_downsampled_crop_by_hand() -> None:
    pixels = noise(90, 120)
    wrapper = SRImplicitDownsampled(Pixels([(pixels,)]), 16, 1, 4, augment=True, sample_q=100)
    seen = set()
    for seed in range(40):
        plan = wrapper.draw(0, np.random.default_rng(seed))
        box = plan.gt.box
        assert box == plan.inp.box
        assert box.height == box.width
        assert 16 <= box.height <= 64
        crop = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
        assert crop.shape == (box.height, box.width, 3)
        inp = plan.flips.apply(resize_pil(crop, (16, 16)))
        item = wrapper.sample(0, np.random.default_rng(seed))
        assert torch.equal(item["inp"], floats(inp.copy()))
        assert plan.samples is not None
        assert len(set(plan.samples.tolist())) == 100
        grid = make_coord((box.height, box.width))
        assert torch.equal(item["coord"], grid[plan.samples])
        changed = floats(plan.flips.apply(crop).copy()).flatten(1).t()
        assert torch.equal(item["gt"], changed[plan.samples])
        seen.add(plan.flips)
    assert len(seen) == 8


def test_scales_and_corners_are_uniform() -> None:
    wrapper = SRImplicitDownsampled(Pixels([(noise(80, 100),)]), 20, 1, 4)
    rng = np.random.default_rng(0)
    boxes = [wrapper.draw(0, rng).gt.box for _ in range(3000)]
    scales = np.array([box.height / 20 for box in boxes])
    assert abs(scales.mean() - 2.5) < 0.05
    assert abs(scales.std() - 3 / 12**0.5) < 0.03
    assert {box.top for box in boxes if box.height == 79} <= {0, 1}
    rests = np.array([(b.top / max(1, 80 - b.height), b.left / (100 - b.width)) for b in boxes])
    assert np.abs(rests.mean(axis=0) - 0.5).max() < 0.03


def test_paired_crop_by_hand() -> None:
    low, high = noise(30, 40), noise(92, 121, seed=1)
    wrapper = datasets.make(
        {"name": "sr-implicit-paired", "args": {"inp_size": 12, "augment": True}},
        {"dataset": Pixels([(low, high)])},
    )
    for seed in range(10):
        plan = wrapper.draw(0, np.random.default_rng(seed))
        box = plan.inp.box
        item = make_item(wrapper.fetch(0), plan)
        small = low[box.top : box.top + 12, box.left : box.left + 12]
        large = high[box.top * 3 : box.top * 3 + 36, box.left * 3 : box.left * 3 + 36]
        assert torch.equal(item["inp"], floats(plan.flips.apply(small).copy()))
        assert torch.equal(item["gt"], floats(plan.flips.apply(large).copy()).flatten(1).t())


def test_draws_depend_on_the_generator_alone() -> None:
    dataset = Pixels([(noise(60, 60, seed=i),) for i in range(3)])
    wrapper = SRImplicitDownsampled(dataset, 8, 1, 4, augment=True, sample_q=30)
    first = wrapper.sample(1, np.random.default_rng([3, 1]))
    again = wrapper.sample(1, np.random.default_rng([3, 1]))
    other = wrapper.sample(1, np.random.default_rng([3, 2]))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["inp"], other["inp"])
    planned = make_item(wrapper.fetch(1), wrapper.draw(1, np.random.default_rng([3, 1])))
    assert all(torch.equal(first[key], planned[key]) for key in first)
    torch.manual_seed(5)
    one = wrapper[0]
    torch.manual_seed(5)
    assert torch.equal(one["gt"], wrapper[0]["gt"])


@pytest.mark.parametrize(
    "args", [{"scale_min": (2, 3), "augment": True}, {"inp_size": 8, "scale_max": 4}]
)
def test_samples_that_are_a_patch(args: dict[str, Any]) -> None:
    """16 pixels of a 4x4 square of the changed target, row by row, from anywhere in it."""
    wrapper = SRImplicitDownsampled(
        Pixels([(noise(36, 42),)]), **args, sample_q=16, sample_patch=True
    )
    corners = set()
    for seed in range(60):
        plan = wrapper.draw(0, np.random.default_rng(seed))
        whole = make_item(wrapper.fetch(0), dataclasses.replace(plan, samples=None))
        item = wrapper.sample(0, np.random.default_rng(seed))
        assert plan.samples is not None
        top, left = divmod(int(plan.samples[0]), plan.gt_size[1])
        for key in ("coord", "gt"):
            grid = whole[key].unflatten(0, plan.gt_size)
            assert torch.equal(item[key], grid[top : top + 4, left : left + 4].flatten(0, 1))
        corners.add((top, left))
    assert len(corners) > 40


def test_whole_pictures_at_a_scale_per_axis() -> None:
    pixels = noise(50, 61)
    wrapper = SRImplicitDownsampled(Pixels([(pixels,)]), scale_min=(2, 3.5))
    item = wrapper[0]
    # floor(50/2) = 25, floor(61/3.5) = 17, cut to 50 x round(59.5) = 60
    assert item["inp"].shape == (3, 25, 17)
    assert torch.equal(item["gt"], floats(pixels[:50, :60]).flatten(1).t())
    assert torch.equal(item["inp"], floats(resize_pil(pixels[:50, :60], (25, 17))))
    assert torch.equal(item["cell"][0], torch.tensor([2 / 50, 2 / 60]))


def test_uniform_varied_sizes_and_flip() -> None:
    pairs = [(noise(16, 16, seed=i), noise(64, 64, seed=9 + i)) for i in range(5)]
    spec = {
        "name": "sr-implicit-uniform-varied",
        "args": {"size_min": 16, "size_max": 64, "augment": True},
    }
    wrapper = datasets.make(spec, {"dataset": Pixels(pairs)})
    rng = np.random.default_rng(0)
    assert [wrapper.draw(i, rng).gt_size for i in range(5)] == [
        (n, n) for n in (16, 28, 40, 52, 64)
    ]
    flips = {wrapper.draw(0, rng).flips for _ in range(30)}
    assert flips == {Flips(), Flips(horizontal=True)}
    alone = datasets.make(spec, {"dataset": Pixels(pairs[:1])})
    assert alone.draw(0, rng).gt_size == (16, 16)


def failure(wrapper: Any) -> str:
    with pytest.raises(DataError) as caught:
        wrapper[0]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_errors_name_the_file() -> None:
    small = Pixels([(noise(70, 60),)])
    message = failure(SRImplicitDownsampled(small, 48, 1, 4))
    assert "file0-0.png" in message
    assert "192x192" in message
    assert "inp_size" in message
    message = failure(SRImplicitDownsampled(small, 10, 1, 2, sample_q=101))
    assert "file0-0.png" in message
    assert "sample_q 101" in message
    assert "10x10" in message
    assert "70x60" in failure(SRImplicitDownsampled(small, scale_min=61))
    assert "sample_q" in failure(SRImplicitDownsampled(small, scale_min=2, sample_q=5000))
    narrow = SRImplicitDownsampled(Pixels([(noise(70, 9),)]), sample_q=100, sample_patch=True)
    assert "a patch of 10x10 pixels, does not fit in a crop of 70x9" in failure(narrow)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ((20, 20), (10, 10)),  # the folders are exchanged
        ((10, 20), (40, 20)),  # rows four times, columns once
        ((10, 10), (39, 40)),  # nine rows left over at three times
        ((10, 13), (20, 24)),  # the columns asked for are not there
        ((20, 10), (20, 40)),
    ],
)
def test_sizes_that_are_no_pair(low: tuple[int, int], high: tuple[int, int]) -> None:
    spec = {"name": "sr-implicit-paired"}
    message = failure(datasets.make(spec, {"dataset": Pixels([(noise(*low), noise(*high))])}))
    assert "file0-0.png" in message
    assert "file0-1.png" in message
    assert "pair" in message


def test_paired_crop_larger_than_the_input() -> None:
    pair = Pixels([(noise(10, 20), noise(20, 40))])
    spec = {"name": "sr-implicit-paired", "args": {"inp_size": 11}}
    assert "11x11" in failure(datasets.make(spec, {"dataset": pair}))
    varied = {"name": "sr-implicit-uniform-varied", "args": {"size_min": 8}}
    assert "square" in failure(datasets.make(varied, {"dataset": pair}))


def test_number_of_pictures_must_fit() -> None:
    with pytest.raises(ConfigError, match="pairs"):
        datasets.make({"name": "sr-implicit-paired"}, {"dataset": Pixels([(noise(4, 4),)])})
    with pytest.raises(ConfigError, match="single"):
        datasets.make(
            {"name": "sr-implicit-downsampled"},
            {"dataset": Floats([(torch.zeros(3, 4, 4), torch.zeros(3, 8, 8))])},
        )[0]


@pytest.mark.parametrize(
    ("picture", "given"),
    [
        (torch.full((3, 8, 8), -1.0), "float32 (3, 8, 8) of values from -1 to -1"),
        (torch.arange(192.0).view(3, 8, 8), "float32 (3, 8, 8) of values from 0 to 191"),
        (torch.full((3, 8, 8), torch.nan), "float32 (3, 8, 8) of values from nan to nan"),
        (torch.ones(3, 8, 8, dtype=torch.int64), "int64 (3, 8, 8)"),
        (torch.ones(3, 8, 8, dtype=torch.complex64), "complex64 (3, 8, 8)"),
        (torch.ones(1, 8, 8), "float32 (1, 8, 8)"),
        (torch.ones(8, 8, 3), "float32 (8, 8, 3)"),
        (torch.ones(1, 3, 8, 8), "float32 (1, 3, 8, 8)"),
        (np.ones((8, 8, 3), np.uint8), "a ndarray"),
        (None, "a NoneType"),
    ],
)
def test_items_that_are_no_pictures(picture: Any, given: str) -> None:
    """In [-1, 1], or from 0 to 255, they would be trained on without a word."""
    wrapper = datasets.make({"name": "sr-implicit-downsampled"}, {"dataset": Floats([picture])})
    with pytest.raises(DataError) as caught:
        wrapper[0]
    allowed = "allowed: a tensor (3, H, W), float in [0, 1] or uint8"
    assert str(caught.value) == f"item 0: Floats gives {given}; {allowed}"


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.uint8])
def test_pictures_of_other_kinds_of_numbers(kind: torch.dtype) -> None:
    values = torch.arange(3 * 8 * 8).view(3, 8, 8) % 2
    picture = values.to(kind) * (255 if kind == torch.uint8 else 1)
    item = datasets.make({"name": "sr-implicit-downsampled"}, {"dataset": Floats([picture])})[0]
    assert torch.equal(item["gt"], values.float().permute(1, 2, 0).reshape(-1, 3))


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("sr-implicit-downsampled", {"scale_min": 4, "scale_max": 2}, "scale_min"),
        ("sr-implicit-downsampled", {"scale_min": [2, 4], "scale_max": 3}, "scale_min"),
        ("sr-implicit-downsampled", {"scale_min": 0.5}, "scale_min"),
        ("sr-implicit-downsampled", {"inp_size": 0}, "inp_size"),
        ("sr-implicit-downsampled", {"sample_q": -1}, "sample_q"),
        ("sr-implicit-downsampled", {"inp_siz": 4}, "inp_size"),
        ("sr-implicit-uniform-varied", {"size_min": 9, "size_max": 8}, "size_min"),
        ("sr-implicit-uniform-varied", {}, "size_min"),
        ("sr-implicit-paired", {"augment": 3}, "augment"),
        ("sr-implicit-paired", {"sample_patch": True}, "sample_q: missing"),
        ("sr-implicit-downsampled", {"sample_patch": True, "sample_q": 50}, "sample_q: 50"),
        ("sr-implicit-uniform-varied", {"size_min": 8, "sample_patch": True}, "sample_q: missing"),
    ],
)
def test_impossible_settings(name: str, args: dict[str, Any], words: str) -> None:
    problems: list[str] = []
    spec = {"name": name, "args": args}
    datasets.datasets_registry.check(spec, "wrapper", problems, supplied=("dataset",))
    assert len(problems) == 1
    assert problems[0].startswith("wrapper.args.")
    assert words in problems[0]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("sr-implicit-paired", {}),
        ("sr-implicit-paired", {"inp_size": 6, "augment": True}),
        ("sr-implicit-downsampled", {"scale_min": 2}),
        ("sr-implicit-downsampled", {"inp_size": 6, "scale_max": 4, "augment": True}),
    ],
)
def test_the_fast_names_are_the_flat_items_of_a_square_of_samples(
    name: str, args: dict[str, Any]
) -> None:
    pictures = (noise(10, 12), noise(20, 24, seed=1))
    dataset = Pixels([pictures if name == "sr-implicit-paired" else pictures[1:]])
    if "scale_max" in args:
        dataset = Pixels([(noise(30, 40),)])
    samples = {"sample_q": args["inp_size"] ** 2} if "inp_size" in args else {}
    flat, fast = (
        datasets.make({"name": one, "args": given}, {"dataset": dataset})
        for one, given in ((name, {**args, **samples}), (f"{name}-fast", args))
    )
    for seed in range(5):
        a, b = (one.sample(0, np.random.default_rng(seed)) for one in (flat, fast))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert len(a["gt"]) == (36 if samples else 480)
