"""Data preparation: archives that lie, transfers that break off, and second runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.preparation import archives, sources
from scripts.preparation.archives import entries
from scripts.preparation.celebahq import prepare_celebahq
from scripts.preparation.low_resolution import make_low_resolution
from scripts.preparation.sample import TRAIN, VALID, tiles
from scripts.preparation.sources import BENCHMARK, DIV2K, Folder, Source, find_owned, prepare
from scripts.prepare_data import main
from utils import ConfigError, DataError, UserError

ROOT = Path(__file__).resolve().parent.parent


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


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The script as its users run it. Slow to start, so most tests call `main` instead."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/prepare_data.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )


def call(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below with its inode and time of change: equal when nothing was written."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
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
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", requests
    finally:
        running.shutdown()
        running.server_close()


SMALL = Source("DIV2K_valid_HR.zip", "", (Folder("div2k/DIV2K_valid_HR", 3),), 1 << 20)
PICTURES = {f"DIV2K_valid_HR/080{n}.png": png(n) for n in range(1, 4)}


def test_download_that_breaks_off_goes_on_and_unpacks(tmp_path: Path) -> None:
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


def test_absent_archive_is_one_line(tmp_path: Path) -> None:
    with server(tmp_path) as (address, _):
        done = run("benchmark", "--root", tmp_path / "load", "--mirror", address)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "404" in done.stderr
    assert "Traceback" not in done.stderr


def escaping(tmp_path: Path, kind: str) -> Path:
    name = {"absolute": "/tmp/evil.png", "windows": "C:\\evil.png"}.get(kind, "a/../../evil.png")
    if kind == "zip link":
        path = tmp_path / "evil.zip"
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo("a/link.png")
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
        return path
    if kind in ("symlink", "hardlink", "device"):
        path = tmp_path / "evil.tar"
        with tarfile.open(path, "w") as archive_tar:
            entry = tarfile.TarInfo("a/link.png")
            entry.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}.get(
                kind, tarfile.CHRTYPE
            )
            entry.linkname = "/etc/passwd"
            archive_tar.addfile(entry)
        return path
    if kind == "tar":
        return make_tar(tmp_path / "evil.tar", {name: png(1)})
    return make_zip(tmp_path / "evil.zip", {name: png(1)})


@pytest.mark.parametrize(
    "kind",
    ["zip", "tar", "absolute", "windows", "zip link", "symlink", "hardlink", "device"],
)
def test_unsafe_entries_are_refused(tmp_path: Path, kind: str) -> None:
    archive = escaping(tmp_path, kind)
    load = tmp_path / "data" / "load"
    with pytest.raises(DataError, match="refused"):
        prepare(SMALL, load, archive=archive)
    left = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert left == []
    assert not list(tmp_path.glob("evil.png"))


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one file nor all together may be larger than a data set has reason to be."""
    bomb = make_zip(tmp_path / "bomb.zip", {"0801.png": bytes(5000)})
    with pytest.raises(DataError, match="more than the 4000 bytes"):
        prepare(replace(SMALL, max_bytes=4000), tmp_path / "load", archive=bomb)
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 4999)
    with pytest.raises(DataError, match="5000 bytes; refused"):
        list(entries(bomb))
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


def test_zip_with_a_damaged_name_is_one_line(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "name.zip", {"0801é.png": png(1)})
    archive.write_bytes(archive.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(DataError, match=r"name\.zip: broken or incomplete \(.*utf-8"):
        list(entries(archive))


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


def benchmark_files(extra: int = 0) -> dict[str, bytes]:
    files = {"benchmark/Set5/HR/._junk.png": b"x", "__MACOSX/Set5/HR/a.png": b"x"}
    for folder in BENCHMARK.folders:
        kind = folder.inside[-1]
        suffix = "" if kind == "HR" else kind.lower()
        for n in range(folder.count):
            files[f"benchmark/{'/'.join(folder.inside)}/img{n}{suffix}.png"] = png(n)
    files["benchmark/Set5/LR_bicubic/X8/img0x8.png"] = png(8)
    return files


def test_benchmark_from_an_archive_and_from_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = benchmark_files()
    archive = make_tar(tmp_path / "my-copy.tar.gz", files, "w:gz")
    call("benchmark", "--archive", archive, "--root", tmp_path / "load")
    for folder in BENCHMARK.folders:
        for path in (tmp_path / "load" / folder.path).iterdir():
            assert path.read_bytes() == files[f"{folder.path}/{path.name}"]
    assert not (tmp_path / "load/benchmark/Set5/LR_bicubic/X8").exists()
    assert archive.is_file(), "the user's own archive stays"
    before = snapshot(tmp_path / "load")
    capsys.readouterr()
    call("benchmark", "--archive", archive, "--root", tmp_path / "load")
    assert capsys.readouterr().err.splitlines()[-1] == "nothing to do"
    assert snapshot(tmp_path / "load") == before

    call("benchmark", "--archive", tmp_path / "load", "--root", tmp_path / "other")
    assert snapshot(tmp_path / "other").keys() == before.keys()
    (tmp_path / "load/benchmark/B100/HR/img7.png").unlink()
    with pytest.raises(DataError, match="99 pictures for benchmark/B100/HR, 100 expected"):
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


def test_celebahq_sizes_and_split(tmp_path: Path) -> None:
    originals = faces(tmp_path / "faces")
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


def test_celebahq_goes_on_and_keeps_a_split_brought_along(tmp_path: Path) -> None:
    faces(tmp_path / "faces", count=3)
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
        (["lr", "--hr", ".", "--scales", "2"], 1, "no pictures in it"),
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
    done = run("sample", "--root", tmp_path)
    assert done.returncode == 0, done.stderr
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


def test_tiles_cover_the_photograph_once() -> None:
    pixels = np.arange(500 * 741 * 3, dtype=np.int64).reshape(500, 741, 3)
    parts = list(tiles(pixels))
    assert len(parts) == 6
    assert sorted(np.concatenate([part.reshape(-1) for part in parts])) == list(range(pixels.size))


def test_sources_are_named_apart() -> None:
    names = [source.name for source in (*DIV2K.values(), BENCHMARK)]
    assert len(set(names)) == len(names)
    assert all(set(sources.DIV2K_DEFAULT) <= set(DIV2K) for _ in names)
