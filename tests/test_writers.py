"""Pictures written: exactly what was given, whole or not at all, with what belongs to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image

from datasets.images import (
    WRITTEN_SUFFIXES,
    Photo,
    open_writer,
    read_photo,
    read_rgb,
    read_size,
    write_photo,
    write_rgb,
)
from tests.test_images import SRGB, camera_exif, failure, noise, smooth
from utils import DataError


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (23, 17), (300, 5)])
def test_lossless_round_trip(
    tmp_path: Path, suffix: str, dtype: str, channels: int, size: tuple[int, int]
) -> None:
    pixels = noise(*size, channels, dtype=dtype)
    path = tmp_path / f"a{suffix}"
    write_photo(path, Photo(pixels, SRGB if channels >= 3 else None, (300, 150)))
    back = read_photo(path)
    assert back.pixels.dtype == pixels.dtype
    assert np.array_equal(back.pixels, pixels)
    assert back.icc == (SRGB if channels >= 3 else None)
    assert back.dpi == pytest.approx((300, 150), abs=0.05)  # PNG counts pixels per metre
    if suffix == ".tif":
        assert np.array_equal(tifffile.imread(path).reshape(pixels.shape), pixels)
    elif dtype == "uint8":
        assert np.array_equal(np.asarray(Image.open(path)).reshape(pixels.shape), pixels)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossy_round_trip(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = smooth(40, 56, channels)
    if channels in (2, 4):
        pixels[..., -1] = 255
    path = tmp_path / f"a{suffix}"
    write_photo(path, Photo(pixels, SRGB if channels >= 3 else None, (300, 150)))
    back = read_photo(path)
    if suffix == ".jpg":
        kept = {1: 1, 2: 1, 3: 3, 4: 3}[channels]
        assert back.dpi == pytest.approx((300, 150), abs=1)
        assert back.pixels.shape == (40, 56, kept)
        assert np.abs(back.pixels.astype(int) - pixels[..., :kept]).max() <= 12
    assert (
        np.abs(
            read_rgb(path).astype(int) - (pixels[..., :3] if channels >= 3 else pixels[..., :1])
        ).max()
        <= 16
    )
    assert back.icc == (SRGB if channels >= 3 else None)


def test_webp_keeps_alpha_and_jpeg_shows_white_there(tmp_path: Path) -> None:
    pixels = smooth(16, 16, 4)
    pixels[..., 3] = 0
    pixels[:8, :, 3] = 255
    write_rgb(tmp_path / "a.webp", pixels)
    assert read_photo(tmp_path / "a.webp").pixels.shape == (16, 16, 4)
    write_rgb(tmp_path / "a.jpg", pixels)
    assert read_rgb(tmp_path / "a.jpg")[12:].min() >= 245


def test_sixteen_bits_become_eight_by_rounding(tmp_path: Path) -> None:
    pixels = noise(8, 9, 3, dtype="uint16")
    write_rgb(tmp_path / "a.png", pixels)
    wanted = np.floor(pixels / 257 + 0.5)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), wanted)
    write_rgb(tmp_path / "a.jpg", np.full((8, 8, 3), 200 * 257, np.uint16))
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - 200).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_resolutions_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    for dpi in ((300, 200), (96, 96), *([(25.4, 25.4)] if suffix in (".png", ".tif") else [])):
        write_photo(path, Photo(noise(4, 5, 3), dpi=dpi))
        assert read_photo(path).dpi == pytest.approx(dpi, abs=0.02)


@pytest.mark.parametrize("suffix", WRITTEN_SUFFIXES)
def test_writing_row_by_row_is_writing_at_once(tmp_path: Path, suffix: str) -> None:
    pixels = noise(50, 33, 3)
    write_rgb(tmp_path / f"whole{suffix}", pixels)
    with open_writer(tmp_path / f"rows{suffix}", 50, 33, 3, np.uint8) as writer:
        for top, bottom in ((0, 1), (1, 17), (17, 17), (17, 50)):
            writer.write(pixels[top:bottom])
        assert not (tmp_path / f"rows{suffix}").exists()
    assert np.array_equal(
        read_rgb(tmp_path / f"rows{suffix}"), read_rgb(tmp_path / f"whole{suffix}")
    )


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_rgb(path, noise(6, 6, 3))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), open_writer(path, 6, 6, 3, np.uint8) as writer:  # noqa: PT012
        writer.write(noise(3, 6, 3))
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("a.bmp", (4, 4), ".png"),
        ("a", (4, 4), ".png"),
        ("a.webp", (4, 16384), "16383"),
        ("a.jpg", (65536, 1), "65500"),
        ("file/a.png", (4, 4), "ot a directory"),
    ],
)
def test_places_and_formats_that_cannot_be_written(
    tmp_path: Path, name: str, size: tuple[int, int], words: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as caught:
        open_writer(tmp_path / name, *size, 3, np.uint8)
    assert words in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def run_python(code: str) -> str:
    """What a Python process that runs `code` prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


