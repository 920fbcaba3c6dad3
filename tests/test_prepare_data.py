"""Data preparation: archives that lie, transfers that break off, and second runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.image_folder import PairedImageFolders
from datasets.known import high_folder, low_folder
from datasets.resize import resize_matlab
from engine.runtime import run_script
from engine.weights import download
from scripts import prepare_data
from scripts.preparation import archives, bsds500, celebahq, sources
from scripts.preparation.archives import entries
from scripts.preparation.celebahq import prepare_celebahq
from scripts.preparation.low_resolution import make_low_resolution
from scripts.preparation.sample import TRAIN, VALID, tiles
from scripts.preparation.sources import BENCHMARK, DIV2K, Folder, Source, find_owned, prepare
from scripts.prepare_data import main
from tests.commands import real_command
from utils import ConfigError, DataError, UserError


def png(value: int, height: int = 4, width: int = 5) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), (value, 0, 0)).save(data, "PNG")
    return data.getvalue()


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def call(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below with its inode and time of change: equal when nothing was written."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def server(folder: Path, breaks: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder with byte ranges; the first `breaks` answers stop in the middle."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            requests.append(f"{self.path} {asked or ''}".strip())
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            first = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(data) - first))
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            body = data[first:]
            if len(requests) <= breaks:
                body = body[: len(body) // 2]
                self.close_connection = True
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", requests
    finally:
        running.shutdown()
        running.server_close()


SMALL = Source("DIV2K_valid_HR.zip", "", (Folder("div2k/DIV2K_valid_HR", 3),), 1 << 20)
PICTURES = {f"DIV2K_valid_HR/080{n}.png": png(n) for n in range(1, 4)}


def test_download_that_breaks_off_goes_on_and_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    served = tmp_path / "served"
    served.mkdir()
    make_zip(served / SMALL.name, PICTURES)
    with server(served, breaks=2) as (address, requests):
        assert prepare(SMALL, tmp_path / "load", mirror=address)
        assert len(requests) == 3, "two broken answers, then the rest"
        assert "bytes=" in requests[1], "asks for the rest alone"
        assert "bytes=" in requests[2]
        folder = tmp_path / "load/div2k/DIV2K_valid_HR"
        for name, data in PICTURES.items():
            assert (folder / Path(name).name).read_bytes() == data
        before = snapshot(tmp_path / "load")
        assert set(before) == {f"div2k/{name}" for name in PICTURES}, "nothing else is left"
        assert not prepare(SMALL, tmp_path / "load", mirror=address)
        assert snapshot(tmp_path / "load") == before
        assert len(requests) == 3, "the second run asks for nothing"


def test_wrong_checksum_is_refused(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    make_zip(served / SMALL.name, PICTURES)
    with server(served) as (address, _), pytest.raises(DataError, match="SHA-256"):
        prepare(replace(SMALL, sha256="0" * 64), tmp_path / "load", mirror=address)
    assert not (tmp_path / "load/div2k/DIV2K_valid_HR").exists()


def test_a_download_that_brings_nothing_leaves_no_folders(tmp_path: Path) -> None:
    for root in (tmp_path / "new" / "load", tmp_path):  # made for it, and there before
        with pytest.raises(DataError, match="without a network, give what is on this disk by"):
            prepare(SMALL, root, mirror="http://127.0.0.1:9")
        assert [*tmp_path.iterdir()] == []


def test_absent_archive_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server(tmp_path) as (address, _), pytest.raises(SystemExit) as ended:
        run_script(lambda: call("benchmark", "--root", tmp_path / "load", "--mirror", address))
    assert ended.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {address}/benchmark.tar: the server answers 404")


HOSTILE = ["../evil.png", "a/../../evil.png", "/evil.png", "C:\\evil.png", "..\\..\\evil.png"]


@pytest.mark.parametrize("name", [*HOSTILE, "link", "hard link", "device"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, kind: str, name: str) -> None:
    """Names lose what leads out of it, and links are no pictures."""
    load = tmp_path / "data" / "load"
    if name in HOSTILE:
        make = make_zip if kind == "zip" else make_tar
        archive = make(tmp_path / "evil", {**PICTURES, name: png(1)})
    elif kind == "zip":
        archive = make_zip(tmp_path / "evil", PICTURES)
        with zipfile.ZipFile(archive, "a") as opened:
            info = zipfile.ZipInfo("a/link.png")
            info.external_attr = 0o120777 << 16
            opened.writestr(info, "/etc/passwd")
    else:
        archive = make_tar(tmp_path / "evil", PICTURES)
        types = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
        with tarfile.open(archive, "a") as opened_tar:
            entry = tarfile.TarInfo("a/link.png")
            entry.type = types[name]
            entry.linkname = "/etc/passwd"
            opened_tar.addfile(entry)
    with contextlib.suppress(DataError):
        prepare(SMALL, load, archive=archive)
    files = [path for path in tmp_path.rglob("*") if not path.is_dir() and path != archive]
    assert {str(path.relative_to(load)) for path in files} <= {f"div2k/{name}" for name in PICTURES}
    assert not any(path.is_symlink() for path in files)
    assert not Path("/evil.png").exists()


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one file nor all together may be larger than a data set has reason to be."""
    bomb = make_zip(tmp_path / "bomb.zip", {"0801.png": bytes(5000)})
    with pytest.raises(DataError, match="more than 4000 bytes"):
        prepare(replace(SMALL, max_bytes=4000), tmp_path / "load", archive=bomb)
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 4999)
    with pytest.raises(DataError, match="5000 bytes; refused"):
        list(entries(bomb, tmp_path))
    assert snapshot(tmp_path / "load") == {}


