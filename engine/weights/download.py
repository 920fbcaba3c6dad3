"""Fetch a file over HTTP: resumed where it broke off, verified, put in place whole or not."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from utils import DataError

try:
    import fcntl
except ImportError:  # Windows: two processes fetching one file then write the same bytes twice
    fcntl = None  # type: ignore[assignment]

MIRROR = "LIIF_MIRROR"  # environment variable: address of a folder that has the files as well
BLOCK = 1 << 18  # bytes read at a time
TIMEOUT = 30.0  # seconds without a byte after which an attempt counts as broken off
ATTEMPTS = 4  # how often to connect; each continues where the one before stopped
PROGRESS_WORTH_A_RETRY = 1 << 20  # bytes that an attempt brought, to count as none that failed


def download(
    url: str,
    path: str | os.PathLike[str],
    size: int | None = None,
    sha256: str | None = None,
) -> Path:
    """Fetch `url` to `path` and return the path.

    The bytes go to `path + ".part"`, which a later call continues, and are renamed to `path`
    once their number and checksum are right. A file that is there already and agrees with `size`
    and `sha256` (those that are given) is left as it is.

    size: the number of bytes to expect; without it, what the server announces.
    sha256: the checksum in hexadecimal; without it, only the length is verified.

    Raises DataError, in one line: no connection, refused by the server, broken off, wrong
    length or checksum, or a disk that cannot take the file.
    """
    path = Path(path)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: only http and https addresses can be fetched")
    if _is_whole(path, size, sha256):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(Path(f"{path}.part")) as part:
            # Another process may have finished the same file while this one waited.
            if not _is_whole(path, size, sha256):
                _fetch(url, part, path.name, size)
                _verify(url, Path(f"{path}.part"), size, sha256)
                os.replace(f"{path}.part", path)
            else:
                os.unlink(f"{path}.part")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def users_mirror() -> str | None:
    """The address of a folder to fetch from instead of the published ones, if the user has one."""
    return os.environ.get(MIRROR) or None


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_whole(path: Path, size: int | None, sha256: str | None) -> bool:
    if not path.is_file():
        return False
    if size is not None and path.stat().st_size != size:
        return False
    return sha256 is None or file_sha256(path) == sha256.lower()


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """`part` opened for appending, held by this process alone; an empty one is not left behind."""
    while True:
        stream = open(part, "ab")  # noqa: SIM115  (closed below, on every path)
        if fcntl is None:
            break
        fcntl.flock(stream, fcntl.LOCK_EX)
        # The file that was locked may have been renamed or removed by its holder meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(part).st_ino == os.fstat(stream.fileno()).st_ino:
                break
        stream.close()
    try:
        yield stream
    finally:
        # Before the lock goes: afterwards the name may be that of another process's file.
        with contextlib.suppress(OSError):
            stream.flush()
            held = os.fstat(stream.fileno())
            if os.stat(part).st_ino == held.st_ino and held.st_size == 0:
                os.unlink(part)
        stream.close()


def _fetch(url: str, part: BinaryIO, name: str, size: int | None) -> None:
    """Append to `part` until it is whole, connecting up to `ATTEMPTS` times."""
    problem = ""
    failures = 0
    while failures < ATTEMPTS:
        if failures:
            time.sleep(min(0.25 * 2**failures, 5.0))
        before = _length(part)
        try:
            if _receive(url, part, name, size):
                return
            problem = "the transfer broke off"
        except urllib.error.HTTPError as error:
            if error.code < 500:  # asking again would be answered the same
                raise DataError(f"{url}: the server answers {error.code} {error.reason}") from error
            problem = f"the server answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            problem = f"no connection ({error.reason})"
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            problem = f"the transfer broke off ({str(error) or type(error).__name__})"
        # A long file over a bad line is worth more attempts, as long as each brings something.
        failures = 1 if _length(part) >= before + PROGRESS_WORTH_A_RETRY else failures + 1
    have = _length(part)
    kept = f"; the {have} bytes that came are kept, and a new try continues there" if have else ""
    raise DataError(f"{url}: {problem}{kept}")


def _receive(url: str, part: BinaryIO, name: str, size: int | None) -> bool:
    """One connection: append what comes. Returns whether `part` is whole."""
    have = _length(part)
    if size is not None and have == size:
        return True
    if size is not None and have > size:
        have = _restart(part)
    # Compressed transfers would make lengths and ranges mean something else.
    headers = {"User-Agent": "liif", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        return _beyond_the_end(part, error.headers.get("Content-Range", ""))
    with answer:
        first, total = _range(answer)
        if first != have:  # the server sends from its own choice of byte: only 0 is of use
            if first != 0:
                raise DataError(f"{url}: asked for byte {have} on, the server sends {first} on")
            have = _restart(part)
        if size is not None and total is not None and total != size:
            raise DataError(f"{url}: {size} bytes were expected, the server has {total}")
        limit = total if size is None else size
        # disable=None: no bar where stderr is no terminal.
        with tqdm(None, name, limit, unit="B", unit_scale=True, initial=have, disable=None) as bar:
            while block := _read(answer):
                part.write(block)
                have += len(block)
                bar.update(len(block))
                if limit is not None and have > limit:
                    _restart(part)
                    raise DataError(f"{url}: more than the expected {limit} bytes came")
    part.flush()
    return limit is None or have == limit


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The next bytes; what goes wrong on the line is told apart from what the disk refuses."""
    try:
        return answer.read1(BLOCK)
    except OSError as error:
        raise ConnectionError(str(error)) from error


def _length(part: BinaryIO) -> int:
    part.flush()
    return os.fstat(part.fileno()).st_size


def _restart(part: BinaryIO) -> int:
    part.flush()
    part.truncate(0)
    return 0


def _range(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte of the body within the file, and the file's length where it is announced."""
    length = answer.headers.get("Content-Length")
    if answer.status != 206:
        return 0, int(length) if length and length.isdigit() else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if match is None:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _beyond_the_end(part: BinaryIO, content_range: str) -> bool:
    """The server has nothing after what is here: whole, unless the lengths say otherwise."""
    match = re.fullmatch(r"bytes \*/(\d+)", content_range)
    if match is not None and int(match[1]) == _length(part):
        return True
    _restart(part)
    return False


def _verify(url: str, part: Path, size: int | None, sha256: str | None) -> None:
    """Refuse, and remove, what is not the expected file."""
    have = part.stat().st_size
    if size is not None and have != size:
        part.unlink()
        raise DataError(f"{url}: {size} bytes were expected, {have} came; they were discarded")
    if sha256 is not None:
        digest = file_sha256(part)
        if digest != sha256.lower():
            part.unlink()
            raise DataError(
                f"{url}: SHA-256 {sha256} was expected, the file has {digest}; it was discarded"
            )
