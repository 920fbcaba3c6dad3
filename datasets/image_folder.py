"""Folders of photographs, alone or in pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from torch import Tensor

from registry import AtLeast
from utils import DataError

from .cache import open_cache
from .datasets import register
from .files import file_errors, found_path
from .images import MAX_PIXELS
from .listing import list_pictures, match_pairs, sort_names, user_path
from .transforms import to_picture

Cache = Literal["none", "bin", "in_memory"]
Count = Annotated[int, AtLeast(1)]


class Folders:
    """Folders side by side, with as many pictures used of each: what both data sets share.

    Args:
        pictures: all files of each folder that may be used, in order.
        selected: they are not all that a folder itself holds, or in another order.
        first_k, repeat, cache, max_pixels: as for `ImageFolder`.
        root: the folder that pictures are in, where they may be in its subfolders.
    """

    def __init__(
        self,
        pictures: Sequence[Sequence[Path]],
        selected: bool = False,
        first_k: int | None = None,
        repeat: int = 1,
        cache: Cache = "none",
        max_pixels: int | None = None,
        root: Path | None = None,
    ) -> None:
        self.paths = [list(paths[:first_k]) for paths in pictures]
        self.repeat = repeat
        selected = selected or len(self.paths[0]) < len(pictures[0])
        limit = MAX_PIXELS if max_pixels is None else max_pixels
        self.caches = [
            open_cache(cache, root or paths[0].parent, paths, selected, limit)
            for paths in self.paths
        ]

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        if args["split_file"] is not None and args["split_key"] is None:
            yield "split_key: missing; allowed: the name of a list in split_file"
        if args["split_key"] is not None and args["split_file"] is None:
            yield "split_file: missing; allowed: the JSON file that split_key is in"

    def __len__(self) -> int:
        return len(self.paths[0]) * self.repeat

    def pixels(self, index: int) -> tuple[np.ndarray, ...]:
        """The picture of each folder, uint8 (H, W, 3), not to be written to.

        Raises:
            DataError: a file is damaged or gone.
        """
        return tuple(cache.pixels(self.position(index)) for cache in self.caches)

    def sizes(self, index: int) -> tuple[tuple[int, int], ...]:
        """(height, width) of the picture of each folder. Raises as `pixels`."""
        return tuple(cache.size(self.position(index)) for cache in self.caches)

    def names(self, index: int) -> tuple[str, ...]:
        """The file of each folder."""
        return tuple(str(paths[self.position(index)]) for paths in self.paths)

    def position(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index % len(self.paths[0])


@register("image-folder")
class ImageFolder(Folders):
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
        recursive: also the photographs of subfolders; a split file lists them as "trip/1.jpg".

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
        recursive: bool = False,
    ) -> None:
        paths = listed_pictures(root_path, split_file, split_key, recursive)
        selected = recursive or split_file is not None
        root = user_path(root_path)
        super().__init__([paths], selected, first_k, repeat, cache, max_pixels, root)

    def __getitem__(self, index: int) -> Tensor:
        return to_picture(self.pixels(index)[0])


@register("paired-image-folders")
class PairedImageFolders(Folders):
    """Pairs from two folders, in the natural order of the second's names.

    Item i is a tuple (first, second), each float32 (3, H, W) in [0, 1].

    Args:
        root_path_1: low resolution; its names correspond to the others' (`listing.match_pairs`).
        root_path_2: high resolution.
        split_file, split_key, first_k, repeat, cache, max_pixels: of both, as for one folder.

    Raises:
        DataError: as for one folder; or the folders hold different numbers of files, or files
            whose names don't correspond.
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
        first = listed_pictures(root_path_1, split_file, split_key)
        second = listed_pictures(root_path_2, split_file, split_key)
        partners = match_pairs(first, second)
        selected = split_file is not None or partners != first
        super().__init__([partners, second], selected, first_k, repeat, cache, max_pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        first, second = self.pixels(index)
        return to_picture(first), to_picture(second)


def listed_pictures(
    root_path: str | Path,
    split_file: str | None = None,
    split_key: str | None = None,
    recursive: bool = False,
) -> list[Path]:
    """A folder's pictures in natural order, or those of them that a split file lists."""
    folder = user_path(root_path)
    names = list_pictures(folder, recursive, option="recursive: true")
    if split_file is not None:
        listed = read_split(found_path(user_path(split_file)), split_key, recursive)
        missing = sorted(set(listed) - set(names))
        if missing:
            raise DataError(
                f"{folder}: {len(missing)} of the {len(listed)} files that {split_file} lists as "
                f"{split_key!r} are missing, the first {missing[0]!r}"
            )
        names = sort_names(listed)
    return [folder / name for name in names]


def load_split(path: Path) -> dict[str, Any]:
    """What a split file holds: by key, lists of file names, not checked yet."""
    try:
        with file_errors(path, "read"):
            content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: no JSON object of lists of file names")
    return content


def read_split(path: Path, key: str | None, folders: bool = False) -> list[str]:
    """The file names that a split file lists under a key; with folders in them if allowed."""
    content = load_split(path)
    if key not in content:
        has = ", ".join(map(repr, list(content)[:8])) or "no keys"
        raise DataError(f"{path}: no key {key!r}; it has {has}")
    names = content[key]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise DataError(f"{path}: {key!r} is no list of file names")
    for name in names:
        if not folders and (name != Path(name).name or name in ("", "..", ".")):
            raise DataError(f"{path}: {name!r} is no plain file name")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: {key!r} lists a file twice")
    return names
