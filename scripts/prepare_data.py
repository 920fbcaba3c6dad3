"""Put data where the configurations expect it.

    python scripts/prepare_data.py sample                       scikit-image's photographs, offline
    python scripts/prepare_data.py div2k [--archive PATH ...]   DIV2K, HR and bicubic LR
    python scripts/prepare_data.py benchmark [--archive PATH]   Set5, Set14, B100, Urban100
    python scripts/prepare_data.py celebahq --archive PATH      256, 128, 64, 32 from the 1024 files
    python scripts/prepare_data.py bsds500 --archive PATH       training pictures, B100, squares
    python scripts/prepare_data.py lr --hr FOLDER --scales 2 3  LR_bicubic/XS for any HR folder

Downloads go on where they broke off. What is there already is left alone, so a second run does
nothing. Archives and folders that are on the disk already are used with --archive.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import liif.packages  # noqa: F401  (before all that may be missing)

# isort: split
from datasets.known import low_folder
from datasets.listing import user_path
from engine.config_files import read_degrade
from engine.runtime import Parser, run_script, say
from scripts.preparation.bsds500 import prepare_bsds500
from scripts.preparation.celebahq import prepare_celebahq
from scripts.preparation.low_resolution import make_low_resolution
from scripts.preparation.sample import prepare_sample
from scripts.preparation.sources import (
    BENCHMARK,
    DIV2K,
    DIV2K_DEFAULT,
    find_owned,
    held_by,
    prepare,
)
from utils import ConfigError, DataError


def parse_arguments(given: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="WHAT")
    root = Parser(add_help=False)
    root.add_argument(
        "--root", type=user_path, default="load", help="data folder of the configurations: load"
    )
    mirror = Parser(add_help=False)
    mirror.add_argument("--mirror", help="address of a folder with the same archives")
    workers = Parser(add_help=False)
    workers.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), help="pictures at once"
    )
    commands.add_parser("sample", parents=[root], help="a few photographs, offline")
    add = commands.add_parser(
        "div2k", parents=[root, mirror], help="HR and bicubic LR"
    ).add_argument
    add("--archive", type=user_path, nargs="+", default=[], help="archives or folders on this disk")
    add("--parts", nargs="+", choices=DIV2K, default=DIV2K_DEFAULT, help="only these parts")
    names = "Set5, Set14, B100 and Urban100"
    add = commands.add_parser("benchmark", parents=[root, mirror], help=names).add_argument
    add("--archive", type=user_path, help="archive or folder on this disk")
    add = commands.add_parser("celebahq", parents=[root, workers], help="its sizes").add_argument
    add("--archive", type=user_path, help="archive or folder of the 1024x1024 files")
    add("--split", type=user_path, help="a split.json to keep")
    add = commands.add_parser(
        "bsds500", parents=[root, workers], help="training pictures, B100, squares"
    ).add_argument
    add("--archive", type=user_path, help="archive or folder with train, test and val")
    add = commands.add_parser("lr", parents=[workers], help="LR for any HR folder").add_argument
    add("--hr", type=user_path, required=True, help="folder of HR pictures")
    add("--scales", type=int, nargs="+", required=True, help="whole numbers above 1")
    add("--degrade", type=user_path, metavar="FILE", help="YAML list of steps that damage them")
    add("--output", type=user_path, help="LR_bicubic beside HR, FOLDER-LR_bicubic beside FOLDER")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    arguments = parse_arguments(given)
    if getattr(arguments, "workers", 1) < 1:
        raise ConfigError(f"--workers: {arguments.workers} given; allowed: 1 or more")
    for scale in getattr(arguments, "scales", []):
        if scale < 2:
            raise ConfigError(f"--scales: {scale} given; allowed: whole numbers above 1")
    if arguments.command == "sample":
        made = prepare_sample(arguments.root / "sample")
    elif arguments.command == "div2k":
        made = prepare_div2k(arguments)
    elif arguments.command == "benchmark":
        archive = arguments.archive
        if archive is not None:  # a folder that holds benchmark.tar, or one of any name
            archive = find_owned(BENCHMARK, [archive]) or archive
        source = held_by(BENCHMARK, archive) if archive and archive.is_dir() else BENCHMARK
        made = prepare(source, arguments.root, archive, arguments.mirror)
    elif arguments.command == "celebahq":
        folder = arguments.root / "celebAHQ"
        made = prepare_celebahq(folder, arguments.archive, arguments.split, arguments.workers)
    elif arguments.command == "bsds500":
        made = prepare_bsds500(arguments.root, arguments.archive, arguments.workers)
    else:
        made = prepare_low_resolution(arguments)
    say("done" if made else "nothing to do")


def prepare_low_resolution(arguments: argparse.Namespace) -> bool:
    """LR of any folder; damaged ones never in the place of those that are not."""
    degrade = None
    if arguments.degrade is not None:
        if arguments.output is None:
            raise ConfigError(
                "--degrade: given without --output; allowed: with a folder of its own"
            )
        degrade = read_degrade(arguments.degrade)
    output = arguments.output or low_folder(arguments.hr)
    scales = sorted(set(arguments.scales))
    return make_low_resolution(arguments.hr, output, scales, arguments.workers, degrade) > 0


def prepare_div2k(arguments: argparse.Namespace) -> bool:
    """The wanted parts; archives that belong to none of them are refused rather than ignored."""
    for path in arguments.archive:
        if not path.exists():
            raise DataError(f"--archive: {path}: no such file or folder")
        if not any(find_owned(source, [path]) for source in DIV2K.values()):
            names = ", ".join(source.name for source in DIV2K.values())
            raise ConfigError(
                f"--archive: {path} given; allowed: {names}, folders of these names, "
                "or a folder that holds them"
            )
    made = False
    for part in arguments.parts:
        source = DIV2K[part]
        archive = find_owned(source, arguments.archive)
        made |= prepare(source, arguments.root, archive, arguments.mirror)
    return made


if __name__ == "__main__":
    run_script(main)