def test_zip_that_understates_its_sizes(tmp_path: Path) -> None:
    archive = tmp_path / "lie.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("0801.png", bytes(100_000))
    data = archive.read_bytes()
    assert data.count((100_000).to_bytes(4, "little")) == 2
    archive.write_bytes(data.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DataError):
        prepare(replace(SMALL, max_bytes=1000), tmp_path / "load", archive=archive)
    assert snapshot(tmp_path / "load") == {}


def test_zip_that_cannot_be_unpacked_is_one_line(tmp_path: Path) -> None:
    """A name that claims to be UTF-8, and files that are encrypted."""
    archive = make_zip(tmp_path / "name.zip", {"0801é.png": png(1)})
    archive.write_bytes(archive.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(DataError, match=r"name\.zip: broken, incomplete or encrypted \(.*utf-8"):
        list(entries(archive, tmp_path))
    archive = make_zip(tmp_path / "locked.zip", {"0801.png": png(1)})
    data = bytearray(archive.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + flags] |= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"locked\.zip: broken, .*encrypted.*password") as error:
        prepare(SMALL, tmp_path / "load", archive=archive)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar"])
def test_truncated_archive_is_one_line(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    noise = np.random.default_rng(0).integers(0, 256, 50_000, np.uint8).tobytes()
    archive = make(tmp_path / "cut", {f"a/{n}.png": noise for n in range(3)})
    archive.write_bytes(archive.read_bytes()[:70_000])
    with pytest.raises(DataError) as error:
        prepare(SMALL, tmp_path / "load", archive=archive)
    assert "\n" not in str(error.value)
    assert snapshot(tmp_path / "load") == {}


def test_wrong_count_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "few.zip", {"0801.png": png(1), "0802.png": png(2)})
    with pytest.raises(DataError, match="2 pictures for div2k/DIV2K_valid_HR, 3 expected"):
        prepare(SMALL, tmp_path / "load", archive=archive)


SMALL_BENCHMARK = replace(
    BENCHMARK, folders=tuple(Folder(folder.path, 3) for folder in BENCHMARK.folders)
)


