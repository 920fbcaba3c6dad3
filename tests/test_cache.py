"""The cache of raw pixels: shared, rebuilt when its source changes, never trusted blindly."""

from __future__ import annotations

import json
import multiprocessing
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.cache import HEADER, MAGIC, MappedCache, open_cache
from datasets.image_folder import ImageFolder
from datasets.images import write_rgb
from tests.corrupt import WRONG_TYPES, corruptions
from utils import DataError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures of different sizes; the user's caches are in tmp_path / "user"."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        write_rgb(folder / f"{i}.png", picture(i))
    return folder


def picture(number: int, seed: int = 0) -> np.ndarray:
    return noise(10 + number, 20 - number, seed=10 * seed + number)


def check(dataset: ImageFolder) -> None:
    for i in range(3):
        assert np.array_equal(dataset.pixels(i)[0], picture(i))


def cache_file(folder: Path) -> Path:
    return folder.parent / "_bin_pictures" / "pixels.raw"


def test_written_once_beside_the_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(ImageFolder(str(folder), cache="bin"))
    file = cache_file(folder)
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert str(file) in said
    assert sorted(os.listdir(file.parent)) == ["pixels.lock", "pixels.raw"]
    before = file.stat()
    dataset = ImageFolder(str(folder), cache="bin")
    check(dataset)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file.stat().st_ino == before.st_ino
    assert capfd.readouterr().err == ""
    cache = dataset.caches[0]
    assert isinstance(cache, MappedCache)
    assert not dataset.pixels(0)[0].flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        dataset.pixels(0)[0][:] = 0


def test_pixels_come_from_the_map(folder: Path) -> None:
    """A picture that is gone from the disk is still served by the map that is open."""
    dataset = ImageFolder(str(folder), cache="bin")
    for i in range(3):
        (folder / f"{i}.png").unlink()
    check(dataset)


