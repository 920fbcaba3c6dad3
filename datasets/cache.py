"""Where a data set's pixels come from: decoded each time, kept in memory, or in a mapped file.

The mapped file holds nothing but numbers: a fixed header, the raw pixels of every picture, and an
index in JSON whose claims are checked against the file's length. Nothing in it can be executed.
It is written under another name and renamed when whole, by one process while others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils import DataError

from .files import TEMPORARY, file_errors, replacing
from .images import MAX_PIXELS, page_count, read_rgb, read_size
from .listing import CACHE_PREFIX

MAGIC = b"liif-raw-pixels\x01"
HEADER = struct.Struct("<16sQQI")  # magic, start and length of the index, its CRC-32
PIXELS_START = 4096
INDEX_LIMIT = 2**30
# Formats whose headers say whether there are several pictures; others aren't asked.
SEVERAL = (".gif", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif")
Size = tuple[int, int]


class NoCache:
    """Pictures decoded from their files each time."""

    def __init__(self, paths: Sequence[Path], max_pixels: int = MAX_PIXELS) -> None:
        self.paths, self.max_pixels = list(paths), max_pixels

    def pixels(self, position: int) -> np.ndarray:
        """The picture, uint8 (H, W, 3). Raises DataError as `read_rgb`."""
        return read_rgb(self.paths[position], self.max_pixels)

    def size(self, position: int) -> Size:
        """(height, width) of the picture. Raises DataError as `read_rgb`."""
        return read_size(self.paths[position], self.max_pixels)


class MemoryCache(NoCache):
    """Every picture in memory, as uint8.

    A damaged file is left to be complained of when it is asked for, as without a cache. Forked
    workers share the memory; a process that gets this object by pickle decodes again for itself.
    """

    def __init__(self, paths: Sequence[Path], max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(paths, max_pixels)
        self.pictures = list(decode(self.paths, max_pixels))

    def pixels(self, position: int) -> np.ndarray:
        picture = self.pictures[position]
        return super().pixels(position) if picture is None else picture

    def size(self, position: int) -> Size:
        height, width, _ = self.pixels(position).shape
        return height, width

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.paths, self.max_pixels)


class MappedCache(NoCache):
    """Every picture as raw pixels in one file that all processes map.

    A damaged picture has no pixels there, and is complained of when it is asked for.

    Args:
        file: the cache file, checked to be whole and made from `paths` as they are now.
        paths, max_pixels: of what is still to be decoded.
    """

    def __init__(self, file: Path, paths: Sequence[Path], max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(paths, max_pixels)
        self.file = file
        sizes = read_index(file, self.paths)
        if sizes is None:
            raise DataError(f"{file}: changed while it was in use")
        self.pixel_sizes = sizes
        self.map = np.memmap(file, np.uint8, mode="r")
        counts = [3 * height * width for height, width in sizes]
        self.starts = [PIXELS_START + sum_ for sum_ in np.cumsum([0, *counts]).tolist()]

    def pixels(self, position: int) -> np.ndarray:
        height, width = self.pixel_sizes[position]
        if height == 0:
            return super().pixels(position)
        raw = self.map[self.starts[position] : self.starts[position + 1]]
        return np.asarray(raw).reshape(height, width, 3)

    def size(self, position: int) -> Size:
        size = self.pixel_sizes[position]
        return size if size[0] else super().size(position)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.file, self.paths, self.max_pixels)


def open_cache(
    kind: str,
    folder: Path,
    paths: Sequence[Path],
    selected: bool,
    max_pixels: int = MAX_PIXELS,
) -> NoCache:
    """The pictures of `paths`, below `folder`; `selected` when they are not just all its files.

    Raises:
        DataError: the cache can't be written anywhere, or a file is gone.
    """
    report_several(folder, paths)
    if kind == "none":
        return NoCache(paths, max_pixels)
    if kind == "in_memory":
        return MemoryCache(paths, max_pixels)
    names = "\n".join(str(path.relative_to(folder)) for path in paths)
    part = "-" + hashlib.sha256(os.fsencode(names)).hexdigest()[:12] if selected else ""
    folder = folder.resolve()
    beside = folder.parent / f"{CACHE_PREFIX}{folder.name}"
    file = beside / f"pixels{part}.raw"
    if read_index(file, paths) is None:
        file = writable_folder(folder, beside) / file.name
        with locked(file.with_suffix(".lock")):
            if read_index(file, paths) is None:
                build(file, paths, max_pixels)
    return MappedCache(file, paths, max_pixels)


def report_several(folder: Path, paths: Sequence[Path]) -> None:
    """Say in one line which files hold more than the one picture that is used of each."""
    several = []
    for path in paths:
        with contextlib.suppress(DataError):  # complained of when it is asked for
            if path.suffix.lower() in SEVERAL and page_count(path) > 1:
                several.append(path)
    if several and os.environ.get("RANK", "0") == "0":
        print(
            f"{folder}: {len(several)} of {len(paths)} files hold several pictures (frames or "
            f"pages), of which the first is used (the first: {several[0].name!r})",
            file=sys.stderr,
        )


def writable_folder(folder: Path, beside: Path) -> Path:
    """A place for a folder's cache: beside it, or else among the user's caches."""
    if make_writable(beside):
        return beside
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    other = home / "liif" / f"{folder.name}-{place}"
    if not make_writable(other):
        raise DataError(
            f"cache: neither {beside} nor {other} can be written to (cache: none needs no place)"
        )
    print(f"cache: {beside} can't be written to; using {other}", file=sys.stderr)
    return other


def make_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time; the lock of a process that dies is released."""
    with path.open("wb") as file:
        # Without locks both build, each under its own name, and either is whole.
        with contextlib.suppress(ImportError, OSError):
            import fcntl  # Windows has none

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def describe(path: Path) -> list[str | int]:
    """What tells whether a source file is still the same."""
    with file_errors(path, "read"):
        status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def read_index(file: Path, paths: Sequence[Path]) -> list[Size] | None:
    """(height, width) of each picture in a cache file, (0, 0) where damaged.

    None when there is no such file, or it is not whole, or made from other files than these.
    """
    try:
        with file.open("rb") as stream:
            length = os.fstat(stream.fileno()).st_size
            magic, start, size, checksum = HEADER.unpack(stream.read(HEADER.size))
            if magic != MAGIC or size > INDEX_LIMIT or start + size != length:
                return None
            stream.seek(start)
            raw = stream.read(size)
            if zlib.crc32(raw) != checksum:
                return None
            entries = json.loads(raw)
    except (OSError, struct.error, ValueError, RecursionError):
        return None
    if not valid_entries(entries, start, len(paths)):
        return None
    if any(entry[:3] != describe(path) for entry, path in zip(entries, paths, strict=True)):
        return None
    return [(entry[3], entry[4]) for entry in entries]