def benchmark_files() -> dict[str, bytes]:
    files = {"benchmark/Set5/HR/._junk.png": b"x", "__MACOSX/Set5/HR/a.png": b"x"}
    for folder in SMALL_BENCHMARK.folders:
        kind = folder.inside[-1]
        suffix = "" if kind == "HR" else kind.lower()
        for n in range(folder.count):
            files[f"benchmark/{'/'.join(folder.inside)}/img{n}{suffix}.png"] = png(n)
    files["benchmark/Set5/LR_bicubic/X8/img0x8.png"] = png(8)
    return files


def test_benchmark_from_an_archive_and_from_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_data, "BENCHMARK", SMALL_BENCHMARK)
    files = benchmark_files()
    archive = make_tar(tmp_path / "my-copy.tar.gz", files, "w:gz")
    call("benchmark", "--archive", archive, "--root", tmp_path / "load")
    for folder in BENCHMARK.folders:
        for path in (tmp_path / "load" / folder.path).iterdir():
            assert path.read_bytes() == files[f"{folder.path}/{path.name}"]
    assert not (tmp_path / "load/benchmark/Set5/LR_bicubic/X8").exists()
    assert archive.is_file(), "the user's own archive stays"
    assert set(os.listdir(tmp_path / "load")) == {"benchmark"}
    assert set(os.listdir(tmp_path / "load/benchmark")) == {"Set5", "Set14", "B100", "Urban100"}
    before = snapshot(tmp_path / "load")
    capsys.readouterr()
    call("benchmark", "--archive", archive, "--root", tmp_path / "load")
    assert capsys.readouterr().err.splitlines()[-1] == "nothing to do"
    assert snapshot(tmp_path / "load") == before

    call("benchmark", "--archive", tmp_path / "load", "--root", tmp_path / "other")
    assert snapshot(tmp_path / "other").keys() == before.keys()
    # Some of them alone, in whatever folder they lie.
    shutil.move(tmp_path / "load/benchmark/Set14", tmp_path / "few/sets/Set14")
    capsys.readouterr()
    call("benchmark", "--archive", tmp_path / "few", "--root", tmp_path / "some")
    assert {*os.listdir(tmp_path / "some/benchmark")} == {"Set14"}
    assert len(snapshot(tmp_path / "some")) == 12
    assert f"{tmp_path / 'few'}: without Set5, B100, Urban100" in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing: holds none of Set5, Set14, B100, Urban100"):
        call("benchmark", "--archive", tmp_path / "nothing", "--root", tmp_path / "third")

    (tmp_path / "load/benchmark/B100/HR/img2.png").unlink()
    with pytest.raises(DataError, match="2 pictures for benchmark/B100/HR, 3 expected"):
        call("benchmark", "--archive", tmp_path / "load", "--root", tmp_path / "third")


def test_div2k_finds_what_the_user_has(tmp_path: Path) -> None:
    stack = tmp_path / "stack"
    (stack / "DIV2K_valid_HR").mkdir(parents=True)
    for name, data in PICTURES.items():
        (stack / name).write_bytes(data)
    make_zip(stack / "DIV2K_train_HR.zip", PICTURES)
    assert find_owned(DIV2K["valid-hr"], [stack]) == stack / "DIV2K_valid_HR"
    assert find_owned(DIV2K["train-hr"], [stack]) == stack / "DIV2K_train_HR.zip"
    assert find_owned(DIV2K["valid-lr-x2"], [stack]) is None
    assert prepare(SMALL, tmp_path / "load", archive=find_owned(SMALL, [stack]))
    assert (stack / "DIV2K_valid_HR/0801.png").is_file(), "the user's own files stay"

    stranger = make_zip(tmp_path / "holiday.zip", PICTURES)
    with pytest.raises(ConfigError, match=r"holiday\.zip given; allowed: DIV2K_train_HR\.zip"):
        call("div2k", "--archive", stranger, "--root", tmp_path / "load")


