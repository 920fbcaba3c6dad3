"""Training items per second: caches of this project beside pickles of whole pictures.

    python benchmarks/loader.py [--images 8] [--items 16] [--rounds 5] [--device cuda]

The items are those of the paper's DIV2K training: 48x48 inputs at scales 1 to 4, 2304 samples,
from pictures of 2040x1356. All kinds take turns within each round, in this process alone; the
table has medians over the rounds. Processor time is what other programs can't disturb. With a
device, batches of 16 made there come as a last row.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
from datasets.device_batches import DeviceBatches
from datasets.images import write_rgb
from tests.plain_loader import PlainDownsampled

HEIGHT, WIDTH = 1356, 2040
WRAPPER = {
    "name": "sr-implicit-downsampled",
    "args": {"inp_size": 48, "scale_max": 4, "augment": True, "sample_q": 2304},
}
BATCH = 16


def make_pictures(folder: Path, count: int) -> None:
    """Pictures with detail of every size, so that files and decoding are of an ordinary kind."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        total = np.zeros((HEIGHT, WIDTH, 3))
        for size in (4, 16, 64, 256):
            coarse = rng.integers(0, 256, (HEIGHT // size + 2, WIDTH // size + 2, 3))
            image = Image.fromarray(coarse.astype(np.uint8))
            total += np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        write_rgb(folder / f"{number}.png", (total / 4).astype(np.uint8))


def wrapped(folder: Path, cache: str) -> datasets.wrappers.Wrapper:
    spec = {"name": "image-folder", "args": {"root_path": str(folder), "cache": cache}}
    return datasets.make(WRAPPER, {"dataset": datasets.make(spec)})


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
    make: Callable[[int], object], calls: int, device: str | None
) -> tuple[float, float]:
    """Seconds per call, by the clock and of the processor."""
    start, used = time.perf_counter(), time.process_time()
    for number in range(calls):
        make(number)
    if device is not None and device.startswith("cuda"):
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls, (time.process_time() - used) / calls


def measure(
    options: argparse.Namespace, folder: Path
) -> list[tuple[str, list[tuple[float, float]]]]:
    """(name, seconds per item in each round, by the clock and of the processor)."""
    make_pictures(folder, options.images)
    plain = PlainDownsampled(folder, 48, 1, 4, 2304)
    in_memory, mapped = wrapped(folder, "in_memory"), wrapped(folder, "bin")
    for number in range(options.images):
        # As in every epoch but the first: each page of the map has been seen by this process.
        assert in_memory.fetch(number)[0].sum() == mapped.fetch(number)[0].sum()
    # Name, what to call, items per call, calls per round: fast ones need more to be measured.
    kinds: list[tuple[str, Callable[[int], object], int, int]] = [
        ("pickles of whole pictures", lambda n: plain[n % len(plain)], 1, options.items),
        ("`cache: none`", item_maker(wrapped(folder, "none")), 1, options.items),
        ("`cache: in_memory`", item_maker(in_memory), 1, 16 * options.items),
        ("`cache: bin`", item_maker(mapped), 1, 16 * options.items),
    ]
    if options.device is not None:
        batches = DeviceBatches(wrapped(folder, "bin"), options.device)
        name = f"batches made on {options.device}"
        kinds.append((name, batch_maker(batches), BATCH, options.items))
    times: list[tuple[str, list[tuple[float, float]]]] = [(kind[0], []) for kind in kinds]
    for _, make, _, _ in kinds:
        time_calls(make, 3, options.device)  # files and code into memory
    for _ in range(options.rounds):
        for (_, make, items, calls), (_, seconds) in zip(kinds, times, strict=True):
            clock, processor = time_calls(make, calls, options.device)
            seconds.append((clock / items, processor / items))
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
    parser.add_argument("--device", help="also make batches there: cpu, cuda")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in a loader's worker
    with tempfile.TemporaryDirectory() as temporary:
        times = measure(options, Path(temporary) / "pictures")
    plain_clock, plain_processor = middles(times[0][1])
    print("| pixels from | ms per item | times faster | processor ms per item | times less |")
    print("| --- | --- | --- | --- | --- |")
    for name, seconds in times:
        clock, processor = middles(seconds)
        print(
            f"| {name} | {1000 * clock:.2f} | {plain_clock / clock:.1f} "
            f"| {1000 * processor:.2f} | {plain_processor / processor:.1f} |"
        )


def middles(seconds: list[tuple[float, float]]) -> tuple[float, float]:
    """Medians over the rounds, by the clock and of the processor."""
    return statistics.median(c for c, _ in seconds), statistics.median(p for _, p in seconds)


if __name__ == "__main__":
    main()
