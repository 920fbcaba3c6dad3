"""Folders of photographs, alone or in pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from torch import Tensor

from registry import AtLeast
from utils import DataError, natural_key

from .cache import open_cache
from .datasets import register
from .images import MAX_PIXELS, SUFFIXES, loader_of
from .transforms import to_picture

Cache = Literal["none", "bin", "in_memory"]
Count = Annotated[int, AtLeast(1)]

# What file managers leave behind; hidden files are passed over as well.
LITTER = ("thumbs.db", "desktop.ini")


@register("image-folder")
class ImageFolder:
    """The photographs of one folder, in the natural order of their names.

    Item i is float32 (3, H, W) in [0, 1].

    Args:
        root_path: the folder.
        split_file, split_key: a JSON file, and which of its lists of file names to use.
        first_k: use only the first k files.
        repeat: count the files so many times over.
        cache: `none` decodes each time; `in_memory` keeps uint8 pixels; `bin` keeps raw pixels in a
            file that all processes map into memory.
        max_pixels: a picture with more is refused undecoded; the limit of `images` when absent.

    Raises:
        DataError: the folder or the split file is missing, empty, not readable or makes no sense.
    """

    def __init__(
        self,
        root_path: str,
        split_file: str | None = None,
        split_key: str | None = None,
        first_k: Count | None = None,
        repeat: Count = 1,
        cache: Cache = "none",
        max_pixels: Count | None = None,
    ) -> None:
        names = file_names(Path(root_path), split_file, split_key)
        self.paths = [Path(root_path) / name for name in names][:first_k]
        self.repeat = repeat
        selected = split_file is not None or len(self.paths) < len(names)
        limit = MAX_PIXELS if max_pixels is None else max_pixels
        self.cache = open_cache(cache, Path(root_path), self.paths, selected, limit)

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        if args["split_file"] is not None and args["split_key"] is None:
            yield "split_key: missing; allowed: the name of a list in split_file"
        if args["split_key"] is not None and args["split_file"] is None:
            yield "split_file: missing; allowed: the JSON file that split_key is in"

    def __len__(self) -> int:
        return len(self.paths) * self.repeat

    def __getitem__(self, index: int) -> Tensor:
        return to_picture(self.pixels(index)[0])

    def pixels(self, index: int) -> tuple[np.ndarray]:
        """The picture, uint8 (H, W, 3), not to be written to.

        Raises:
            DataError: the file is damaged or gone.
        """
        return (self.cache.pixels(self.position(index)),)

    def sizes(self, index: int) -> tuple[tuple[int, int]]:
        """(height, width) of the picture. Raises as `pixels`."""
        return (self.cache.size(self.position(index)),)

    def names(self, index: int) -> tuple[str]:
        """The file."""
        return (str(self.paths[self.position(index)]),)

    def position(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index % len(self.paths)


@register("paired-image-folders")
class PairedImageFolders:
    """Pairs from two folders, by the natural order of names; item i is a tuple (1st, 2nd).

    Args:
        root_path_1: low resolution. A scale that ends all its names ("babyx2") is not sorted by.
        root_path_2: high resolution.
        split_file, split_key, first_k, repeat, cache, max_pixels: of both, as for one folder.

    Raises:
        DataError: as for one folder; or the folders hold different numbers of files.
    """

    def __init__(
        self,
        root_path_1: str,
        root_path_2: str,
        split_file: str | None = None,
        split_key: str | None = None,
        first_k: Count | None = None,
        repeat: Count = 1,
        cache: Cache = "none",
        max_pixels: Count | None = None,
    ) -> None:
        counts = [
            len(file_names(Path(p), split_file, split_key)) for p in (root_path_1, root_path_2)
        ]
        if counts[0] != counts[1]:
            raise DataError(
                f"{root_path_1} has {counts[0]} images and {root_path_2} has {counts[1]}; "
                "pairs need as many in both"
            )
        self.folders = tuple(
            ImageFolder(path, split_file, split_key, first_k, repeat, cache, max_pixels)
            for path in (root_path_1, root_path_2)
        )

    check_args = staticmethod(ImageFolder.check_args)

    def __len__(self) -> int:
        return len(self.folders[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.folders[0][index], self.folders[1][index]

    def pixels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Both pictures, uint8 (H, W, 3), not to be written to. Raises DataError."""
        return self.folders[0].pixels(index) + self.folders[1].pixels(index)

    def sizes(self, index: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of both pictures. Raises DataError."""
        return self.folders[0].sizes(index) + self.folders[1].sizes(index)

    def names(self, index: int) -> tuple[str, str]:
        """Both files."""
        return self.folders[0].names(index) + self.folders[1].names(index)


def file_names(folder: Path, split_file: str | None, split_key: str | None) -> list[str]:
    """Names of a folder's images in natural order, or those that a split file lists."""
    present = list_images(folder)
    if split_file is None:
        return sort_names(present)
    listed = read_split(Path(split_file), split_key)
    missing = sorted(set(listed) - set(present))
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of the {len(listed)} files that {split_file} lists as "
            f"{split_key!r} are missing, the first {missing[0]!r}"
        )
    return sort_names(listed)


def list_images(folder: Path) -> list[str]:
    """Names of a folder's images, in no order; hidden files and folders are passed over."""
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: a file, not a folder")
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        folders = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise DataError(f"{folder}: {(error.strerror or str(error)).lower()}") from None
    names = [
        entry.name
        for entry in entries
        if entry.name not in folders and entry.name.lower() not in LITTER
    ]
    if not names:
        hint = f", only folders ({', '.join(sorted(folders)[:4])})" if folders else ""
        raise DataError(f"{folder}: no images{hint}")
    for name in names:
        if not name.lower().endswith(SUFFIXES):
            check_is_image(folder / name)
    return names


def check_is_image(path: Path) -> None:
    """Refuse a file with a strange suffix unless it starts as an image does."""
    try:
        with path.open("rb") as file:
            known = loader_of(file.read(16))
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if known is None:
        raise DataError(f"{path}: no image; a folder of photographs must hold nothing else")


def read_split(path: Path, key: str | None) -> list[str]:
    """The file names that a split file lists under a key."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict) or key not in content:
        has = ", ".join(map(repr, list(content)[:8])) if isinstance(content, dict) else "no keys"
        raise DataError(f"{path}: no key {key!r}; it has {has or 'no keys'}")
    names = content[key]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise DataError(f"{path}: {key!r} is no list of file names")
    for name in names:
        if name != Path(name).name or name in ("", "..", "."):
            raise DataError(f"{path}: {name!r} is no plain file name")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: {key!r} lists a file twice")
    return names


def sort_names(names: list[str]) -> list[str]:
    """Natural order, without the scale where it ends every name: "ax2", "abx2" as "a", "ab"."""
    stems = [Path(name).stem for name in names]
    endings = {match.group() if (match := re.search(r"x[0-9.]+$", s)) else "" for s in stems}
    cut = len(endings.pop()) if len(endings) == 1 else 0
    keys = {
        name: (natural_key(stem[: len(stem) - cut]), name)
        for name, stem in zip(names, stems, strict=True)
    }
    return sorted(names, key=keys.__getitem__)