@pytest.mark.parametrize(
    "name",
    [
        "DIV2K_valid_LR_bicubic_X2.zip",
        "DIV2K_valid_LR_bicubic_X2 (1).zip",
        "DIV2K_valid_LR_bicubic_X2(12).zip",
        "DIV2K_valid_LR_bicubic_X2-1.zip",
        "DIV2K_valid_LR_bicubic_X2 - Copy.zip",
        "DIV2K_valid_LR_bicubic_X2 - Copy (2).zip",
        "Copy of DIV2K_valid_LR_bicubic_X2.ZIP",
        "DIV2K_valid_LR_bicubic_X2 (1)",
    ],
)
def test_archives_that_a_browser_renamed_are_found(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "Downloads"
    folder.mkdir()
    if "." in name:
        make_zip(folder / name, {"x2/0801x2.png": png(1)})
    else:
        (folder / name).mkdir()
    (folder / "DIV2K_valid_LR_bicubic_X2.zip.part").write_bytes(b"still being fetched")
    for owned in (folder, folder / name):
        assert find_owned(DIV2K["valid-lr-x2"], [owned]) == folder / name
        for part in set(DIV2K) - {"valid-lr-x2"}:
            assert find_owned(DIV2K[part], [owned]) is None


def test_published_archives_have_the_published_sizes() -> None:
    assert {name: source.folders[0].count for name, source in DIV2K.items()} == {
        "train-hr": 800,
        "valid-hr": 100,
        "valid-lr-x2": 100,
        "valid-lr-x3": 100,
        "valid-lr-x4": 100,
        "train-lr-x2": 800,
    }
    assert sum(folder.count for folder in BENCHMARK.folders) == 4 * (5 + 14 + 100 + 100)


def faces(folder: Path, count: int = 6, size: int = 1024) -> list[np.ndarray]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    coarse = [rng.integers(0, 256, (40, 40, 3), np.uint8) for _ in range(count)]
    pictures = [Image.fromarray(small).resize((size, size), Image.BILINEAR) for small in coarse]
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number + 8}.png", compress_level=1)
    return [np.asarray(picture) for picture in pictures]


def test_celebahq_sizes_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celebahq, "ORIGINAL_SIZE", 300)
    originals = faces(tmp_path / "faces", size=300)
    load = tmp_path / "load"
    call("celebahq", "--archive", tmp_path / "faces", "--root", load, "--workers", 2)
    for number, pixels in enumerate(originals):
        largest = Image.fromarray(pixels).resize((256, 256), Image.BICUBIC)
        for size in (256, 128, 64, 32):
            expected = largest.resize((size, size), Image.BICUBIC)
            made = Image.open(load / f"celebAHQ/{size}/{number + 8}.png")
            assert np.array_equal(np.asarray(made), np.asarray(expected)), size
    split = json.loads((load / "celebAHQ/split.json").read_text())
    assert split == {"train": [f"{n}.png" for n in (8, 9, 10, 11, 12)], "val": ["13.png"]}
    before = snapshot(load)
    call("celebahq", "--root", load)
    assert snapshot(load) == before


def test_celebahq_goes_on_and_keeps_a_split_brought_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celebahq, "ORIGINAL_SIZE", 300)
    monkeypatch.setattr(celebahq, "BATCH", 2)
    faces(tmp_path / "faces", count=3, size=300)
    split = {"train": ["9.jpg", "8.jpg"], "val": ["10.jpg"]}
    (tmp_path / "faces/split.json").write_text(json.dumps(split))
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for path in (tmp_path / "faces").iterdir():
            archive.write(path, f"celeb/{path.name}")
    folder = tmp_path / "load/celebAHQ"
    assert prepare_celebahq(folder, tmp_path / "faces.zip", None, workers=2)
    made = json.loads((folder / "split.json").read_text())
    assert made == {"train": ["9.png", "8.png"], "val": ["10.png"]}
    before = snapshot(folder)
    (folder / "32/9.png").unlink()
    assert prepare_celebahq(folder, tmp_path / "faces.zip", None, workers=2)
    after = snapshot(folder)
    unchanged = {name for name in after if after[name] == before[name]}
    assert {name for name in after if "9.png" not in name} - unchanged <= {"split.json"}
    assert sorted(path.name for path in folder.iterdir()) == [
        "128",
        "256",
        "32",
        "64",
        "split.json",
    ]


