"""Decoding: 512x512 pixels from features of 128x128, EDSR-baseline-LIIF.

    python benchmarks/decode.py [--height 128] [--scale 4] [--rounds 7] [--compile]

From the encoder's features to colours. The plain computation is that of the paper, in fp32 and in
chunks of 30000 queries (tests/oracle.py); all take turns within each round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from benchmarks.common import Contender, machine, measure, parser, table
from engine.runtime import PRECISIONS
from tests.oracle import CHUNK, plain
from utils import make_coord

LIIF: dict[str, Any] = {
    "name": "liif",
    "args": {
        "encoder_spec": {"name": "edsr-baseline", "args": {"no_upsampling": True}},
        "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [256] * 4}},
    },
}
METASR: dict[str, Any] = {
    "name": "metasr",
    "args": {"encoder_spec": LIIF["args"]["encoder_spec"]},
}


def chunked(
    query: Callable[[Tensor, Tensor, Tensor], Tensor], feat: Tensor, coord: Tensor, chunk: int
) -> Tensor:
    """Colours (1, Q, 3) of a whole grid, its cell that of a square picture."""
    cell = torch.full_like(coord, 2 / coord.shape[1] ** 0.5)
    parts = zip(coord.split(chunk, 1), cell.split(chunk, 1), strict=True)
    return torch.cat([query(feat, *part) for part in parts], 1)


def contenders(args: Any, device: torch.device) -> list[Contender]:
    spec = METASR if args.model == "metasr" else LIIF
    torch.manual_seed(0)
    oracle = plain(spec).to(device).eval()
    model = models.make({**spec, "sd": oracle.state_dict()}, load_sd=True).to(device).eval()
    features = torch.randn(1, 64, args.height, args.height, device=device)
    coord = make_coord((args.height * args.scale,) * 2).to(device)[None]
    expected = chunked(oracle.query_rgb, features, coord, CHUNK)

    def ours(name: str, precision: str, network: nn.Module) -> Contender:
        def run() -> Tensor:
            low = precision != "fp32"
            with torch.autocast(device.type, PRECISIONS[precision], enabled=low):
                feat = network.project(features)
                return chunked(network.query_rgb, feat, coord, model.query_chunk)

        return Contender(name, run, precision, (run() - expected).abs().max().item())

    made = [Contender("plain fp32", lambda: chunked(oracle.query_rgb, features, coord, CHUNK))]
    for precision in args.precisions:
        made.append(ours(f"ours {precision}", precision, model))
    if args.compile:
        compiled = models.make({**spec, "sd": oracle.state_dict()}, load_sd=True).to(device).eval()
        compiled.query_rgb = torch.compile(compiled.query_rgb)
        for precision in args.precisions:
            made.append(ours(f"ours {precision}, compiled", precision, compiled))
    return made


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--height", type=int, default=128, help="of the features, square")
    options.add_argument("--scale", type=int, default=4)
    options.add_argument("--model", choices=["liif", "metasr"], default="liif")
    args = options.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    with torch.no_grad():
        all_of_them = contenders(args, device)
        rates = measure(all_of_them, args.rounds, device)
    side = args.height * args.scale
    print(f"{args.model}, {side}x{side} from {args.height}x{args.height}; {machine(device, rates)}")
    print()
    print(table(all_of_them, rates))
    print()
    for one in all_of_them:
        print(f"{one.name}: {side * side / one.median / 1e6:.3g} million pixels per second")


if __name__ == "__main__":
    main()
