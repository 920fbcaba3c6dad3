"""Training items per second: caches of this project beside pickles of whole pictures.

    python benchmarks/loader.py [--images 8] [--items 16] [--rounds 5] [--device cuda]
    python benchmarks/loader.py --degrade [--items 16] [--rounds 5]

The items are those of the paper's DIV2K training: 48x48 inputs at scales 1 to 4, 2304 samples,
from pictures of 2040x1356, one at a time in this process alone. With a device, batches of 16 made
there come as a last row, and memory is that device's. With `--degrade` rows are steps of damage,
each alone, on an input of 48x48.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
from benchmarks import common
from datasets.degrade import Degrade
from datasets.device_batches import DeviceBatches
from datasets.images import write_rgb
from tests.plain_loader import PlainDownsampled

SIZE = (1356, 2040)  # height, width
WRAPPER: dict[str, Any] = {
    "name": "sr-implicit-downsampled",
    "args": {"inp_size": 48, "scale_max": 4, "augment": True, "sample_q": 2304},
}
BATCH = 16
STEPS: dict[str, dict[str, Any]] = {
    "blur": {"name": "blur", "sigma": [0, 1.2]},
    "blur, anisotropic to 4 pixels": {"name": "blur", "sigma": [0, 4], "anisotropic": 1},
    "noise, Gaussian": {"name": "noise", "sigma": [0, 12]},
    "noise, Poisson": {"name": "noise", "photons": [100, 10000]},
    "jpeg": {"name": "jpeg", "quality": [30, 95], "subsampling": ["4:4:4", "4:2:0"]},
    "resize": {"name": "resize", "scale": [1, 2]},
}


def make_pictures(folder: Path, count: int, size: Sequence[int]) -> None:
    """Pictures with detail of every size, so that files and decoding are of an ordinary kind."""
    height, width = size
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        total = np.zeros((height, width, 3))
        for detail in (4, 16, 64, 256):
            coarse = rng.integers(0, 256, (height // detail + 2, width // detail + 2, 3))
            image = Image.fromarray(coarse.astype(np.uint8))
            total += np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        write_rgb(folder / f"{number}.png", (total / 4).astype(np.uint8))


def wrapped(folder: Path, cache: str, repeat: int = 1, **changes: int) -> datasets.wrappers.Wrapper:
    """The items of the paper's training, or of other `changes`' sizes, from a folder."""
    args = {"root_path": str(folder), "cache": cache, "repeat": repeat}
    pictures = datasets.make({"name": "image-folder", "args": args})
    wrapper = {**WRAPPER, "args": {**WRAPPER["args"], **changes}}
    return datasets.make(wrapper, {"dataset": pictures})


def item_maker(wrapper: datasets.wrappers.Wrapper) -> Callable[[int], object]:
    """Item number n of a run, as training asks for it."""
    return lambda n: wrapper.sample(n % len(wrapper), np.random.default_rng([0, n]))


def batch_maker(batches: DeviceBatches) -> Callable[[int], object]:
    """Batch number n of a run, made on the device."""

    def make(number: int) -> object:
        numbers = range(BATCH * number, BATCH * (number + 1))
        rngs = [np.random.default_rng([0, n]) for n in numbers]
        return batches.sample([n % len(batches.wrapper) for n in numbers], rngs)

    return make


def contender(
    name: str, make: Callable[[int], object], calls: int, items: int = 1
) -> common.Contender:
    """Makes so many times so many items a round; figures are of an item."""

    def run() -> None:
        for number in range(calls):
            make(number)

    return common.Contender(name, run, steps=calls * items)


def contenders(options: argparse.Namespace, folder: Path) -> list[common.Contender]:
    make_pictures(folder, options.images, options.picture)
    plain = PlainDownsampled(folder, 48, 1, 4, 2304)
    in_memory, mapped = wrapped(folder, "in_memory"), wrapped(folder, "bin")
    for number in range(options.images):
        # As in every epoch but the first: each page of the map has been seen by this process.
        assert in_memory.fetch(number)[0].sum() == mapped.fetch(number)[0].sum()
    fast = 16 * options.items
    made = [
        contender("pickles of whole pictures", lambda n: plain[n % len(plain)], options.items),
        contender("`cache: none`", item_maker(wrapped(folder, "none")), options.items),
        contender("`cache: in_memory`", item_maker(in_memory), fast),
        contender("`cache: bin`", item_maker(mapped), fast),
    ]
    if options.device is not None:
        make = batch_maker(DeviceBatches(wrapped(folder, "bin"), torch.device(options.device)))
        name = f"batches made on {options.device}"
        made.append(contender(name, make, options.items, BATCH))
    return made


def damage_contenders(items: int) -> list[common.Contender]:
    """Each step alone, on an input as training has it."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC))

    def maker(step: dict[str, Any]) -> Callable[[int], object]:
        degrade = Degrade([step])
        return lambda n: degrade.apply(pixels, lambda same: same, np.random.default_rng([0, n]))

    return [contender(name, maker(step), 16 * items) for name, step in STEPS.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument(
        "--items",
        type=int,
        default=16,
        help="of each kind in a round, 16 times as many of the fast ones",
    )
    parser.add_argument("--rounds", type=int, default=5)
    size = {"nargs": 2, "type": int, "metavar": ("HEIGHT", "WIDTH")}
    parser.add_argument("--picture", default=SIZE, help="size of the pictures", **size)
    parser.add_argument("--device", help="also make batches there: cpu, cuda")
    parser.add_argument("--degrade", action="store_true", help="steps of damage instead")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in a loader's worker
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        made = damage_contenders(options.items) if options.degrade else contenders(options, folder)
        rates = common.measure(made, options.rounds, torch.device(options.device or "cpu"))
    print(common.table(made, rates))


if __name__ == "__main__":
    main()
