"""One training step of the paper: batch 16, inputs of 48x48, 2304 queries each, Adam.

    python benchmarks/train_step.py [--batch 16] [--rounds 7] [--compile]
    python benchmarks/train_step.py --loader batch workers device --steps 100    data included

The plain step is the paper's network written down plainly (tests/oracle.py) in fp32, NCHW, with
torch's Adam as it comes; ours is what training runs: encoder in channels_last, factored decoder,
fused Adam. Forward, L1 loss, backward and update are timed, on a batch that is there already.

`--loader` feeds ours from generated pictures of DIV2K's size as training does: `workers` make items
on the host, `device` makes batches where the model is. A run is then an epoch of `--steps` steps,
its first batch included, and the host waits for the device at its end alone; times are of a step.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from benchmarks.common import Contender, machine, measure, parser, table
from benchmarks.decode import LIIF, METASR
from benchmarks.loader import SIZE, make_pictures, wrapped
from engine.loader import TRAIN_ITEMS, Batches, Drawn
from engine.normalisation import HALF, normalise
from engine.runtime import PRECISIONS
from engine.train.device_loader import DeviceLoader
from engine.train.run import TENSORS
from engine.workers import Loader
from tests.oracle import plain

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
Epoch = Callable[[], Iterable[Batch]]  # called for each run


def make_batch(pictures: int, size: int, queries: int, device: torch.device) -> Batch:
    """Random inp, coord, cell and gt."""
    inp = torch.rand(pictures, 3, size, size, device=device) * 2 - 1
    coord = torch.rand(pictures, queries, 2, device=device) * 2 - 1
    cell = torch.full_like(coord, 2 / (2.5 * size))
    return inp, coord, cell, torch.rand(pictures, queries, 3, device=device) * 2 - 1


def loaded(kind: str, args: Any, folder: Path, device: torch.device) -> Epoch:
    """Epochs of `args.steps` batches from pictures, by the workers' loader or the device's."""
    length = args.batch * args.steps
    repeat = -(-length // args.images)
    wrapper = wrapped(folder, "bin", repeat, inp_size=args.size, sample_q=args.queries)
    batches = Batches(length, args.batch, seed=0, training=True)
    stream, workers = TRAIN_ITEMS, args.workers
    loader: Iterable[Any]
    if kind == "device":
        loader = DeviceLoader(wrapper, batches, device, stream=stream, num_workers=workers)
    else:
        drawn = Drawn(wrapper, seed=0, stream=stream, on_bad_image="stop")
        loader = Loader(drawn, batches, workers, pin_memory=device.type == "cuda")
    numbers = itertools.count()

    def epoch() -> Iterator[Batch]:
        batches.start(next(numbers))
        for batch in loader:
            inp, coord, cell, gt = (batch[name].to(device, non_blocking=True) for name in TENSORS)
            yield normalise(inp, HALF, 1), coord, cell, normalise(gt, HALF, -1)

    return epoch


def steps(
    name: str, network: nn.Module, epoch: Epoch, device: torch.device, precision: str, **how: Any
) -> Contender:
    """A contender that trains `network`, one step per batch of an epoch.

    Args:
        how: `fused` of Adam, and the `count` of steps of an epoch.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=how.get("fused"))
    low = precision != "fp32"

    def run() -> None:
        for inp, coord, cell, gt in epoch():
            with torch.autocast(device.type, PRECISIONS[precision], enabled=low):
                answer = network(inp, coord, cell)
            loss = (answer.float() - gt).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return Contender(name, run, precision, steps=how.get("count", 1))


def contenders(args: Any, folder: Path, device: torch.device) -> list[Contender]:
    spec = METASR if args.model == "metasr" else LIIF
    torch.manual_seed(0)
    fixed = [make_batch(args.batch, args.size, args.queries, device)]
    oracle = plain(spec).to(device)
    state = {key: value.clone() for key, value in oracle.state_dict().items()}

    def ours() -> nn.Module:
        return models.make({**spec, "sd": state}, load_sd=True).to(device)

    made = [steps("plain fp32", oracle, lambda: fixed, device, "fp32")]
    for loader in args.loader:
        inside = loader == "batch"
        epoch = (lambda: fixed) if inside else loaded(loader, args, folder, device)
        how = {"fused": True, "count": 1 if inside else args.steps}
        suffix = "" if inside else f", {loader}"
        for precision in args.precisions:
            name = f"ours {precision}{suffix}"
            made.append(steps(name, ours(), epoch, device, precision, **how))
            if args.compile:
                network = torch.compile(ours())
                made.append(steps(f"{name}, compiled", network, epoch, device, precision, **how))
    return made


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--size", type=int, default=48, help="of an input, square")
    options.add_argument("--queries", type=int, default=2304)
    options.add_argument("--model", choices=["liif", "metasr"], default="liif")
    loaders = ["batch", "workers", "device"]
    options.add_argument("--loader", nargs="+", choices=loaders, default=["batch"])
    options.add_argument("--steps", type=int, default=20, help="of an epoch from a loader")
    options.add_argument("--workers", type=int, help="processes of a loader")
    options.add_argument("--images", type=int, default=8, help="pictures to load from")
    size: dict[str, Any] = {"nargs": 2, "type": int, "metavar": ("HEIGHT", "WIDTH")}
    options.add_argument("--picture", default=SIZE, help="their size", **size)
    args = options.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        if args.loader != ["batch"]:
            make_pictures(folder, args.images, args.picture)
        all_of_them = contenders(args, folder, device)
        rates = measure(all_of_them, args.rounds, device)
    work = f"batch {args.batch}, {args.size}x{args.size}, {args.queries} queries"
    print(f"{args.model}, {work}; {machine(device, rates)}")
    print()
    print(table(all_of_them, rates))


if __name__ == "__main__":
    main()
