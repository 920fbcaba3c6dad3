"""The sizes of CelebA-HQ that the configurations use, from the 1024x1024 files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from datasets.images import read_rgb, write_rgb
from datasets.resize import resize_pil
from engine.runtime import say
from scripts.preparation.archives import Entry, entries, save
from scripts.preparation.pictures import picture_names
from utils import DataError, natural_key

PICTURES = 30_000
ORIGINAL_SIZE = 1024
LARGEST = 256  # made from the originals; the others are made from it
SIZES = (256, 128, 64, 32)
BATCH = 64  # pictures taken out of an archive at a time
TRAIN_SHARE = (5, 6)  # of the pictures in natural order of their names, where there is no split


def prepare_celebahq(
    folder: Path, original: Path | None, split_file: Path | None, workers: int
) -> bool:
    """Make folder/{256,128,64,32} and folder/split.json; False where all was there already.

    Args:
        original: archive or folder of the 1024x1024 files; may hold a split.json.
        split_file: the user's split, instead of that one.
        workers: pictures resized at once.

    Raises:
        DataError: nothing to make them from, a picture of another size, two of one name, or a
            split that names pictures that are not there.
    """
    if _is_complete(folder):
        say(f"{folder}: {len(picture_names(folder / str(LARGEST)))} pictures, already there")
        return False
    if original is None:
        raise DataError(
            f"{folder}: not complete, and CelebA-HQ has no address to fetch it from; "
            "name the folder or archive of its 1024x1024 files with --archive"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".unpacking-", dir=folder) as staging:
        names, split = _make_sizes(folder, original, Path(staging), workers)
        if not names:
            raise DataError(f"{original}: no pictures in it")
        _write_split(folder, names, split_file or split)
    say(f"{folder}: {len(names)} pictures of {', '.join(map(str, SIZES))} pixels, and split.json")
    if len(names) != PICTURES:
        say(f"{folder}: these are not all of CelebA-HQ, which has {PICTURES}")
    return True


def make_sizes(pixels: np.ndarray) -> dict[int, np.ndarray]:
    """A 1024x1024 picture (uint8, (1024, 1024, 3)) at each size: 256 from it, the rest from 256."""
    largest = resize_pil(pixels, (LARGEST, LARGEST))
    return {size: resize_pil(largest, (size, size)) for size in SIZES}


def _make_sizes(
    folder: Path, original: Path, staging: Path, workers: int
) -> tuple[list[str], Path | None]:
    """Names of all pictures, as PNG, and the split file that came with them."""
    names: list[str] = []
    split: Path | None = None

    def pictures() -> Iterator[tuple[str, Path]]:
        nonlocal split
        seen: set[str] = set()
        for entry in entries(original):
            if entry.path.name == "split.json":
                split = staging / "split.json"
                save(entry, split)
            if not entry.is_picture:
                continue
            name = entry.path.stem + ".png"
            if name in seen:
                raise DataError(f"{original}: two pictures named {entry.path.stem}")
            seen.add(name)
            names.append(name)
            if not all((folder / str(size) / name).is_file() for size in SIZES):
                yield name, _on_disk(entry, staging)

    waiting = pictures()
    for size in SIZES:
        (folder / str(size)).mkdir(exist_ok=True)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(desc="resizing", unit="img", disable=None) as bar,
    ):
        while batch := list(islice(waiting, BATCH)):
            for _ in pool.map(lambda item: _make_one(folder, *item), batch):
                bar.update()
            for _, path in batch:
                if path.parent == staging:
                    path.unlink()
    return names, split


def _on_disk(entry: Entry, staging: Path) -> Path:
    if entry.file is not None:
        return entry.file
    path = staging / entry.path.name
    save(entry, path)
    return path


def _make_one(folder: Path, name: str, path: Path) -> None:
    pixels = read_rgb(path)
    if pixels.shape[:2] != (ORIGINAL_SIZE, ORIGINAL_SIZE):
        height, width = pixels.shape[:2]
        raise DataError(
            f"{path.name}: {height}x{width} pixels; the files of {ORIGINAL_SIZE}x{ORIGINAL_SIZE} "
            "are needed"
        )
    for size, small in make_sizes(pixels).items():
        write_rgb(folder / str(size) / name, small)


def _is_complete(folder: Path) -> bool:
    """Whether there is a split whose every picture is there in every size."""
    if not (folder / "split.json").is_file():
        return False
    wanted = set(_names_in(_read_split(folder / "split.json")))
    return bool(wanted) and all(wanted <= set(picture_names(folder / str(size))) for size in SIZES)


def _write_split(folder: Path, names: Sequence[str], brought: Path | None) -> None:
    """Keep the split in place, or the one brought along (with the PNG names), or make one."""
    target = folder / "split.json"
    if target.is_file():
        split = _read_split(target)
    elif brought is not None:
        split = {
            key: [Path(name).stem + ".png" for name in part]
            for key, part in _read_split(brought).items()
        }
    else:
        ordered = sorted(names, key=natural_key)
        border = max(1, len(ordered) * TRAIN_SHARE[0] // TRAIN_SHARE[1])
        split = {"train": ordered[:border], "val": ordered[border:]}
        say(
            f"{target}: made; the first {TRAIN_SHARE[0]}/{TRAIN_SHARE[1]} in natural order of "
            "names train, the rest validate"
        )
    absent = sorted(set(_names_in(split)) - set(names))
    if absent:
        raise DataError(f"split.json: names {len(absent)} pictures that are not there: {absent[0]}")
    target.write_text(json.dumps(split, indent=0))


def _read_split(path: Path) -> dict[str, list[str]]:
    """A split file's object of lists of file names."""
    try:
        split = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    lists = isinstance(split, dict) and all(
        isinstance(part, list) and all(isinstance(name, str) for name in part)
        for part in split.values()
    )
    if not lists or not {"train", "val"} <= set(split):
        raise DataError(f"{path}: an object with lists of file names, train and val, is needed")
    return split


def _names_in(split: dict[str, list[str]]) -> list[str]:
    return [name for part in split.values() for name in part]
