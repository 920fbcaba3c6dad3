"""One training step of the paper: batch 16, inputs of 48x48, 2304 queries each, Adam.

    python benchmarks/train_step.py [--batch 16] [--rounds 7] [--compile]

The plain step is the paper's network written down plainly (tests/oracle.py) in fp32, NCHW, with
torch's Adam as it comes; ours is what training runs: encoder in channels_last, factored decoder,
fused Adam. Forward, L1 loss, backward and update are timed, on a batch that is there already.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from benchmarks.common import Contender, machine, measure, parser, table
from benchmarks.decode import LIIF, METASR
from engine.runtime import PRECISIONS
from tests.oracle import plain

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def make_batch(pictures: int, size: int, queries: int, device: torch.device) -> Batch:
    """Random inp, coord, cell and gt."""
    inp = torch.rand(pictures, 3, size, size, device=device) * 2 - 1
    coord = torch.rand(pictures, queries, 2, device=device) * 2 - 1
    cell = torch.full_like(coord, 2 / (2.5 * size))
    return inp, coord, cell, torch.rand(pictures, queries, 3, device=device) * 2 - 1


def step(
    name: str, network: nn.Module, batch: Batch, precision: str, fused: bool | None
) -> Contender:
    """A contender that trains `network` on the batch, one step per run."""
    inp, coord, cell, gt = batch
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=fused)
    low = precision != "fp32"

    def run() -> float:
        with torch.autocast(inp.device.type, PRECISIONS[precision], enabled=low):
            answer = network(inp, coord, cell)
        loss = (answer.float() - gt).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Contender(name, run, precision)


def contenders(args: Any, device: torch.device) -> list[Contender]:
    spec = METASR if args.model == "metasr" else LIIF
    torch.manual_seed(0)
    batch = make_batch(args.batch, args.size, args.queries, device)
    oracle = plain(spec).to(device)
    state = {key: value.clone() for key, value in oracle.state_dict().items()}

    def ours() -> nn.Module:
        return models.make({**spec, "sd": state}, load_sd=True).to(device)

    made = [step("plain fp32", oracle, batch, "fp32", fused=None)]
    for precision in args.precisions:
        made.append(step(f"ours {precision}", ours(), batch, precision, fused=True))
    if args.compile:
        for precision in args.precisions:
            name = f"ours {precision}, compiled"
            made.append(step(name, torch.compile(ours()), batch, precision, fused=True))
    return made


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--size", type=int, default=48, help="of an input, square")
    options.add_argument("--queries", type=int, default=2304)
    options.add_argument("--model", choices=["liif", "metasr"], default="liif")
    args = options.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    all_of_them = contenders(args, device)
    rates = measure(all_of_them, args.rounds, device)
    work = f"batch {args.batch}, {args.size}x{args.size}, {args.queries} queries"
    print(f"{args.model}, {work}; {machine(device, rates)}")
    print()
    print(table(all_of_them, rates))


if __name__ == "__main__":
    main()
