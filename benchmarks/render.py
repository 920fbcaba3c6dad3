"""Whole pictures, from a photograph's pixels to the result's: ours beside the plain version.

    python benchmarks/render.py [--size 128] [--scale 4] [--rounds 7] [--device cpu]
    python benchmarks/render.py --windows     what larger and smaller windows cost and bring
    python benchmarks/render.py --compact     EDSR-baseline-LIIF beside the bundled compact LIIF

Plain is `tests/oracle.py`: the photograph encoded in one piece, queries in chunks of 30000.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from benchmarks import common
from benchmarks.decode import LIIF
from engine.normalisation import PAPER, denormalise
from engine.render import ContinuousImage, tiling
from engine.render.features import cut
from engine.render.pixels import to_network, to_pixels
from engine.render.tiling import Grid
from engine.weights.pretrained import load_model
from models.protocol import ImplicitModel
from tests import oracle
from utils import make_coord

WINDOWS = [1 << power for power in (14, 15, 16, 17, 18, 19)]  # in input pixels

Render = Callable[[], np.ndarray]


def make_pixels(size: int) -> np.ndarray:
    """A photograph's worth of pixels; what they show takes no part in the time."""
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def plain_renderer(size: int, scale: float, device: torch.device) -> Render:
    """The plain model on a photograph of size x size: uint8 (length, length, 3)."""
    torch.manual_seed(0)
    model = oracle.plain(LIIF).to(device).eval()
    pixels, length = make_pixels(size), round(size * scale)

    def render() -> np.ndarray:
        coord = make_coord((length, length))[None].to(device)
        cell = torch.full_like(coord, 2 / length)
        colours = oracle.predict(model, to_network(pixels).to(device), coord, cell)
        colours = denormalise(colours, PAPER.gt).view(length, length, 3)
        return to_pixels(colours, np.dtype(np.uint8))

    return render


def our_renderer(
    model: nn.Module, size: int, scale: float, device: torch.device, precision: str
) -> Render:
    """This project's rendering of the same photograph."""
    pixels, length = make_pixels(size), round(size * scale)

    def render() -> np.ndarray:
        image = ContinuousImage.represent(
            pixels, model, device=device, precision=precision, keep_features=False
        )
        return np.concatenate([*image.bands(Grid(image.size, length, length), np.uint8)])

    return render


def compare(options: argparse.Namespace) -> None:
    """The plain version and ours; the difference is in levels of 255."""
    device, size = torch.device(options.device), (options.size, options.scale)
    torch.manual_seed(0)
    model = models.make(LIIF).to(device).eval()  # the weights that the plain one draws
    contenders = [common.Contender("plain fp32", plain_renderer(*size, device))]
    contenders += [
        common.Contender(
            f"ours {precision}", our_renderer(model, *size, device, precision), precision
        )
        for precision in options.precisions
    ]
    pictures = [np.asarray(contender.run(), int) for contender in contenders]
    for contender, picture in zip(contenders, pictures, strict=True):
        contender.error = float(np.abs(picture - pictures[0]).max())
    rates = common.measure(contenders, options.rounds, device)
    length = round(options.size * options.scale)
    print(f"EDSR-baseline-LIIF, {options.size}x{options.size} to {length}x{length}\n")
    print(common.table(contenders, rates))
    print(f"\n{common.machine(device, rates)}")


def compare_models(options: argparse.Namespace) -> None:
    """The bundled compact model beside the one it is compared with, by the same code."""
    device, size = torch.device(options.device), (options.size, options.scale)
    pair = {
        "EDSR-baseline-LIIF": models.make(LIIF).to(device).eval(),
        "compact-liif": load_model(device=device),
    }
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


def compare_windows(options: argparse.Namespace) -> None:
    """Encoding one window of each size: what it costs per pixel that is kept, and in memory."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = models.make(LIIF).to(device).eval()
    contenders, kept = [], []
    for window in WINDOWS:
        side = int(window**0.5)
        margin = model.halo + model.reach
        inner = side - 2 * margin
        if inner <= 0:
            continue
        mark = " (chosen)" if window == tiling.WINDOW else ""
        name = f"{side}x{side} for {inner}x{inner}{mark}"
        contenders.append(common.Contender(name, window_encoder(model, side, margin, device)))
        kept.append(inner**2)
    common.measure(contenders, options.rounds, device)
    print("| window | microseconds per pixel kept | peak memory MB |")
    print("| --- | ---: | ---: |")
    for contender, pixels in zip(contenders, kept, strict=True):
        memory = "" if contender.peak is None else f"{contender.peak / 1e6:.0f}"
        print(f"| {contender.name} | {contender.median / pixels * 1e6:.2f} | {memory} |")


def window_encoder(
    model: ImplicitModel, side: int, margin: int, device: torch.device
) -> Callable[[], object]:
    """Encodes side x side pixels, and projects what is left inside the margin."""
    pixels, span = make_pixels(side), (margin, side - margin)

    @torch.inference_mode()
    def encode() -> object:
        return model.project(cut(model.encode(to_network(pixels).to(device)), span, span))

    return encode


def main() -> None:
    parser = common.parser(str(__doc__))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--size", type=int, default=128, help="of the photograph: size x size")
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--windows", action="store_true", help="compare sizes of windows instead")
    parser.add_argument("--compact", action="store_true", help="compare two models instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.windows:
        compare_windows(options)
    else:
        (compare_models if options.compact else compare)(options)


if __name__ == "__main__":
    main()
