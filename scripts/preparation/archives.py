"""Pictures inside ZIP and tar archives and folders, read without trusting what they claim."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from datasets.images import SUFFIXES
from utils import DataError

MAX_FILE_BYTES = 1 << 28  # one picture of DIV2K has 5 MB, one of CelebA-HQ 2 MB
MAX_ENTRIES = 1_000_000
BLOCK = 1 << 20
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    UnicodeError,  # a name that claims to be UTF-8
    EOFError,
)


@dataclass(frozen=True)
class Entry:
    """One file of an archive or folder.

    path: its place inside, relative, without "..".
    open: gives a binary stream; valid until the next entry is asked for.
    file: where it lies on disk, for folders.
    """

    path: PurePosixPath
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    file: Path | None = None

    @property
    def is_picture(self) -> bool:
        return self.path.name.lower().endswith(SUFFIXES)


def entries(source: Path) -> Iterator[Entry]:
    """The files of a ZIP or tar archive or of a folder, hidden ones left out.

    Raises:
        DataError: source is missing or none of these, is broken, or holds an entry that leaves
            the folder it is unpacked in, a link, a device, or a file of more than 256 MiB.
    """
    if source.is_dir():
        found = _folder_entries(source)
    elif not source.is_file():
        raise DataError(f"{source}: no such file or folder")
    elif zipfile.is_zipfile(source):
        found = _zip_entries(source)
    elif _is_tar(source):
        found = _tar_entries(source)
    else:
        raise DataError(f"{source}: neither a ZIP nor a tar archive nor a folder")
    count = 0
    with _one_line_errors(source):
        for entry in found:
            count += 1
            if count > MAX_ENTRIES:
                raise DataError(f"{source}: more than {MAX_ENTRIES} entries")
            if entry.size > MAX_FILE_BYTES:
                raise DataError(f"{source}: {entry.path} has {entry.size} bytes; refused")
            if not any(part.startswith((".", "__MACOSX")) for part in entry.path.parts):
                yield entry


def save(entry: Entry, target: Path, max_bytes: int = MAX_FILE_BYTES) -> int:
    """Put an entry at `target` (a hard link where that is possible) and return its bytes.

    Raises:
        DataError: more than max_bytes come, whatever the archive announced, or it is broken.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry.file is not None:
        if entry.size > max_bytes:
            raise DataError(f"{entry.path}: more than {max_bytes} bytes")
        with contextlib.suppress(OSError):
            os.link(entry.file, target)
            return entry.size
        shutil.copyfile(entry.file, target)
        return entry.size
    written = 0
    with _one_line_errors(entry.path), entry.open() as stream, open(target, "wb") as out:
        while block := stream.read(BLOCK):
            written += len(block)
            if written > max_bytes:
                raise DataError(f"{entry.path}: more than {max_bytes} bytes")
            out.write(block)
    if written != entry.size:
        raise DataError(f"{entry.path}: {entry.size} bytes announced, {written} came")
    return written


def _folder_entries(folder: Path) -> Iterator[Entry]:
    def opener(path: Path) -> Callable[[], AbstractContextManager[IO[bytes]]]:
        return lambda: open(path, "rb")

    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if path.is_file():
                inside = PurePosixPath(path.relative_to(folder).as_posix())
                yield Entry(inside, path.stat().st_size, opener(path), file=path)


def _zip_entries(source: Path) -> Iterator[Entry]:
    def opener(info: zipfile.ZipInfo) -> Callable[[], AbstractContextManager[IO[bytes]]]:
        return lambda: archive.open(info)

    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            path = _inside(source, info.filename)
            mode = info.external_attr >> 16
            if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{source}: {info.filename} is a link or a device; refused")
            if info.flag_bits & 1:
                raise DataError(f"{source}: {info.filename} is encrypted")
            if not info.is_dir():
                yield Entry(path, info.file_size, opener(info))


def _tar_entries(source: Path) -> Iterator[Entry]:
    def opener(info: tarfile.TarInfo) -> Callable[[], AbstractContextManager[IO[bytes]]]:
        def open_entry() -> IO[bytes]:
            stream = archive.extractfile(info)
            assert stream is not None, "only regular files become entries"
            return stream

        return open_entry

    with tarfile.open(source) as archive:
        for info in archive:
            path = _inside(source, info.name)
            if not (info.isfile() or info.isdir()):
                raise DataError(f"{source}: {info.name} is a link or a device; refused")
            if info.isfile():
                yield Entry(path, info.size, opener(info))


def _inside(source: Path, name: str) -> PurePosixPath:
    """The entry's place, or an error where it would lie outside the folder it is unpacked in."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0] or "\0" in name:
        raise DataError(f"{source}: {name!r} would be written outside the target folder; refused")
    return path


def _is_tar(source: Path) -> bool:
    try:
        return tarfile.is_tarfile(source)
    except (OSError, *BROKEN):
        return False


@contextlib.contextmanager
def _one_line_errors(what: object) -> Iterator[None]:
    """What the archive readers raise over broken files, as one line that names the file."""
    try:
        yield
    except BROKEN as error:
        raise DataError(f"{what}: broken or incomplete ({error})") from error
    except (NotImplementedError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{what}: cannot be unpacked ({error})") from error