def test_rebuilt_when_the_source_changes(folder: Path) -> None:
    first = ImageFolder(str(folder), cache="bin")
    check(first)
    write_rgb(folder / "1.png", picture(1, seed=1))
    changed = ImageFolder(str(folder), cache="bin")
    assert np.array_equal(changed.pixels(1)[0], picture(1, seed=1))
    check(first)  # what is mapped already stays as it was

    status = (folder / "1.png").stat()
    write_rgb(folder / "1.png", picture(1, seed=2))
    os.utime(folder / "1.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert np.array_equal(ImageFolder(str(folder), cache="bin").pixels(1)[0], picture(1, seed=2))

    (folder / "0.png").rename(folder / "3.png")
    renamed = ImageFolder(str(folder), cache="bin")
    assert np.array_equal(renamed.pixels(2)[0], picture(0))
    write_rgb(folder / "4.png", noise(5, 5))
    assert ImageFolder(str(folder), cache="bin").sizes(3) == ((5, 5),)
    (folder / "4.png").unlink()
    assert len(ImageFolder(str(folder), cache="bin")) == 3
    assert sorted(os.listdir(cache_file(folder).parent)) == ["pixels.lock", "pixels.raw"]


def test_selections_have_caches_of_their_own(folder: Path) -> None:
    check(ImageFolder(str(folder), cache="bin"))
    part = ImageFolder(str(folder), first_k=1, cache="bin")
    assert np.array_equal(part.pixels(0)[0], picture(0))
    files = list(cache_file(folder).parent.glob("*.raw"))
    assert len(files) == 2
    assert min(file.stat().st_size for file in files) < 4096 + 10 * 20 * 3 + 200
    before = cache_file(folder).stat().st_mtime_ns
    check(ImageFolder(str(folder), cache="bin"))
    assert cache_file(folder).stat().st_mtime_ns == before


def test_damaged_cache_files_are_made_anew(folder: Path) -> None:
    """Whatever stands where the cache should be: right pixels, no code run, no complaint."""
    check(ImageFolder(str(folder), cache="bin"))
    file = cache_file(folder)
    good = file.read_bytes()
    index = struct.unpack_from("<Q", good, 16)[0]
    header_and_index = [*corruptions(good[:36], 40), *corruptions(good[index:], 40)]
    whole = [*corruptions(good[:36] + bytes(0), 0), *WRONG_TYPES]
    variants = [
        content + good[len(content) :] if number < 40 else good[:index] + content
        for number, (_, content) in enumerate(header_and_index)
    ] + [content for _, content in whole]
    for content in variants:
        file.write_bytes(content)
        check(ImageFolder(str(folder), cache="bin"))
    assert not Path("executed").exists()
    assert len(variants) == 86


def forged(entries: object) -> bytes:
    raw = json.dumps(entries).encode()
    start = 4096 + 100
    header = HEADER.pack(MAGIC, start, len(raw), zlib.crc32(raw))
    return header + bytes(start - len(header)) + raw


def test_an_index_that_lies_is_not_believed(folder: Path) -> None:
    """Right checksums and file names, but sizes that the file does not hold."""
    paths = sorted(folder.iterdir())
    facts = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
    lies: list[object] = [
        [[*fact, 10**9, 10**9] for fact in facts],
        [[*fact, -4, 5] for fact in facts],
        [[*fact, 4.0, 5] for fact in facts],
        [[*fact, True, 5] for fact in facts],
        [[*fact, 2**40, 0] for fact in facts],
        facts,
        {"a": 1},
        None,
        [[*fact, 4, 5] for fact in facts[:2]],
    ]
    cache_file(folder).parent.mkdir()
    for entries in lies:
        cache_file(folder).write_bytes(forged(entries))
        check(ImageFolder(str(folder), cache="bin"))


def test_foreign_files_in_the_cache_folder_are_left_alone(folder: Path) -> None:
    """Other programs keep pickles there: never opened, never removed."""
    place = cache_file(folder).parent
    place.mkdir()
    (place / "0.pkl").write_bytes(dict(WRONG_TYPES)["pickle"])
    check(ImageFolder(str(folder), cache="bin"))
    assert (place / "0.pkl").read_bytes() == dict(WRONG_TYPES)["pickle"]
    assert not Path("executed").exists()


def test_leftovers_of_a_killed_process_are_cleared(folder: Path) -> None:
    place = cache_file(folder).parent
    place.mkdir()
    (place / ".99999-abcd.tmp").write_bytes(bytes(1000))
    check(ImageFolder(str(folder), cache="bin"))
    assert sorted(os.listdir(place)) == ["pixels.lock", "pixels.raw"]


def test_user_cache_where_there_is_no_writing_beside(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file stands where the cache's folder should be: as unwritable as a read-only disk."""
    (tmp_path / "_bin_pictures").write_text("in the way")
    check(ImageFolder(str(folder), cache="bin"))
    said = capfd.readouterr().err.splitlines()
    files = list((tmp_path / "user" / "liif").glob("pictures-*/pixels.raw"))
    assert len(files) == 1
    assert (
        sum("can't be written to; using" in line and str(files[0].parent) in line for line in said)
        == 1
    )
    check(ImageFolder(str(folder), cache="bin"))
    (tmp_path / "user" / "liif").rename(tmp_path / "gone")
    (tmp_path / "user" / "liif").write_text("in the way too")
    with pytest.raises(DataError, match="cache: none"):
        ImageFolder(str(folder), cache="bin")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_read_only_folder(folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        check(ImageFolder(str(folder), cache="bin"))
    finally:
        tmp_path.chmod(0o755)


def test_a_whole_cache_is_used_where_nothing_can_be_written(folder: Path) -> None:
    """As on a read-only disk that somebody prepared: no lock, no writing."""
    check(ImageFolder(str(folder), cache="bin"))
    (cache_file(folder).parent / "pixels.lock").unlink()
    check(ImageFolder(str(folder), cache="bin"))
    assert os.listdir(cache_file(folder).parent) == ["pixels.raw"]


def build_and_report(folder: str, queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    dataset = ImageFolder(folder, cache="bin")
    cache = dataset.caches[0]
    assert isinstance(cache, MappedCache)
    queue.put((cache.file.stat().st_ino, [int(dataset.pixels(i)[0].sum()) for i in range(3)]))


def test_processes_that_start_at_once_share_one_build(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=build_and_report, args=(str(folder), queue)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    reports = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert {inode for inode, _ in reports} == {cache_file(folder).stat().st_ino}
    assert all(sums == [int(picture(i).sum()) for i in range(3)] for _, sums in reports)
    assert capfd.readouterr().err.count("cache: writing") == 1


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from datasets.image_folder import ImageFolder
from utils import DataError
try:
    ImageFolder({folder!r}, cache="bin")
except DataError as error:
    print(error)
"""


def test_a_full_disk(folder: Path) -> None:
    """With a limit on file sizes: one line, no half file, and the old cache stays whole."""
    check(ImageFolder(str(folder), cache="bin"))
    good = cache_file(folder).read_bytes()
    write_rgb(folder / "9.png", noise(90, 90))
    code = FULL.format(limit=20000, folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{cache_file(folder)}: can't be written (File too large)" in done.stdout
    assert done.stdout.count("\n") == 1
    assert cache_file(folder).read_bytes() == good
    assert sorted(os.listdir(cache_file(folder).parent)) == ["pixels.lock", "pixels.raw"]


def test_a_source_that_disappears(folder: Path) -> None:
    paths = [*sorted(folder.iterdir()), folder / "gone.png"]
    with pytest.raises(DataError, match=r"gone\.png: can't be read .No such file"):
        open_cache("bin", folder, paths, selected=False)


def test_memory_holds_bytes(folder: Path) -> None:
    dataset = ImageFolder(str(folder), cache="in_memory")
    pixels = dataset.pixels(1)[0]
    assert pixels.dtype == np.uint8
    assert dataset.pixels(1)[0] is pixels
    (folder / "1.png").unlink()
    check(dataset)


@pytest.mark.parametrize("kind", ["none", "in_memory", "bin"])
def test_files_of_several_pictures_are_told_in_one_line(
    kind: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first of each is used; a damaged file is none of this line's business."""
    frames = [Image.fromarray(noise(8, 9, seed=k)) for k in range(2)]
    for name in ("a.gif", "b.tif", "c.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    (folder / "d.tif").write_bytes((folder / "b.tif").read_bytes()[:40])
    dataset = ImageFolder(str(folder), cache=kind)
    lines = [line for line in capfd.readouterr().err.splitlines() if "hold several" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{folder}: 3 of 7 files hold several pictures")
    assert "'a.gif'" in lines[0]
    assert np.array_equal(dataset.pixels(4)[0], noise(8, 9))
    for name in ("a.gif", "b.tif", "c.webp"):
        (folder / name).unlink()
    ImageFolder(str(folder), cache=kind)
    assert "hold several" not in capfd.readouterr().err