@pytest.mark.parametrize("case", ["size", "nothing", "split"])
def test_celebahq_refusals(tmp_path: Path, case: str) -> None:
    arguments: list[object] = ["celebahq", "--root", tmp_path / "load"]
    if case == "size":
        faces(tmp_path / "faces", count=1, size=512)
        arguments += ["--archive", tmp_path / "faces"]
    if case == "split":
        faces(tmp_path / "faces", count=1)
        (tmp_path / "mine.json").write_text('{"train": ["8.png"], "val": ["77.png"]}')
        arguments += ["--archive", tmp_path / "faces", "--split", tmp_path / "mine.json"]
    expected = {"size": "512x512", "nothing": "--archive", "split": r"77\.png"}[case]
    with pytest.raises(DataError, match=expected):
        call(*arguments)


@pytest.fixture
def small_bsds500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """An archive's files, laid out as the authors' is: four photographs of 17x25 and 25x17."""
    counts = {"train": 2, "test": 1, "val": 1}
    folders = tuple(Folder(f"bsds500/{part}", count) for part, count in counts.items())
    monkeypatch.setattr(bsds500, "BSDS500", replace(bsds500.BSDS500, folders=folders))
    (tmp_path / "split.json").write_text('{"train": ["1.png", "3.png"], "val": ["2.png"]}')
    monkeypatch.setattr(bsds500, "SPLIT", tmp_path / "split.json")
    monkeypatch.setattr(bsds500, "HIGH", 8)
    monkeypatch.setattr(bsds500, "LOW", 2)
    images = "BSR/BSDS500/data/images"
    return {
        f"{images}/train/1.png": noise(1, 17, 25),
        f"{images}/train/2.png": noise(2, 25, 17),
        f"{images}/train/Thumbs.db": b"litter",
        f"{images}/test/3.png": noise(3, 17, 25),
        f"{images}/val/4.png": noise(4, 17, 25),
        "BSR/BSDS500/data/groundTruth/val/4.mat": b"no picture",
        "BSR/bench/data/images/1.png": noise(5, 17, 25),
    }


def noise(seed: int, height: int, width: int) -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("kind", ["archive", "holds the archive", "folder"])
def test_bsds500_of_the_user(tmp_path: Path, small_bsds500: dict[str, bytes], kind: str) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    archive = make_tar(mine / "BSR_bsds500.tgz", small_bsds500, "w:gz")
    if kind == "folder":
        with tarfile.open(archive) as files:
            files.extractall(mine, filter="data")
        archive.unlink()
    load = tmp_path / "load"
    arguments = ("bsds500", "--root", load, "--workers", 2)
    call(*arguments, "--archive", archive if kind == "archive" else mine)
    images = load / "bsds500/images"
    assert {path.name for path in images.iterdir()} == {"1.png", "2.png", "3.png"}
    first = small_bsds500["BSR/BSDS500/data/images/train/1.png"]
    assert (images / "1.png").read_bytes() == first
    assert [path.name for path in (load / "bsds500/held").iterdir()] == ["2.png"]
    b100 = load / "benchmark/B100"
    assert [path.name for path in (b100 / "HR").iterdir()] == ["4.png"]
    high, low = (
        np.asarray(Image.open(b100 / name)) for name in ("HR/4.png", "LR_bicubic/X3/4x3.png")
    )
    assert np.array_equal(low, resize_matlab(high[:15, :24], (5, 8)))
    pixels = np.asarray(Image.open(images / "1.png"))
    pairs = PairedImageFolders(load / "bsds500/squares/2", load / "bsds500/squares/8")
    assert len(pairs) == 3 * 6  # of 17x25 pixels: 2 by 3
    small, square = pairs.pixels(4)  # second row, second column of the first photograph
    assert np.array_equal(square, pixels[8:16, 8:16])
    assert np.array_equal(small, Image.fromarray(square).resize((2, 2), Image.BICUBIC))
    before = snapshot(load)
    call(*arguments)
    assert snapshot(load) == before
    (load / "bsds500/squares/2/2-05.png").unlink()
    call(*arguments)
    assert set(snapshot(load)) == set(before), "what is missing is made again"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nothing", "no stable address .*--archive"),
        ("absent", "no such file"),
        ("short", "0 pictures for bsds500/val, 1 expected"),
    ],
)
def test_bsds500_refusals(
    tmp_path: Path, small_bsds500: dict[str, bytes], case: str, message: str
) -> None:
    arguments: list[object] = ["bsds500", "--root", tmp_path / "load"]
    if case != "nothing":
        arguments += ["--archive", tmp_path / "mine.tgz"]
    if case == "short":
        del small_bsds500["BSR/BSDS500/data/images/val/4.png"]
        make_tar(tmp_path / "mine.tgz", small_bsds500, "w:gz")
    with pytest.raises(DataError, match=message):
        call(*arguments)


