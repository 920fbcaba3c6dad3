"""Batches made on a device equal the wrappers' items, and use nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import datasets
from datasets import cache
from datasets.device_batches import DeviceBatches
from datasets.device_resize import resize_batch
from datasets.images import read_rgb, write_rgb
from datasets.resize import resize_pil
from datasets.wrappers import Wrapper

SPECS = {
    "downsampled": ("sr-implicit-downsampled", {"inp_size": 12, "scale_max": 4, "sample_q": 50}),
    "one-scale": ("sr-implicit-downsampled", {"inp_size": 12, "scale_min": 3}),
    "per-axis": (
        "sr-implicit-downsampled",
        {"inp_size": 10, "scale_min": [1, 2], "scale_max": [3, 4], "sample_q": 40},
    ),
    "paired": ("sr-implicit-paired", {"inp_size": 9, "sample_q": 60}),
    "varied": ("sr-implicit-uniform-varied", {"size_min": 16, "size_max": 64, "sample_q": 70}),
    "varied-fixed": (
        "sr-implicit-uniform-varied",
        {"size_min": 16, "size_max": 64, "gt_resize": 48, "sample_q": 70},
    ),
}


class Noise:
    """Single pictures of different sizes, or pairs; every picture twice, under the same name."""

    def __init__(self, pairs: bool, square: bool) -> None:
        rng = np.random.default_rng(0)
        self.items: list[tuple[np.ndarray, ...]] = []
        for i in range(5):
            height, width = (16, 16) if square else (20 + i, 31 - i)
            sizes = [(height, width), (4 * height, 4 * width)] if pairs else [(60 + i, 70 - i)]
            pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
            pictures[-1][:9] = 255  # flat parts and hard edges as well
            pictures[-1][9:12] = 0
            self.items.append(tuple(pictures))

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("pixels are there")

    def pixels(self, index: int) -> tuple[np.ndarray, ...]:
        return self.items[index % 5]

    def sizes(self, index: int) -> list[tuple[int, int]]:
        return [picture.shape[:2] for picture in self.items[index % 5]]  # type: ignore[misc]

    def names(self, index: int) -> tuple[str, ...]:
        return tuple(f"{index % 5}-{k}" for k in range(len(self.items[index % 5])))


def make_wrapper(kind: str, augment: bool) -> Wrapper:
    name, args = SPECS[kind]
    dataset = Noise(pairs="downsampled" not in name, square="varied" in name)
    return datasets.make({"name": name, "args": {**args, "augment": augment}}, {"dataset": dataset})


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(count)]


def compare(batch: dict[str, torch.Tensor], wrapper: Wrapper, indices: list[int]) -> float:
    """Everything equal but colours; returns the largest difference of those, in levels."""
    worst = 0.0
    for place, (index, rng) in enumerate(zip(indices, generators(len(indices)), strict=True)):
        item = wrapper.sample(index, rng)
        for key in ("inp", "coord", "cell", "gt"):
            made = batch[key][place].cpu()
            assert made.shape == item[key].shape
            assert made.dtype == torch.float32
            if key in ("coord", "cell"):
                assert torch.equal(made, item[key]), key
            else:
                worst = max(worst, float((made - item[key]).abs().max()) * 255)
    return worst


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("kind", SPECS)
def test_equal_to_the_wrappers(kind: str, augment: bool) -> None:
    """The promise is one level; on a CPU every number is the same."""
    wrapper = make_wrapper(kind, augment)
    batches = DeviceBatches(wrapper, "cpu")
    if kind == "varied":
        groups = [[4, 9, 4, 9]]
    elif kind == "one-scale":
        groups = [[0, 1, 2, 3], [9, 5, 5, 1]]
    else:
        groups = [list(range(10)), [7, 7, 3]]
    for indices in groups:
        batch = batches.sample(indices, generators(len(indices)))
        assert compare(batch, wrapper, indices) <= 1e-4


def test_every_size_in_one_batch() -> None:
    """Targets of different sizes are resized together."""
    wrapper = make_wrapper("varied", True)
    batches = DeviceBatches(wrapper, "cpu")
    indices = [0, 3, 9, 5]
    assert len({wrapper.draw(i, np.random.default_rng(0)).gt_size for i in indices}) == 4
    assert compare(batches.sample(indices, generators(4)), wrapper, indices) <= 1e-4


def test_repeats_are_kept_once() -> None:
    wrapper = make_wrapper("paired", False)
    batches = DeviceBatches(wrapper, "cpu")
    pixels = sum(a.shape[0] * a.shape[1] for item in wrapper.dataset.items for a in item)
    assert batches.pixels.shape == (pixels, 3)
    assert batches.pixels.dtype == torch.uint8


def test_from_files(tmp_path: Path) -> None:
    for i in range(3):
        rng = np.random.default_rng(i)
        write_rgb(tmp_path / f"{i}.png", rng.integers(0, 256, (50, 60 + i, 3), dtype=np.uint8))
    args = {"root_path": str(tmp_path), "repeat": 4}
    dataset = datasets.make({"name": "image-folder", "args": args})
    name, settings_ = SPECS["downsampled"]
    wrapper = datasets.make({"name": name, "args": settings_}, {"dataset": dataset})
    indices = [11, 0, 4, 2]
    batch = DeviceBatches(wrapper, "cpu").sample(indices, generators(4))
    assert compare(batch, wrapper, indices) <= 1e-4


def test_each_picture_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice would be minutes of a start with thousands of photographs."""
    for i in range(3):
        write_rgb(tmp_path / f"{i}.png", np.full((50, 60 + i, 3), i, np.uint8))
    args = {"root_path": str(tmp_path), "repeat": 4}
    name, settings_ = SPECS["downsampled"]
    spec = {"name": "image-folder", "args": args}
    wrapper = datasets.make({"name": name, "args": settings_}, {"dataset": datasets.make(spec)})
    decoded = []

    def read(path: Path, *limits: Any) -> np.ndarray:
        decoded.append(path.name)
        return read_rgb(path, *limits)

    monkeypatch.setattr(cache, "read_rgb", read)
    batches = DeviceBatches(wrapper, "cpu")
    assert decoded == ["0.png", "1.png", "2.png"]
    assert batches.pixels.sum(0).tolist() == [50 * 61 + 50 * 62 * 2] * 3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(1, 30))