FILL = """
import resource
import numpy as np
from datasets.images import write_rgb
from utils import DataError

resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
for path in {paths!r}:
    try:
        write_rgb(path, pixels)
    except DataError as error:
        print(error)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """With a limit on file sizes, which fails as a full disk does: one line, no half file."""
    paths = [tmp_path / f"a{suffix}" for suffix in (".png", ".tif", ".jpg", ".webp")]
    for path in paths:
        write_rgb(path, noise(5, 5, 3))
    before = [path.read_bytes() for path in paths]
    lines = run_python(FILL.format(paths=[str(path) for path in paths])).splitlines()
    assert len(lines) == 4
    for line, path in zip(lines, paths, strict=True):
        assert line.startswith(f"{path}: can't be written (")
    assert [path.read_bytes() for path in paths] == before
    assert len(os.listdir(tmp_path)) == 4


def test_profile_of_grey_is_not_given_to_colours(tmp_path: Path) -> None:
    grey = Photo(noise(4, 4, 1), SRGB, (72, 72))
    with open_writer(tmp_path / "a.png", 4, 4, 3, np.uint8, like=grey) as writer:
        writer.write(noise(4, 4, 3))
    assert read_photo(tmp_path / "a.png").icc is None
    assert read_photo(tmp_path / "a.png").dpi == pytest.approx((72, 72), abs=0.05)


PEAKS = """
import threading
import numpy as np
from datasets.images import open_writer

def watch(held, done):
    # What is mapped from files, as the rows that wait in one, can be dropped at any time.
    finished = False
    while not finished:  # at least once, however late this thread gets its turn
        finished = done.wait(0.002)
        status = open("/proc/self/status").read()
        held.append(int(status.split("RssAnon:")[1].split()[0]))