def test_low_resolution_pairs(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    hr = tmp_path / "mine/HR"
    hr.mkdir(parents=True)
    flat = np.full((13, 17, 3), 77, np.uint8)
    Image.fromarray(flat).save(hr / "flat.png")
    Image.fromarray(rng.integers(0, 256, (24, 31), np.uint8)).save(hr / "grey.png")
    call("lr", "--hr", hr, "--scales", 2, 3, 4)
    for scale in (2, 3, 4):
        folder = tmp_path / f"mine/LR_bicubic/X{scale}"
        small = np.asarray(Image.open(folder / f"flatx{scale}.png"))
        assert small.shape == (13 // scale, 17 // scale, 3)
        assert (small == 77).all(), "a constant picture stays constant"
        grey = np.asarray(Image.open(folder / f"greyx{scale}.png"))
        assert grey.shape == (24 // scale, 31 // scale, 3)
    before = snapshot(tmp_path / "mine")
    assert make_low_resolution(hr, tmp_path / "mine/LR_bicubic", [2, 3, 4], workers=1) == 0
    assert snapshot(tmp_path / "mine") == before


def low_resolution_of(pixels: np.ndarray, scale: int) -> np.ndarray:
    height, width = (side // scale for side in pixels.shape[:2])
    return resize_matlab(pixels[: height * scale, : width * scale], (height, width))


def make_lr(hr: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `lr --scales 2` says before its last line."""
    capsys.readouterr()
    call("lr", "--hr", hr, "--scales", 2, "--workers", 1)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line for line in lines if line and "resizing" not in line][:-1]


@pytest.mark.parametrize("recorded", [True, False], ids=["made here", "brought along"])
def test_a_high_resolution_picture_that_was_replaced_is_noticed(
    tmp_path: Path, recorded: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by one of the same size, bytes and time; what was not made here is not overwritten."""
    rng = np.random.default_rng(7)
    first, second, other = rng.integers(0, 256, (3, 20, 24, 3), np.uint8)
    hr, lr = tmp_path / "HR", tmp_path / "LR_bicubic/X2"
    hr.mkdir()
    for name, pixels in (("a.bmp", first), ("b.bmp", other)):
        Image.fromarray(pixels).save(hr / name)
    assert make_lr(hr, capsys) == [f"{lr.parent}: 2 pictures made"]
    if not recorded:
        (lr / ".made-from.json").unlink()
    status = (hr / "a.bmp").stat()
    Image.fromarray(second).save(hr / "a.bmp")
    os.utime(hr / "a.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (hr / "a.bmp").stat().st_size == status.st_size
    before = (lr / "bx2.png").stat().st_mtime_ns
    said = make_lr(hr, capsys)
    made = np.asarray(Image.open(lr / "ax2.png"))
    if recorded:
        assert said == [f"{lr.parent}: 1 pictures made, 1 already there"]
        assert np.array_equal(made, low_resolution_of(second, 2))
    else:
        assert said[0] == f"{lr.parent}: 0 pictures made, 1 already there"
        assert said[1].startswith(f"{lr.parent}: 1 pictures are not made from those in {hr}")
        assert str(lr / "ax2.png") in said[1]
        assert np.array_equal(made, low_resolution_of(first, 2))
        (lr / "ax2.png").unlink()
        assert make_lr(hr, capsys) == [f"{lr.parent}: 1 pictures made, 1 already there"]
        made = np.asarray(Image.open(lr / "ax2.png"))
        assert np.array_equal(made, low_resolution_of(second, 2))
    assert (lr / "bx2.png").stat().st_mtime_ns == before
    (lr / "bx2.png").write_bytes(b"damaged")
    (lr / ".made-from.json").write_text("spoilt")
    assert make_lr(hr, capsys) == [f"{lr.parent}: 1 pictures made, 1 already there"]
    os.utime(hr / "a.bmp")  # only touched
    assert make_lr(hr, capsys) == [f"{lr.parent}: 0 pictures made, 2 already there"]


def test_low_resolution_pictures_are_pairs_whatever_the_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hr = tmp_path / "HR"
    hr.mkdir()
    (hr / ".DS_Store").write_bytes(b"")
    (hr / "album.png").mkdir()
    (hr / "notes.txt").write_text("no picture")
    names = [b"caf\xe9.png", b"a.JPG", b"x" * 200 + b".png"]
    for number, name in enumerate(names):
        path = hr / os.fsdecode(name)
        Image.new("RGB", (24, 20), (number, 0, 0)).save(tmp_path / "made.png")
        path.write_bytes((tmp_path / "made.png").read_bytes())
    said = make_lr(hr, capsys)
    assert said == [
        f"{hr}: 1 of 4 files left out, for they are no images (the first: 'notes.txt')",
        f"{tmp_path / 'LR_bicubic'}: 3 pictures made",
    ]
    pairs = PairedImageFolders(str(tmp_path / "LR_bicubic/X2"), str(hr))
    assert {os.fsencode(Path(pairs.names(i)[1]).name) for i in range(3)} == set(names)
    for index in range(3):
        low, high = pairs.pixels(index)
        assert low.shape == (10, 12, 3)
        assert (low == high[0, 0]).all()


def test_low_resolution_pictures_of_two_folders_never_meet(tmp_path: Path) -> None:
    """Each beside its own folder; one place given for two is refused, unless one is gone."""
    folders = ["HR", "DIV2K_valid_HR", "trip", "trip_HR", "trip-", "trip_"]
    places = ["LR_bicubic", "DIV2K_valid_LR_bicubic", "trip-LR_bicubic", "trip_LR_bicubic"]
    places += ["trip--LR_bicubic", "trip_-LR_bicubic"]
    for number, name in enumerate(folders):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 6), (40 * number, 0, 0)).save(tmp_path / name / "1.png")
        call("lr", "--hr", tmp_path / name, "--scales", 2)
    assert {path.name for path in tmp_path.iterdir()} == {*folders, *places}
    for number, (name, place) in enumerate(zip(folders, places, strict=True)):
        made = np.asarray(Image.open(tmp_path / place / "X2/1x2.png"))
        assert (made == (40 * number, 0, 0)).all()
        assert low_folder(tmp_path / name) == tmp_path / place
        assert high_folder(tmp_path / place) == tmp_path / name

    trip, other = tmp_path / "trip", tmp_path / "trip_HR"
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=f"X2: holds pictures of {trip}; allowed: another --output"):
        call("lr", "--hr", other, "--scales", 2, "--output", tmp_path / places[2])
    assert snapshot(tmp_path) == before
    moved = trip.rename(tmp_path / "voyage")
    call("lr", "--hr", moved, "--scales", 2, "--output", tmp_path / places[2])


def test_low_resolution_pictures_are_not_put_among_the_high(tmp_path: Path) -> None:
    (tmp_path / "X2").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "X2/1.png")
    with pytest.raises(DataError, match="X2: holds the high-resolution pictures; allowed: another"):
        call("lr", "--hr", tmp_path / "X2", "--output", tmp_path, "--scales", 2)
    assert [path.name for path in (tmp_path / "X2").iterdir()] == ["1.png"]


def test_two_pictures_of_one_stem_have_one_low_resolution_name(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(DataError, match="two pictures named a"):
        call("lr", "--hr", tmp_path, "--scales", 2)


def test_low_resolution_is_the_benchmarks_own(reference: Path, tmp_path: Path) -> None:
    """Every pixel of Set5's supplied LR pictures."""
    data = reference / "data/Set5"
    assert make_low_resolution(data / "HR", tmp_path, [2, 3, 4], workers=2) == 15
    for scale in (2, 3, 4):
        for supplied in sorted((data / f"LR_bicubic/X{scale}").glob("*.png")):
            made = np.asarray(Image.open(tmp_path / f"X{scale}" / supplied.name))
            assert np.array_equal(made, np.asarray(Image.open(supplied).convert("RGB"))), supplied


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["lr", "--hr", "nowhere", "--scales", "2"], 1, "nowhere: no such folder"),
        (["lr", "--hr", ".", "--scales", "1"], 2, "--scales: 1 given"),
        (["lr", "--hr", ".", "--scales", "2"], 1, "no images"),
        (["benchmark", "--archive", "nowhere.tar"], 1, "nowhere.tar: no such file or folder"),
        (["div2k", "--archive", "nowhere.zip"], 1, "nowhere.zip: no such file or folder"),
        (["celebahq", "--workers", "0"], 2, "--workers: 0 given"),
    ],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, arguments: list[str], code: int, expected: str
) -> None:
    (tmp_path / "empty").mkdir()
    given = [str(tmp_path / "empty") if word == "." else word for word in arguments]
    if given[0] != "lr":
        given += ["--root", str(tmp_path / "load")]
    with pytest.raises(UserError) as error:
        call(*given)
    assert error.value.exit_code == code
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_sample_photographs(tmp_path: Path) -> None:
    call("sample", "--root", tmp_path)
    train = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "sample/train").iterdir()}
    valid = {path.stem for path in (tmp_path / "sample/valid").iterdir()}
    assert train == {Path(name).stem for name in TRAIN}
    assert valid == {Path(name).stem for name in VALID}
    assert not train & valid, "held-out photographs are not trained on"
    for path in (tmp_path / "sample").rglob("*.png"):
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
            assert min(picture.size) >= 192, path.name
    before = snapshot(tmp_path)
    call("sample", "--root", tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_the_script_starts_as_its_users_start_it(tmp_path: Path) -> None:
    ended = real_command("scripts/prepare_data.py", "sample", "--root", "load", folder=tmp_path)
    assert ended.code == 0, ended
    assert ended.err.splitlines()[-1] == "done"
    assert (tmp_path / "load/sample/valid/astronaut.png").is_file()


def test_tiles_cover_the_photograph_once() -> None:
    pixels = np.arange(500 * 741 * 3, dtype=np.int64).reshape(500, 741, 3)
    parts = list(tiles(pixels))
    assert len(parts) == 6
    values = np.sort(np.concatenate([part.reshape(-1) for part in parts]))
    assert np.array_equal(values, np.arange(pixels.size))


def test_sources_are_named_apart() -> None:
    names = [source.name for source in (*DIV2K.values(), BENCHMARK)]
    assert len(set(names)) == len(names)
    assert all(set(sources.DIV2K_DEFAULT) <= set(DIV2K) for _ in names)
