"""Writing whole files: every kind of name, link and file system; nothing is left behind."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datasets import files
from datasets.files import check_writable, file_errors, fitting_name, replacing, write_whole
from utils import ConfigError, DataError

NAMES = ("a", "a.b c", "ä" * 127 + "x", "n" * 255, os.fsdecode(b"\xff\xfe" + 253 * b"x"))


@pytest.mark.parametrize("name", NAMES, ids=("short", "dots", "umlauts", "longest", "no UTF-8"))
def test_every_name_that_the_file_system_allows(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, b"first")
    write_whole(tmp_path / name, b"second")
    assert (tmp_path / name).read_bytes() == b"second"
    assert os.listdir(tmp_path) == [name]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_whole(tmp_path / "a/b/c", b"x")
    assert (tmp_path / "a/b/c").read_bytes() == b"x"


def test_of_a_link_the_file_that_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    (tmp_path / "chain").symlink_to("link")
    (tmp_path / "folder").symlink_to("there")
    for number, name in enumerate(("link", "chain", "folder/file")):
        write_whole(tmp_path / name, bytes([number]))
        assert (tmp_path / "there/file").read_bytes() == bytes([number])
    assert os.readlink(tmp_path / "link") == "there/file"
    assert sorted(os.listdir(tmp_path)) == ["chain", "folder", "link", "there"]
    assert os.listdir(tmp_path / "there") == ["file"]


def make_loop(place: Path) -> None:
    place.with_name("other").symlink_to(place.name)
    place.symlink_to("other")


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (Path.mkdir, "x", "a folder or a device"),
        (make_loop, "x", "Too many levels of symbolic links"),
        (Path.touch, "x/y", "Not a directory"),
        (os.mkfifo, "x", "a folder or a device"),
        (lambda place: place.symlink_to("/dev/null"), "x", "a folder or a device"),
        (Path.touch, "y" * 256, "File name too long"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, make: Any, name: str, reason: str) -> None:
    make(tmp_path / "x")
    before = os.listdir(tmp_path)
    for write in (check_writable, lambda path: write_whole(path, b"x")):
        with pytest.raises(DataError) as caught:
            write(tmp_path / name)
        kept = "; the one before is whole" if os.path.isfile(tmp_path / name) else ""
        assert str(caught.value) == f"{tmp_path / name}: can't be written ({reason}){kept}"
    assert os.listdir(tmp_path) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("what", ["folder", "file"])
@pytest.mark.parametrize(
    ("code", "ends"),
    [
        (errno.EINVAL, False),
        (errno.ENOTSUP, False),
        (errno.EOPNOTSUPP, False),
        (errno.EIO, True),
        (errno.ENOSPC, True),
    ],
)
def test_file_systems_that_cannot_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: int, ends: bool
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (what == "folder"):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "a"
    if ends:
        with pytest.raises(DataError, match=os.strerror(code)):
            write_whole(path, b"x")
    else:
        write_whole(path, b"x")
        assert path.read_bytes() == b"x"
    assert set(os.listdir(tmp_path)) <= {"a"}


def test_it_is_on_the_disk_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    flush, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        flush(descriptor)

    def replace(*names: Any) -> None:
        done.append("rename")
        rename(*names)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_whole(tmp_path / "a", b"x")
    assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_write_that_ends_early_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing(path) as part:  # noqa: PT012
        part.write_bytes(b"half")
        assert len(os.listdir(tmp_path)) == 2
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(DataError) as caught:
            write_whole(path, bytes(1001))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == (
        f"{path}: can't be written (File too large); the one before is whole"
    )
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


WAITING = """
import sys, time
from datasets.files import replacing

with replacing(sys.argv[1]) as part:
    part.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_leaves_is_no_result(tmp_path: Path) -> None:
    """It is hidden, has no ending of a result, and can be found."""
    path = tmp_path / "a.png"
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    (left,) = tmp_path.iterdir()
    assert list(tmp_path.glob(files.TEMPORARY)) == [left]
    assert left.name.startswith(".")
    assert left.suffix == ".tmp"
    write_whole(path, b"x")
    assert path.read_bytes() == b"x"


def test_errors_are_one_line_of_the_kind_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(ConfigError) as caught, file_errors(path, "read", "; so", ConfigError):
        path.read_bytes()
    assert str(caught.value) == f"{path}: can't be read (No such file or directory); so"
    with pytest.raises(ZeroDivisionError), file_errors(path, "read"):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("letter", ["n", "ä", "日", os.fsdecode(b"\xff")])
def test_names_are_shortened_to_what_fits(tmp_path: Path, letter: str) -> None:
    assert fitting_name(letter * 10, "-x2.png") == letter * 10 + "-x2.png"
    long = [fitting_name(letter * 300 + end, "-x2.png") for end in ("a", "b")]
    assert len(set(long)) == 2
    for name in long:
        assert 250 <= len(os.fsencode(name)) <= 255
        assert name.endswith("-x2.png")
        (tmp_path / name).touch()
    exact = "n" * 251
    assert fitting_name(exact, ".png") == exact + ".png"
    assert len(fitting_name(exact + "n", ".png")) == 255
