"""Verify, strip, average or convert checkpoints, named as for --model.

python -m engine.weights verify FILE
python -m engine.weights strip FILE OUTPUT
python -m engine.weights average FILE FILE ... OUTPUT
python -m engine.weights convert FILE OUTPUT
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from engine.imports import add_import_option, import_all
from engine.runtime import Parser, run_script
from engine.weights.checkpoint import load_checkpoint, model_of, save_checkpoint
from engine.weights.convert import converted
from engine.weights.pretrained import find_weights
from utils import DataError


def summary(path: str) -> list[str]:
    """Lines that say what a checkpoint holds; DataError where its model can't be made."""
    checkpoint = load_checkpoint(path)
    model_of(checkpoint, path)
    name, weights = checkpoint["model"]["name"], checkpoint["model"]["sd"]
    count = sum(value.numel() for value in weights.values())
    epoch = f"epoch: {checkpoint.get('epoch')} finished"
    if "position" in checkpoint:
        epoch += f", {checkpoint['position']} steps of the next"
    optimizer = (checkpoint.get("optimizer") or {}).get("name")
    known = {"optimizer": optimizer, **{key: checkpoint.get(key) for key in ("best", "versions")}}
    return [
        f"model: {name}, {len(weights)} tensors, {count} numbers",
        epoch,
        *(f"{key}: {value}" for key, value in known.items() if value is not None),
        f"keys: {', '.join(checkpoint)}",
        f"checksum: {checkpoint.get('checksum', 'none recorded')}",
    ]


def stripped(path: str) -> dict[str, Any]:
    """A checkpoint in the published layout with the weights that predict, and little else.

    These are the averaged ones (`ema`) where there are any; what only training needs goes.

    Raises:
        DataError: no readable checkpoint, or weights that don't fit its own model.
    """
    checkpoint = load_checkpoint(path)
    optimizer = checkpoint.get("optimizer") or {}
    kept: dict[str, Any] = {
        key: checkpoint[key] for key in ("config", "step", "versions") if key in checkpoint
    }
    return {
        "model": {**checkpoint["model"], "sd": model_of(checkpoint, path).state_dict()},
        "optimizer": {"name": optimizer.get("name"), "args": optimizer.get("args"), "sd": {}},
        "epoch": checkpoint.get("epoch", 0),
        **kept,
    }


def averaged(paths: Sequence[str]) -> dict[str, Any]:
    """`stripped` of the last of several checkpoints, with the mean of all their weights.

    The mean over the last epochs of a run is often better than each of them.

    Raises:
        DataError: a file that is no checkpoint, or one of another model.
    """
    parts = [stripped(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if any(part["model"][key] != parts[-1]["model"][key] for key in ("name", "args")):
            raise DataError(f"{path}: of another model than {paths[-1]}")
    states = [part["model"]["sd"] for part in parts]
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        for name, value in states[-1].items()
    }
    return {**parts[-1], "model": {**parts[-1]["model"], "sd": mean}}


def main(given: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m engine.weights", description="Check and convert checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="check that a file is whole; say what it holds")
    verify.add_argument("files", nargs=1, metavar="file", help="a checkpoint, or a name")
    strip = commands.add_parser("strip", help="keep what predicts: the (averaged) weights")
    strip.add_argument("files", nargs=1, metavar="file", help="a checkpoint, or a name")
    strip.add_argument("output", help="the smaller checkpoint")
    average = commands.add_parser("average", help="take the mean of several checkpoints' weights")
    average.add_argument("files", nargs="+", metavar="file", help="checkpoints of one model")
    average.add_argument("output", help="the checkpoint with their mean")
    convert = commands.add_parser("convert", help="take over CiaoSR's files and mmagic's of LIIF")
    convert.add_argument("files", nargs=1, metavar="file", help="a checkpoint in mmagic's names")
    convert.add_argument("output", help="the checkpoint in this project's")
    for command in (verify, strip, average, convert):
        add_import_option(command)
    options = parser.parse_args(given)
    import_all(options.imports)
    files = [str(find_weights(name, "file")) for name in options.files]
    if options.command == "strip":
        save_checkpoint(options.output, stripped(files[0]))
    elif options.command == "average":
        save_checkpoint(options.output, averaged(files))
    elif options.command == "convert":
        save_checkpoint(options.output, converted(files[0]))
    result = files[0] if options.command == "verify" else options.output
    print(*summary(result), f"{result}: whole", sep="\n")


if __name__ == "__main__":
    run_script(main)
