"""Files inside ZIP and tar archives and folders, and a place to unpack them."""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datasets.images import SUFFIXES
from datasets.listing import is_hidden
from utils import DataError

MAX_FILE_BYTES = 1 << 28  # one picture of DIV2K has 5 MB, one of CelebA-HQ 2 MB
# What the readers raise over broken archives. A name that is no UTF-8 is a UnicodeError; archives
# that are encrypted, or packed in a way that zipfile doesn't know, are a RuntimeError.
UNREADABLE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, UnicodeError, RuntimeError),
)


@dataclass(frozen=True)
class Entry:
    """One file of an archive or folder.

    Attributes:
        path: its place inside.
        size: bytes.
        fetch: gives the file on disk: unpacked, or where it is in a folder. To be called before
            the next entry is asked for.
    """

    path: PurePosixPath
    size: int
    fetch: Callable[[], Path]

    @property
    def is_picture(self) -> bool:
        return self.path.name.lower().endswith(SUFFIXES)


def entries(source: Path, staging: Path) -> Iterator[Entry]:
    """The files of a ZIP or tar archive or of a folder, hidden ones left out.

    Args:
        staging: a folder that archives are unpacked in; nothing is written outside it.

    Raises:
        DataError: source is missing or none of these, is broken, or holds a file of more than
            256 MiB.
    """
    with unpacking(source):
        if source.is_dir():
            found = in_folder(source)
        elif not source.is_file():
            raise DataError(f"{source}: no such file or folder")
        elif zipfile.is_zipfile(source):
            found = in_zip(source, staging)
        elif tarfile.is_tarfile(source):
            found = in_tar(source, staging)
        else:
            raise DataError(f"{source}: neither a ZIP nor a tar archive nor a folder")
        for entry in found:
            if entry.size > MAX_FILE_BYTES:
                raise DataError(f"{source}: {entry.path} has {entry.size} bytes; refused")
            if not any(map(is_hidden, entry.path.parts)):
                yield entry


def in_folder(source: Path) -> Iterator[Entry]:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            inside = PurePosixPath(path.relative_to(source).as_posix())
            yield Entry(inside, path.stat().st_size, lambda path=path: path)  # type: ignore[misc]


def in_zip(source: Path, staging: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if not info.is_dir():

                def fetch(info: zipfile.ZipInfo = info) -> Path:
                    with unpacking(source):
                        return Path(archive.extract(info, staging))

                # Some programs write the separators of Windows.
                inside = PurePosixPath(info.filename.replace("\\", "/"))
                yield Entry(inside, info.file_size, fetch)


def in_tar(source: Path, staging: Path) -> Iterator[Entry]:
    with tarfile.open(source) as archive:
        for info in archive:
            if info.isfile():

                def fetch(info: tarfile.TarInfo = info) -> Path:
                    with unpacking(source):
                        archive.extract(info, staging, filter="data")
                        return staging / tarfile.data_filter(info, str(staging)).name

                yield Entry(PurePosixPath(info.name), info.size, fetch)


@contextlib.contextmanager
def unpacking(source: Path) -> Iterator[None]:
    """What the archive readers raise over broken files, as one line that names the file."""
    try:
        yield
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"{source}: broken, incomplete or encrypted ({error})") from error


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to unpack in, removed at the end, and what a killed run left in it before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place(fetched: Path, target: Path, staging: Path) -> None:
    """Move an unpacked file to `target`; a file of a user's folder is linked or copied instead."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if fetched.is_relative_to(staging):
        os.replace(fetched, target)
        return
    try:
        os.link(fetched, target)
    except OSError:
        shutil.copyfile(fetched, target)
