"""LR_bicubic/XS for any folder of HR pictures, as the benchmarks' own were made."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.degrade import Degrade, damage_of
from datasets.files import NAME_BYTES, make_folder, write_whole
from datasets.images import read_rgb, read_size, write_rgb
from datasets.listing import list_pictures
from datasets.resize import resize_matlab
from engine.runtime import say
from engine.weights.download import file_sha256
from utils import DataError

# In each XS: by HR name, the checksum of the file that its picture was made of, and what that was
# damaged by; "" is the HR folder's path.
RECORD = ".made-from.json"


def make_low_resolution(
    hr: Path, output: Path, scales: Sequence[int], workers: int, degrade: Degrade | None = None
) -> int:
    """Write output/X{scale}/{name}x{scale}.png for each picture and scale; return how many.

    PNG, 8-bit RGB. Those that are there and still those of their HR pictures are left as they are.
    Of an HR picture that has changed they are made again; those that were not made here and are
    of another picture are told of and left.

    Args:
        degrade: what they are damaged by, the same for a picture each time.

    Raises:
        DataError: no pictures in hr, one that can't be read, two that differ in suffix alone,
            or one smaller than the scale; or output holds the pictures of another folder.
    """
    names = list_pictures(hr)
    stem, count = Counter(Path(name).stem for name in names).most_common(1)[0]
    if count > 1:
        raise DataError(f"{hr}: two pictures named {stem}")
    folders = {scale: output / f"X{scale}" for scale in scales}
    targets = {scale: target_paths(names, scale, folder) for scale, folder in folders.items()}
    records = {scale: read_record(folder / RECORD) for scale, folder in folders.items()}
    for scale, folder in folders.items():
        make_folder(folder)
        claim(folder, records[scale], hr)
    done: Counter[str] = Counter()
    strange: list[Path] = []
    try:
        with ThreadPoolExecutor(workers) as pool:
            results = pool.map(lambda name: _make_one(hr / name, targets, records, degrade), names)
            for result in tqdm(
                results, total=len(names), desc="resizing", unit="img", disable=None
            ):
                done.update(outcome for outcome, _ in result)
                strange += [target for outcome, target in result if outcome == "strange"]
    finally:
        for scale, folder in folders.items():
            if records[scale] != read_record(folder / RECORD):
                write_whole(folder / RECORD, json.dumps(records[scale], indent=0).encode())
    kept = f", {done['kept']} already there" if done["kept"] else ""
    say(f"{output}: {done['made']} pictures made{kept}")
    if strange:
        say(
            f"{output}: {len(strange)} pictures are not made from those in {hr}, the first "
            f"{strange[0]}; they are left as they are, and made when they are removed"
        )
    return done["made"]


def low_resolution(
    pixels: np.ndarray, scale: int, path: Path, degrade: Degrade | None = None
) -> np.ndarray:
    """uint8 (H, W, 3) -> (H // scale, W // scale, 3): cropped at the top left to a multiple.

    Args:
        path: the picture's file, whose name decides what its damage draws.
    """
    height, width = (side // scale for side in pixels.shape[:2])
    cropped = pixels[: height * scale, : width * scale]
    if degrade is None:
        return resize_matlab(cropped, (height, width))
    reduced = damage_of(degrade, path).apply
    return reduced(cropped, lambda large: resize_matlab(large, (height, width)))


def target_paths(names: Sequence[str], scale: int, folder: Path) -> dict[str, Path]:
    """The LR file of each HR name: with the scale at the end, unless one gets too long by it."""
    for ending in (f"x{scale}.png", ".png"):
        targets = {name: Path(name).stem + ending for name in names}
        if all(len(os.fsencode(target)) <= NAME_BYTES for target in targets.values()):
            break
    return {name: folder / target for name, target in targets.items()}


def read_record(path: Path) -> dict[str, Any]:
    """What an earlier run wrote; nothing where it was none, or the file is spoilt."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def claim(folder: Path, record: dict[str, Any], hr: Path) -> None:
    """Make a folder that of hr's pictures.

    Raises:
        DataError: it is hr itself, or that of another folder, which is still there.
    """
    here = os.path.relpath(os.path.realpath(hr), os.path.realpath(folder))
    if here == ".":
        raise DataError(f"{folder}: holds the high-resolution pictures; allowed: another --output")
    owner = record.setdefault("", here)
    if owner != here and (folder / owner).is_dir():
        owner = os.path.realpath(folder / owner)
        raise DataError(f"{folder}: holds pictures of {owner}; allowed: another --output")
    record[""] = here


def _make_one(
    path: Path,
    targets: dict[int, dict[str, Path]],
    records: dict[int, dict[str, Any]],
    degrade: Degrade | None,
) -> list[tuple[str, Path]]:
    """Write the LR files of one HR picture that are missing or of an older one.

    Returns:
        Of each scale what was done, "made", "kept" or "strange", and the LR file.
    """
    outcomes = []
    pixels: np.ndarray | None = None
    height, width = read_size(path)
    now = [file_sha256(path), *([] if degrade is None else [degrade.key])]
    for scale, record in records.items():
        if min(height, width) < scale:
            raise DataError(f"{path}: {height}x{width} pixels, too small for scale {scale}")
        target = targets[scale][path.name]
        there = _has_size(target, height // scale, width // scale)
        outcome = "kept"
        if not there or record.get(path.name) != now:
            pixels = read_rgb(path) if pixels is None else pixels
            small = low_resolution(pixels, scale, path, degrade)
            if not there or not np.array_equal(read_rgb(target), small):
                outcome = "strange" if there and path.name not in record else "made"
        if outcome == "made":
            write_rgb(target, small)
        if outcome != "strange":
            record[path.name] = now
        outcomes.append((outcome, target))
    return outcomes


def _has_size(path: Path, height: int, width: int) -> bool:
    if not path.is_file():
        return False
    try:
        return read_size(path) == (height, width)
    except DataError:
        return False
