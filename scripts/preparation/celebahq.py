"""The sizes of CelebA-HQ that the configurations use, from the 1024x1024 files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from datasets.image_folder import load_split
from datasets.images import read_rgb, write_rgb
from datasets.listing import pictures_in
from datasets.resize import resize_pil
from engine.runtime import say
from scripts.preparation.archives import entries, staging_folder
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
        say(f"{folder}: {len(pictures_in(folder / str(LARGEST)))} pictures, already there")
        return False
    if original is None:
        raise DataError(
            f"{folder}: not complete, and CelebA-HQ has no address to fetch it from; "
            "name the folder or archive of its 1024x1024 files with --archive"
        )
    for size in SIZES:
        (folder / str(size)).mkdir(parents=True, exist_ok=True)
    with staging_folder(folder / ".unpacking") as staging:
        names, split = _make_sizes(folder, original, staging, workers)
        if not names:
            raise DataError(f"{original}: no pictures in it")
        _write_split(folder, names, split_file or split)
    say(f"{folder}: {len(names)} pictures of {', '.join(map(str, SIZES))} pixels, and split.json")
    if len(names) != PICTURES:
        say(f"{folder}: these are not all of CelebA-HQ, which has {PICTURES}")
    return True


def _make_sizes(
    folder: Path, original: Path, staging: Path, workers: int
) -> tuple[list[str], Path | None]:
    """Names of all pictures, as PNG, and the split file that came with them."""
    made: set[str] = set()
    split: Path | None = None
    batch: list[tuple[str, Path]] = []

    def resize_batch() -> None:
        for path in pool.map(lambda item: _make_one(folder, *item), batch):
            bar.update()
            if path.is_relative_to(staging):
                path.unlink()
        batch.clear()

    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(desc="resizing", unit="img", disable=None) as bar,
    ):
        for entry in entries(original, staging):
            if entry.path.name == "split.json":
                split = entry.fetch()
            if not entry.is_picture:
                continue
            name = entry.path.stem + ".png"
            if name in made:
                raise DataError(f"{original}: two pictures named {entry.path.stem}")
            made.add(name)
            if not all((folder / str(size) / name).is_file() for size in SIZES):
                batch.append((name, entry.fetch()))
            if len(batch) == BATCH:
                resize_batch()
        resize_batch()
    return sorted(made, key=natural_key), split


def _make_one(folder: Path, name: str, path: Path) -> Path:
    """Write a 1024x1024 picture at each size: 256 from it, the rest from 256; return its path."""
    pixels = read_rgb(path)
    height, width = pixels.shape[:2]
    if (height, width) != (ORIGINAL_SIZE, ORIGINAL_SIZE):
        raise DataError(
            f"{path.name}: {height}x{width} pixels; the files of {ORIGINAL_SIZE}x{ORIGINAL_SIZE} "
            "are needed"
        )
    largest = resize_pil(pixels, (LARGEST, LARGEST))
    for size in SIZES:
        write_rgb(folder / str(size) / name, resize_pil(largest, (size, size)))
    return path


def _is_complete(folder: Path) -> bool:
    """Whether there is a split whose every picture is there in every size."""
    if not (folder / "split.json").is_file():
        return False
    wanted = {name for part in _read_split(folder / "split.json").values() for name in part}
    return bool(wanted) and all(wanted <= set(pictures_in(folder / str(size))) for size in SIZES)


def _write_split(folder: Path, names: Sequence[str], brought: Path | None) -> None:
    """Keep the split in place, or the one brought along (with the PNG names), or make one.

    Args:
        names: of all pictures, in natural order.
    """
    target = folder / "split.json"
    if target.is_file():
        split = _read_split(target)
    elif brought is not None:
        split = {
            key: [Path(name).stem + ".png" for name in part]
            for key, part in _read_split(brought).items()
        }
    else:
        border = max(1, len(names) * TRAIN_SHARE[0] // TRAIN_SHARE[1])
        split = {"train": list(names[:border]), "val": list(names[border:])}
        say(
            f"{target}: made; the first {TRAIN_SHARE[0]}/{TRAIN_SHARE[1]} in natural order of "
            "names train, the rest validate"
        )
    absent = sorted({name for part in split.values() for name in part} - set(names))
    if absent:
        raise DataError(f"split.json: names {len(absent)} pictures that are not there: {absent[0]}")
    target.write_text(json.dumps(split, indent=0))


def _read_split(path: Path) -> dict[str, list[str]]:
    """A split file's object of lists of file names."""
    split = load_split(path)
    lists = all(
        isinstance(part, list) and all(isinstance(name, str) for name in part)
        for part in split.values()
    )
    if not lists or not {"train", "val"} <= set(split):
        raise DataError(f"{path}: an object with lists of file names, train and val, is needed")
    return split