for suffix in {suffixes!r}:
    for side in {sides!r}:
        rows = np.random.default_rng(0).integers(0, 9, (50, side, 3)).astype(np.uint8)
        held, done = [], threading.Event()
        watcher = threading.Thread(target=watch, args=(held, done))
        watcher.start()
        with open_writer(f"{folder}/{{side}}{{suffix}}", side, side, 3, np.uint8) as writer:
            for top in range(0, side, 50):
                writer.write(rows)
        done.set()
        watcher.join()
        print(max(held) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
def test_memory_of_writing_does_not_grow(tmp_path: Path) -> None:
    suffixes = (".png", ".tif", ".jpg")
    code = PEAKS.format(suffixes=suffixes, sides=(1000, 4000), folder=tmp_path)
    held = [float(number) for number in run_python(code).split()]
    for suffix, small, large in zip(suffixes, held[::2], held[1::2], strict=True):
        assert large < small + 20, suffix  # the picture is 48 MB
        assert read_size(tmp_path / f"4000{suffix}") == (4000, 4000)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
def test_twenty_thousand_square(tmp_path: Path) -> None:
    code = PEAKS.format(suffixes=(".png",), sides=(500, 20000), folder=tmp_path)
    small, large = map(float, run_python(code).split())
    print(f"20000x20000 PNG: {large:.0f} MB resident at most; 500x500: {small:.0f} MB")
    assert large < small + 60
    image = pyvips.Image.new_from_file(str(tmp_path / "20000.png"), access="sequential")
    assert (image.width, image.height, image.bands) == (20000, 20000, 3)
    assert "268435456" in failure(tmp_path / "20000.png")


@pytest.mark.slow
def test_big_tiff(tmp_path: Path) -> None:
    """More than 4 GB of pixels: the file says where things are in 64 bits."""
    path = tmp_path / "a.tif"
    rows = np.zeros((500, 40000, 3), np.uint8)
    rows[:, ::7] = 200
    with open_writer(path, 36000, 40000, 3, np.uint8) as writer:
        for _ in range(72):
            writer.write(rows)
    with path.open("rb") as file:
        assert file.read(4) == b"II+\0"
    image = pyvips.Image.new_from_file(str(path), access="sequential")
    strip = np.frombuffer(pyvips.Region.new(image).fetch(0, 0, 40000, 100), np.uint8)
    assert np.array_equal(strip.reshape(100, 40000, 3), rows[:100])


def metadata_of(path: Path) -> tuple[dict[Any, Any], Image.Exif]:
    """What Pillow finds beside the pixels."""
    with Image.open(path) as image:
        image.load()
        return dict(image.info), image.getexif()


@pytest.mark.parametrize("suffix", WRITTEN_SUFFIXES)
@pytest.mark.parametrize("source", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_metadata_go_from_file_to_file(
    tmp_path: Path, source: str, suffix: str, dtype: str
) -> None:
    exif = camera_exif()
    exif[0x013B] = "Jürgen Müller".encode()
    exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003] = 30, 20  # pixels
    exif.get_ifd(0x8769)[0x829A] = 0.008
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a remark"
    given = tmp_path / f"given{source}"
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    Image.fromarray(smooth(20, 30)).save(given, exif=exif, xmp=xmp)
    photo = read_photo(given)
    path = tmp_path / f"a{suffix}"
    with open_writer(path, 60, 40, 3, dtype, like=photo) as writer:
        writer.write(noise(60, 40, 3, dtype=dtype))
    if dtype == "uint16" and suffix in (".tif", ".tiff"):  # Pillow reads no such TIFF
        with tifffile.TiffFile(path) as tiff:
            tags = tiff.pages[0].tags  # type: ignore[union-attr]
            assert tags[0x8298].value == "(c) somebody"
            assert tags[0x8769].value["DateTimeOriginal"] == "2020:01:02 03:04:05"
            assert source == ".png" or tags[700].value == xmp
        return
    info, written = metadata_of(path)
    assert written[0x010F] == "Maker"
    assert written[0x8298] == "(c) somebody"
    assert written[0x013B].encode("latin-1").decode() == "Jürgen Müller"
    assert written.get(0x0112, 1) == 1, "the pixels are upright"
    details = written.get_ifd(0x8769)
    assert details[0x9003] == "2020:01:02 03:04:05"
    assert (details[0xA002], details[0xA003]) == (40, 60)
    assert float(details[0x829A]) == pytest.approx(0.008)
    assert details[0x9286] == b"ASCII\0\0\0a remark"
    assert written.get_ifd(0x8825)[1] == "N"
    assert written.get_ifd(0x8825)[2] == (47.0, 11.0, 8.0)
    if source != ".png":  # of which Pillow writes XMP under another name
        assert (info.get("xmp") or info["XML:com.adobe.xmp"].encode()) == xmp
    again = read_photo(path)
    assert again.metadata["exif-data"]
    assert again.dpi is None


@pytest.mark.parametrize("suffix", WRITTEN_SUFFIXES)
def test_comments_go_along(tmp_path: Path, suffix: str) -> None:
    text = "größer als 日本, " + "x" * 300
    photo = Photo(noise(9, 8, 3), metadata={"png-comment-0-Comment": text})
    path = tmp_path / f"a{suffix}"
    write_photo(path, photo)
    info, exif = metadata_of(path)
    if suffix == ".png":
        assert info["Comment"] == text
    elif suffix in (".jpg", ".jpeg"):
        assert info["comment"].decode() == text
    else:
        assert exif[0x010E].encode("latin-1").decode() == text


@pytest.mark.parametrize("suffix", WRITTEN_SUFFIXES)
@pytest.mark.parametrize("with_exif", [False, True])
def test_no_resolution_is_invented(tmp_path: Path, suffix: str, with_exif: bool) -> None:
    exif = camera_exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = 72.0, 72.0, 2  # which is not of this picture
    metadata: dict[str, bytes | str] = {"exif-data": exif.tobytes()} if with_exif else {}
    path = tmp_path / f"a{suffix}"
    write_photo(path, Photo(noise(9, 8, 3), metadata=metadata))
    info, written = metadata_of(path)
    if "jfif" in info:  # of EXIF without a resolution Pillow says 72
        assert (info["jfif_unit"], info["jfif_density"]) == (0, (1, 1))
    else:
        assert info.get("dpi", (1, 1)) == (1, 1)
    assert not {0x011A, 0x011B, 0x0128} & set(written)
    assert read_photo(path).dpi is None
    write_photo(path, Photo(noise(9, 8, 3), None, (300, 150), metadata))
    assert read_photo(path).dpi == pytest.approx((300, 150), abs=0.05)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("junk", [b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0", b"x" * 200_000])
def test_blocks_that_do_not_fit_are_left_out(tmp_path: Path, suffix: str, junk: bytes) -> None:
    """The pixels go first; a block is left out where a format can't hold it."""
    path = tmp_path / f"a{suffix}"
    metadata: dict[str, bytes | str] = {"xmp-data": junk, "png-comment-0-Comment": "x" * 70_000}
    write_photo(path, Photo(smooth(9, 8), metadata=metadata))
    assert np.abs(read_rgb(path).astype(int) - smooth(9, 8)).max() <= 30


@pytest.mark.parametrize("suffix", WRITTEN_SUFFIXES)
def test_every_name_and_place(tmp_path: Path, suffix: str) -> None:
    pixels = smooth(12, 11)
    folder = tmp_path / os.fsdecode(b"not made \xff yet")
    (tmp_path / f"link{suffix}").symlink_to(f"target{suffix}")
    longest = "n" * (255 - len(suffix)) + suffix
    no_utf8 = os.fsdecode(b"\xff\xe9") + suffix
    for path in (folder / longest, folder / no_utf8, tmp_path / f"link{suffix}"):
        write_rgb(path, pixels)
        assert np.abs(read_rgb(path).astype(int) - pixels).max() <= 30
    assert (tmp_path / f"link{suffix}").is_symlink()
    assert sorted(os.listdir(folder)) == sorted([longest, no_utf8])
    assert sorted(os.listdir(tmp_path)) == sorted([folder.name, f"link{suffix}", f"target{suffix}"])


SLOW = """
import sys
import signal
import numpy as np
from datasets import encoders
from datasets.images import open_writer

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
rows = np.random.default_rng(0).integers(0, 256, (500, 9000, 3)).astype(np.uint8)
with open_writer(sys.argv[1], 9000, 9000, 3, np.uint8) as writer:
    for _ in range(18):
        writer.write(rows)
    print("written", flush=True)
print("finished", flush=True)
"""


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_a_signal_ends_encoding_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_rgb(path, noise(5, 5, 3))
    before = path.read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    while len(os.listdir(tmp_path)) < 3 and process.poll() is None:  # the scratch file, the result
        pass
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143, process.stdout.read()
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before


FORKED = """
import os
import numpy as np
from datasets.images import write_rgb
from utils import DataError

pixels = np.zeros((4, 4, 3), np.uint8)
write_rgb({path!r}, pixels)
def tell(what):  # in one piece: both processes write to one pipe, where print makes two of a line
    os.write(1, f"{{what}}\\n".encode())

child = os.fork()
try:
    write_rgb({path!r}, pixels)
    tell("written")
except DataError as error:
    tell(error)
if child:
    tell(os.waitpid(child, 0)[1])
"""


def test_a_forked_process_is_refused_rather_than_left_hanging(tmp_path: Path) -> None:
    said = run_python(FORKED.format(path=str(tmp_path / "a.png"))).splitlines()
    assert sorted(said)[:1] == ["0"]
    assert sum("a forked process can't write pictures" in line for line in said) == 1
    assert said.count("written") == 1
