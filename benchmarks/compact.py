"""The compact LIIF that comes along beside EDSR-baseline-LIIF: time to render a whole picture.

    python benchmarks/compact.py [--size 256] [--scale 4] [--rounds 7] [--device cpu]

The default, 256x256 to 1024x1024 pixels, is a megapixel. Both run the same code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from benchmarks import common
from benchmarks.render import SPEC, our_renderer
from engine.weights.pretrained import load_model


def main() -> None:
    parser = common.parser(str(__doc__))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--size", type=int, default=256, help="of the photograph: size x size")
    parser.add_argument("--scale", type=float, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, size = torch.device(options.device), (options.size, options.scale)
    torch.manual_seed(0)
    pair = {
        "EDSR-baseline-LIIF": models.make(SPEC).to(device).eval(),
        "compact-liif": load_model(device=device),
    }
    length = round(options.size * options.scale)
    print(f"{options.size}x{options.size} to {length}x{length}\n")
    for precision in options.precisions:
        contenders = [
            common.Contender(
                f"{name} {precision}", our_renderer(model, *size, device, precision), precision
            )
            for name, model in pair.items()
        ]
        rates = common.measure(contenders, options.rounds, device)
        print(common.table(contenders, rates))
        print(f"\n{common.machine(device, rates)}\n")


if __name__ == "__main__":
    main()
