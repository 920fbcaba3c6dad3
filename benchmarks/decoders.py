"""Every decoder beside its plain version: 384x384 pixels from the same features of 96x96.

    python benchmarks/decoders.py [--models lte sronet] [--height 96] [--scale 4] [--rounds 3]

From the encoder's features to colours, the decoders as their papers have them. Plain versions are
those of the tests (tests/oracle.py, tests/family_oracle.py), in fp32 and in chunks of 30000
queries; SRNO and LM-LIIF, which do something once for all queries, are asked everything at once.
The two of a decoder take turns in every round.
"""

from __future__ import annotations

import argparse
import gc
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from benchmarks.common import Contender, machine, measure, parser, ratio
from engine.config import read_train_config
from engine.evaluate.evaluate import predict
from engine.runtime import PRECISIONS
from tests import family_oracle, oracle
from utils import make_coord

CONFIGS = Path(__file__).resolve().parent.parent / "configs/train-div2k"
NAMES = ("liif", "metasr", "lte", "lte-fast", "sronet", "ciaosr", "lmliif")
AT_ONCE = ("sronet", "lmliif")


class Given(nn.Module):
    """An encoder whose features (1, C, H, W) are given."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, inp: Tensor) -> Tensor:
        return self.features


@torch.no_grad()
def plain_colours(model: Any, inp: Tensor, coord: Tensor, cell: Tensor, chunk: int) -> Tensor:
    kept = model.gen_feat(inp)
    parts = zip(coord.split(chunk, 1), cell.split(chunk, 1), strict=True)
    return torch.cat([model.query_rgb(kept, *part) for part in parts], 1)


@torch.inference_mode()
def our_colours(model: nn.Module, inp: Tensor, coord: Tensor, cell: Tensor, low: str) -> Tensor:
    with torch.autocast(inp.device.type, PRECISIONS[low], enabled=low != "fp32"):
        return predict(model, inp, coord, cell)


def contenders(name: str, args: argparse.Namespace, device: torch.device) -> list[Contender]:
    """The plain version and ours of a decoder, with its paper's arguments, on the same features."""
    torch.manual_seed(0)
    spec = read_train_config(CONFIGS / f"train_edsr-baseline-{name}.yaml").model
    made = oracle if name in oracle.PLAIN else family_oracle
    plain, model = made.plain(spec).to(device).eval(), models.make(spec).to(device).eval()
    model.load_state_dict(plain.state_dict())
    features = torch.randn(1, 64, args.height, args.height, device=device)
    inp = torch.rand(1, 3, args.height, args.height, device=device) * 2 - 1
    plain.encoder, model.encoder = Given(features), Given(features)
    side = args.height * args.scale
    coord = make_coord((side, side)).to(device)[None]
    asked = inp, coord, torch.full_like(coord, 2 / side)
    chunk = side**2 if name in AT_ONCE else oracle.CHUNK
    pair = [Contender(name, partial(plain_colours, plain, *asked, chunk))]
    for low in args.precisions:
        pair.append(Contender(f"{name} {low}", partial(our_colours, model, *asked, low), low))
    return pair


def row(plain: Contender, ours: Contender, rates: dict[str, float]) -> str:
    """A line of the table."""
    times = f"{plain.median * 1e3:.0f} | {ours.median * 1e3:.0f}"
    ratios = f"{ratio(plain.seconds, ours.seconds):.2f} | "
    ratios += f"{ratio(plain.processor, ours.processor):.2f}"
    share = ours.flops / ours.median / rates[ours.precision]
    memory = " | ".join("" if c.peak is None else f"{c.peak / 1e6:.0f}" for c in (plain, ours))
    difference = (ours.result - plain.result).abs().max().item()
    return f"| {ours.name} | {times} | {ratios} | {share:.0%} | {memory} | {difference:.1e} |"


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--models", nargs="+", default=NAMES, choices=NAMES)
    options.add_argument("--height", type=int, default=96, help="of the features, square")
    options.add_argument("--scale", type=int, default=4)
    options.set_defaults(rounds=3, precisions=["fp32"])
    args = options.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    side, rates = args.height * args.scale, {}
    print(f"{side}x{side} pixels from features of {args.height}x{args.height}\n")
    print(
        "| decoder | plain ms | ms | ratio | of processor time | share of the matrix-multiply rate",
        end="",
    )
    print(" | plain MB | MB | difference |\n| --- " + "| ---: " * 8 + "|")
    for name in args.models:
        plain, *ours = contenders(name, args, device)
        rates = measure([plain, *ours], args.rounds, device)
        for one in ours:
            print(row(plain, one, rates), flush=True)
        del plain, ours
        gc.collect()
    print(f"\n{machine(device, rates)}")


if __name__ == "__main__":
    main()