def test_resize_is_pillows(height: int, width: int, new_height: int, new_width: int) -> None:
    rng = np.random.default_rng(height * 50 + width)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    wanted = resize_pil(pixels, (new_height, new_width))
    padded = torch.randint(0, 256, (2, height + 3, width + 2, 3)).double()
    padded[1, :height, :width] = torch.from_numpy(pixels)
    before = torch.tensor([[height + 3, width + 2], [height, width]])
    after = torch.tensor([[4, 5], [new_height, new_width]])
    largest = (max(4, new_height), max(5, new_width))
    made = resize_batch(padded, before, after, largest)[1, :new_height, :new_width]
    assert np.array_equal(made.numpy(), wanted)


@pytest.mark.parametrize("kind", SPECS)
def test_nothing_from_another_device(kind: str) -> None:
    """Fake tensors refuse to mix devices, so this finds a stray CPU tensor without a GPU."""
    wrapper = make_wrapper(kind, True)
    indices = [4, 9, 4]
    plans = [wrapper.draw(i, rng) for i, rng in zip(indices, generators(3), strict=True)]
    with FakeTensorMode():
        batch = DeviceBatches(wrapper, "cuda").batch(indices, plans)
    for key, tensor in batch.items():
        assert tensor.device.type == "cuda", key
        assert tensor.dtype == torch.float32
    assert batch["inp"].shape[:2] == (3, 3)
    assert batch["gt"].shape[2] == 3


@pytest.mark.cuda
@pytest.mark.parametrize("kind", SPECS)
def test_on_a_gpu(kind: str) -> None:
    wrapper = make_wrapper(kind, True)
    batches = DeviceBatches(wrapper, "cuda")
    indices = [4, 9, 4, 9]
    assert compare(batches.sample(indices, generators(4)), wrapper, indices) <= 1.001
