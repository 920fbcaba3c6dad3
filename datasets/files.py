"""Files that appear whole or not at all, and the system's errors over files in one line."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from utils import DataError, UserError

TEMPORARY = ".*.tmp"
"""Names of files that a killed process leaves behind."""
NAME_BYTES = 255
NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)

PathLike = str | os.PathLike[str]
PROJECT = Path(__file__).resolve().parent.parent


def found_path(path: PathLike) -> Path:
    """A file that a configuration may name: from the current folder, else from the project's own.

    So `configs/...` is also found where the project is installed and the current folder is another.
    """
    own = PROJECT / path
    return own if own.is_file() and not os.path.exists(path) else Path(path)


@contextlib.contextmanager
def file_errors(
    path: PathLike, what: str, note: str = "", kind: type[UserError] = DataError
) -> Iterator[None]:
    """Turn an `OSError` into a line for the user: "PATH: can't be WHAT (Permission denied)".

    Args:
        path: the file or folder that the line names.
        what: "read", "written" or "made".
        note: what follows the reason.
        kind: the exception raised instead.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: can't be {what} ({error.strerror or error}){note}") from error


def make_folder(folder: PathLike) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        DataError: it can't be made.
    """
    with file_errors(folder, "made"):
        os.makedirs(folder, exist_ok=True)


def write_whole(path: PathLike, content: memoryview | bytes) -> None:
    """Write a file in one piece or not at all, as `replacing`.

    Raises:
        DataError: it can't be written; what was there under that name is untouched.
    """
    kept = "; the one before is whole" if os.path.isfile(path) else ""
    with file_errors(path, "written", kept), replacing(path) as part, open(part, "wb") as file:
        file.write(content)


def check_writable(path: PathLike) -> None:
    """Find out whether a file can be written, before work is spent on it; its folder is made.

    Raises:
        DataError: it can't.
    """
    with file_errors(path, "written"), beside(path) as (part, _):
        part.touch()


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Hand out a temporary name beside `path`; what was written to it then becomes `path`.

    It is on the disk before it is renamed, and removed where the block ends early. Missing folders
    are made. Of a link, the file that it names is written.

    Raises:
        OSError: it can't be written.
    """
    with beside(path) as (part, target):
        yield part
        move_into_place(part, target)


def move_into_place(part: Path, target: Path) -> None:
    """Rename a file that is complete, once it is on the disk. Raises OSError."""
    with open(part, "r+b") as file:
        flush_to_disk(file.fileno())
    os.replace(part, target)
    with contextlib.suppress(PermissionError):  # a folder that can't be listed
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            flush_to_disk(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def beside(path: PathLike) -> Iterator[tuple[Path, Path]]:
    """A temporary name in the folder where `path` is stored, and the place that `path` names.

    The file of the temporary name is removed at the end, if there is one. The name is short, for
    that of `path` may be as long as the file system allows.

    Raises:
        OSError: `path` is a folder or a device, a link that leads to itself, or has no folder.
    """
    target = Path(os.path.realpath(path))
    try:
        if not stat.S_ISREG(os.stat(target).st_mode):
            raise OSError(errno.EINVAL, "a folder or a device")
    except FileNotFoundError:
        os.makedirs(target.parent, exist_ok=True)
    part = target.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield part, target
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def flush_to_disk(descriptor: int) -> None:
    """Make a file or folder last through a loss of power, where its file system can (`fsync`)."""
    try:
        os.fsync(descriptor)
    except OSError as error:  # network file systems may refuse to flush a folder, or anything
        if error.errno not in NO_FSYNC:
            raise


def fitting_name(stem: str, suffix: str) -> str:
    """`stem + suffix`, shortened to the length of a file name where it is longer.

    A shortened stem ends in a checksum of the whole, so that different ones stay different.
    """
    if len(os.fsencode(stem + suffix)) <= NAME_BYTES:
        return stem + suffix
    ending = f"-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}{suffix}"
    while len(os.fsencode(stem + ending)) > NAME_BYTES:
        stem = stem[:-1]
    return stem + ending
