"""BSDS500 as the configurations use it: photographs to train with and held out, B100, squares."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets.files import found_path, make_folder
from datasets.images import read_rgb, read_size, write_rgb
from datasets.listing import pictures_in
from datasets.resize import resize_pil
from datasets.transforms import Box
from engine.runtime import say
from scripts.preparation.archives import place
from scripts.preparation.low_resolution import make_low_resolution
from scripts.preparation.sources import GIB, Folder, Source, find_owned, prepare
from utils import DataError

BSDS500 = Source(
    "BSR_bsds500.tgz",
    "",  # its authors' address does not last
    (Folder("bsds500/train", 200), Folder("bsds500/test", 200), Folder("bsds500/val", 100)),
    GIB,
)
# Where the configurations look for a part's pictures; those of `val` are the benchmark B100.
PLACES = {
    "train": "bsds500/images",
    "test": "bsds500/images",
    "val": "benchmark/B100/HR",
}
SCALES = (2, 3, 4)  # of B100's low-resolution pictures
SPLIT = Path("configs/train-bsds500/split-photo.json")  # its `val` is what studies test with
HIGH, LOW = 96, 24  # sides of the squares that photographs are cut into, and of their inputs


def prepare_bsds500(root: Path, archive: Path | None, workers: int) -> bool:
    """Fill bsds500 and benchmark/B100 below root; False where all was there already.

    Args:
        archive: the user's copy, an archive or a folder that holds the folders train, test, val.
        workers: pictures resized at once.

    Raises:
        DataError: nothing to make them from, or not the pictures that should be in it.
    """
    if archive is not None:  # a folder that holds the archive, or one of any name
        archive = find_owned(BSDS500, [archive]) or archive
    elif any(len(pictures_in(root / part.path)) != part.count for part in BSDS500.folders):
        raise DataError(
            f"{root / 'bsds500'}: not complete, and BSDS500 has no stable address to fetch it "
            "from; name its archive or folder with --archive"
        )
    made = prepare(BSDS500, root, archive)
    for part, folder in PLACES.items():
        source = root / "bsds500" / part
        made |= fill(root / folder, source, pictures_in(source))
    images = root / PLACES["train"]
    held = json.loads(found_path(SPLIT).read_text(encoding="utf-8"))["val"]
    made |= fill(root / "bsds500/held", images, set(held) & set(pictures_in(images)))
    high = root / PLACES["val"]
    made |= make_low_resolution(high, high.parent / "LR_bicubic", SCALES, workers) > 0
    made |= make_squares(images, root / "bsds500/squares")
    return made


def fill(target: Path, source: Path, names: Iterable[str]) -> bool:
    """Put those pictures into a folder that it lacks; False where it has all."""
    missing = [name for name in names if not (target / name).is_file()]
    for name in missing:
        place(source / name, target / name, target)
    return bool(missing)


def make_squares(images: Path, folder: Path) -> bool:
    """Cut photographs into squares, and resize each to the input's size; False where all are there.

    They are to photographs what the sizes of CelebA-HQ are to faces: square pairs, as
    `sr-implicit-uniform-varied` needs. PNG, resized by 8-bit PIL bicubic.
    """
    folders = {side: folder / str(side) for side in (HIGH, LOW)}
    for target in folders.values():
        make_folder(target)
    count = made = 0
    for name in pictures_in(images):
        pixels = None
        for number, box in enumerate(squares(*read_size(images / name))):
            count += 1
            targets = {s: f / f"{Path(name).stem}-{number:02d}.png" for s, f in folders.items()}
            if all(target.is_file() for target in targets.values()):
                continue
            pixels = read_rgb(images / name) if pixels is None else pixels
            square = pixels[box.top : box.top + HIGH, box.left : box.left + HIGH]
            write_rgb(targets[HIGH], square)
            write_rgb(targets[LOW], resize_pil(square, (LOW, LOW)))
            made += 1
    say(f"{folder}: {count} squares of {HIGH} and {LOW} pixels, {made} of them made")
    return made > 0


def squares(height: int, width: int) -> Iterator[Box]:
    """Squares side by side from the top left; what is left over at the right and below is not used.

    15 of a photograph of 321x481.
    """
    for top in range(0, height - HIGH + 1, HIGH):
        for left in range(0, width - HIGH + 1, HIGH):
            yield Box(top, left, HIGH, HIGH)
