"""Training items per second: caches of this project beside pickles of whole pictures.

    python benchmarks/loader.py [--images 8] [--items 16] [--rounds 5] [--device cuda]

The items are those of the paper's DIV2K training: 48x48 inputs at scales 1 to 4, 2304 samples,
from pictures of 2040x1356. All kinds take turns within each round, in this process alone; the
table has medians over the rounds. Processor time is what other programs can't disturb. Peak memory
is what making items takes beyond what a kind holds between them, the largest over the rounds. With
a device, batches of 16 made there come as a last row, with that device's memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
from benchmarks import common
from datasets.device_batches import DeviceBatches
from datasets.images import write_rgb
from tests.plain_loader import PlainDownsampled

SIZE = (1356, 2040)  # height, width
WRAPPER: dict[str, Any] = {
    "name": "sr-implicit-downsampled",
    "args": {"inp_size": 48, "scale_max": 4, "augment": True, "sample_q": 2304},
}
BATCH = 16
CPU = torch.device("cpu")


class Times(NamedTuple):
    """Of one item: seconds by the clock and of the processor; of all, bytes at the peak."""

    clock: float
    processor: float
    peak: int | None


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

    def make(number: int) -> object:
        return wrapper.sample(number % len(wrapper), np.random.default_rng([0, number]))

    return make


def batch_maker(batches: DeviceBatches) -> Callable[[int], object]:
    """Batch number n of a run, made on the device."""

    def make(number: int) -> object:
        numbers = range(BATCH * number, BATCH * (number + 1))
        rngs = [np.random.default_rng([0, n]) for n in numbers]
        return batches.sample([n % len(batches.wrapper) for n in numbers], rngs)

    return make


def time_calls(
    make: Callable[[int], object], calls: int, items: int, device: torch.device
) -> Times:
    """What `calls` calls take, each of which makes so many items."""
    before = common.reset_peak(device)
    start, used = time.perf_counter(), time.process_time()
    for number in range(calls):
        make(number)
    common.synchronize(device)
    clock, processor = time.perf_counter() - start, time.process_time() - used
    after = common.peak(device)
    peak = None if before is None or after is None else after - before
    return Times(clock / (calls * items), processor / (calls * items), peak)


def measure(options: argparse.Namespace, folder: Path) -> list[tuple[str, list[Times]]]:
    """Each kind's name and its times in each round."""
    make_pictures(folder, options.images, options.picture)
    plain = PlainDownsampled(folder, 48, 1, 4, 2304)
    in_memory, mapped = wrapped(folder, "in_memory"), wrapped(folder, "bin")
    for number in range(options.images):
        # As in every epoch but the first: each page of the map has been seen by this process.
        assert in_memory.fetch(number)[0].sum() == mapped.fetch(number)[0].sum()
    # Name, what to call, calls per round (fast ones need more), items per call, where.
    kinds: list[tuple[str, Callable[[int], object], int, int, torch.device]] = [
        ("pickles of whole pictures", lambda n: plain[n % len(plain)], options.items, 1, CPU),
        ("`cache: none`", item_maker(wrapped(folder, "none")), options.items, 1, CPU),
        ("`cache: in_memory`", item_maker(in_memory), 16 * options.items, 1, CPU),
        ("`cache: bin`", item_maker(mapped), 16 * options.items, 1, CPU),
    ]
    if options.device is not None:
        device = torch.device(options.device)
        make = batch_maker(DeviceBatches(wrapped(folder, "bin"), device))
        kinds.append((f"batches made on {device}", make, options.items, BATCH, device))
    times: list[tuple[str, list[Times]]] = [(kind[0], []) for kind in kinds]
    for _, make, _, items, device in kinds:
        time_calls(make, 3, items, device)  # files and code into memory
    for _ in range(options.rounds):
        for (_, *work), (_, found) in zip(kinds, times, strict=True):
            found.append(time_calls(*work))
    return times


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
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in a loader's worker
    with tempfile.TemporaryDirectory() as temporary:
        times = measure(options, Path(temporary) / "pictures")
    plain = middle(times[0][1])
    print(
        "| pixels from | ms per item | times faster | processor ms per item | times less "
        "| peak memory MB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, found in times:
        one = middle(found)
        memory = "" if one.peak is None else f"{one.peak / 1e6:.1f}"
        print(
            f"| {name} | {1000 * one.clock:.2f} | {plain.clock / one.clock:.1f} "
            f"| {1000 * one.processor:.2f} | {plain.processor / one.processor:.1f} | {memory} |"
        )


def middle(found: Sequence[Times]) -> Times:
    """Medians over the rounds; of memory the most."""
    clock = statistics.median(one.clock for one in found)
    processor = statistics.median(one.processor for one in found)
    peaks = [one.peak for one in found if one.peak is not None]
    return Times(clock, processor, max(peaks, default=None))


if __name__ == "__main__":
    main()