def valid_entries(entries: object, index_start: int, count: int) -> bool:
    """Whether an index says something that the pixels before it can be."""
    if not isinstance(entries, list) or len(entries) != count:
        return False
    end = PIXELS_START
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 5:
            return False
        if not all(type(value) is int and value >= 0 for value in entry[3:]):
            return False
        end += 3 * entry[3] * entry[4]
    return end == index_start


def build(file: Path, paths: Sequence[Path], max_pixels: int) -> None:
    """Write a cache file: pixels first, then the index, last the header, then the rename."""
    for left_over in file.parent.glob(TEMPORARY):
        left_over.unlink(missing_ok=True)
    print(f"cache: writing the pixels of {len(paths)} images to {file}", file=sys.stderr)
    with file_errors(file, "written"), replacing(file) as part, part.open("wb") as stream:
        write_cache(stream, paths, max_pixels)


def write_cache(stream: BinaryIO, paths: Sequence[Path], max_pixels: int) -> None:
    entries = [describe(path) for path in paths]
    stream.seek(PIXELS_START)
    for entry, picture in zip(entries, decode(paths, max_pixels), strict=True):
        entry += [0, 0] if picture is None else picture.shape[:2]
        if picture is not None:
            stream.write(picture.data)
    start = stream.tell()
    raw = json.dumps(entries).encode()
    stream.write(raw)
    stream.seek(0)
    stream.write(HEADER.pack(MAGIC, start, len(raw), zlib.crc32(raw)))


def decode(paths: Sequence[Path], max_pixels: int) -> Iterator[np.ndarray | None]:
    """Pictures in order, uint8 (H, W, 3), decoded by several threads; None for a damaged one."""
    threads = max(1, min(8, os.cpu_count() or 1))
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(paths), 4 * threads):
            part = paths[first : first + 4 * threads]
            yield from pool.map(read_or_none, part, itertools.repeat(max_pixels))


def read_or_none(path: Path, max_pixels: int) -> np.ndarray | None:
    try:
        return read_rgb(path, max_pixels)
    except DataError:
        return None
