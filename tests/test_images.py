"""Photographs read and written: what files hold survives, what is damaged is refused by name."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from datasets.images import (
    WRITTEN_SUFFIXES,
    read_photo,
    read_rgb,
    read_size,
    write_photo,
    write_rgb,
)
from tests.corrupt import corrupted_files, corruptions
from tests.kinds import KINDS, Kind, plain_tiff
from utils import DataError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture that lossy formats keep well."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    return (127 + 60 * np.sin(y / 9 + c) + 60 * np.cos(x / 11 - c)).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Every EXIF orientation comes out upright, in every format that can carry it."""
    pixels = smooth(24, 40)
    pixels[:4] = 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(pixels).save(path, exif=exif, dpi=(300, 150), **options)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    # Pillow turns TIFF by itself.
    stored = Image.fromarray(pixels) if suffix == ".tif" else Image.open(path).convert("RGB")
    upright = stored.transpose(turn[orientation]) if orientation > 1 else stored
    photo = read_photo(path)
    assert photo.pixels.shape == np.asarray(upright).shape
    tolerance = 3 if suffix == ".jpg" else 0
    assert np.abs(photo.pixels.astype(int) - np.asarray(upright)).max() <= tolerance
    assert read_size(path) == photo.pixels.shape[:2]
    if suffix in (".jpg", ".tif"):
        assert photo.dpi == pytest.approx((300, 150) if orientation >= 5 else (150, 300), abs=1)


def test_kinds_of_colour(tmp_path: Path) -> None:
    grey, rgb = smooth(12, 15, 1)[..., 0], smooth(12, 15)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_photo(tmp_path / "grey.png").pixels, grey[..., None])
    assert np.array_equal(read_rgb(tmp_path / "grey.png"), np.stack([grey] * 3, axis=2))

    palette = Image.fromarray(rgb).quantize(60)
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "palette.gif")
    for name in ("palette.png", "palette.gif"):
        assert np.array_equal(read_rgb(tmp_path / name), np.asarray(palette.convert("RGB")))
    bilevel = Image.fromarray((grey > 127).astype(np.uint8) * 255).convert("1")
    bilevel.save(tmp_path / "bilevel.png")
    bilevel.save(tmp_path / "bilevel.tif")
    for name in ("bilevel.png", "bilevel.tif"):
        assert np.array_equal(read_rgb(tmp_path / name), np.asarray(bilevel.convert("RGB")))

    rgba = np.dstack([rgb, 255 - grey])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert np.array_equal(read_photo(tmp_path / "rgba.png").pixels, rgba)
    assert np.array_equal(read_rgb(tmp_path / "rgba.png"), rgb)


@pytest.mark.parametrize("kind", ["a.jpg", "a.tif", "no Adobe.jpg", "profile of RGB.tif"])
def test_inks_without_a_profile_become_what_browsers_show(tmp_path: Path, kind: str) -> None:
    """(1 - ink)(1 - black): worked out by hand; libvips' own profile would give (0, 137, 159)."""
    inks = np.zeros((32, 64, 4), np.uint8)
    inks[:, 16:] = (0, 0, 0, 255)
    inks[:, 32:] = (0, 255, 255, 0)
    inks[:, 48:] = (200, 30, 60, 40)
    options: dict[str, Any] = {"icc_profile": SRGB} if "profile" in kind else {"quality": 100}
    Image.fromarray(inks, "CMYK").save(tmp_path / kind, **options)
    if "no" in kind:
        content = (tmp_path / kind).read_bytes()
        start = content.index(b"\xff\xee")
        (tmp_path / kind).write_bytes(content[:start] + content[start + 16 :])
    photo = read_photo(tmp_path / kind)
    assert photo.pixels.shape == (32, 64, 3)
    assert photo.icc is None
    colours = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (46, 190, 164)]
    difference = np.abs(photo.pixels[16, 8::16].astype(int) - colours)
    assert difference.max() <= (2 if kind.endswith("jpg") else 0)
    assert np.array_equal(read_rgb(tmp_path / kind), photo.pixels)


def test_other_ways_of_storing(tmp_path: Path) -> None:
    """Interlaced PNG, progressive JPEG, tiled, striped and big-endian TIFF, a chain of pages."""
    pixels = smooth(200, 310)
    image = pyvips.Image.new_from_array(pixels)
    image.pngsave(str(tmp_path / "interlaced.png"), interlace=True)
    image.tiffsave(str(tmp_path / "tiled.tif"), tile=True, tile_width=64, tile_height=64)
    image.tiffsave(str(tmp_path / "lzw.tif"), compression="lzw", bigtiff=True)
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([pixels, 255 - pixels]), photometric="rgb")
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    options: dict[str, Any] = {"planarconfig": "separate", "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "planes.tif", planes, byteorder=">", **options)
    for name in ("interlaced.png", "tiled.tif", "lzw.tif", "pages.tif", "planes.tif"):
        assert np.array_equal(read_rgb(tmp_path / name), pixels), name
    Image.fromarray(pixels).save(tmp_path / "progressive.jpg", progressive=True, quality=95)
    assert np.abs(read_rgb(tmp_path / "progressive.jpg").astype(int) - pixels).max() <= 16


def failure(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_rgb(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"a{suffix}"
    write_rgb(path, noise(60, 70, 3))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert "damaged" in failure(path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert "can't be read (No such file" in failure(path)
    path.write_bytes(b"")
    assert "empty" in failure(path)
    path.write_text("hello")
    assert "no image" in failure(path)
    assert "directory" in failure(tmp_path)
    svg = tmp_path / "a.svg"
    svg.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    assert "no image" in failure(svg)


def test_resolution_of_a_webp_in_other_units(tmp_path: Path) -> None:
    for unit, expected in ((3, (254.0, 127.0)), (2, (100.0, 50.0)), (1, None)):
        exif = Image.Exif()
        exif[282], exif[283] = 50.0, 100.0  # of columns, of rows
        exif[296] = unit
        Image.fromarray(noise(4, 5, 3)).save(tmp_path / "a.webp", exif=exif)
        assert read_photo(tmp_path / "a.webp").dpi == expected
    Image.fromarray(noise(4, 5, 3)).save(tmp_path / "a.webp")
    assert read_photo(tmp_path / "a.webp").dpi is None


@pytest.mark.parametrize("compression", ["lzma", "none"])  # read by Pillow, and by libvips
def test_resolutions_that_cannot_be(tmp_path: Path, compression: str) -> None:
    """They are none; the others stay, and either can be written."""
    path = tmp_path / "a.tif"
    for numerator, denominator, dpi in (
        *((0, 0, None), (1, 0, None), (0, 1, None), (2**32 - 1, 1, None), (1, 2**32 - 1, None)),
        *((25_400_000, 1, None), (25_000_000, 1, 25e6), (300, 1, 300.0), (301, 2, 150.5)),
    ):
        options: dict[str, Any] = {"resolution": ((200, 1), (7919, 1)), "resolutionunit": 2}
        tifffile.imwrite(path, noise(4, 5, 3), compression=compression, **options)
        content, given = path.read_bytes(), struct.pack("<II", 7919, 1)
        assert content.count(given) == 1
        path.write_bytes(content.replace(given, struct.pack("<II", numerator, denominator)))
        photo = read_photo(path)
        assert photo.dpi == (dpi and pytest.approx((dpi, 200.0), rel=1e-7))
        for suffix in WRITTEN_SUFFIXES:
            write_photo(tmp_path / f"b{suffix}", photo)


def test_a_bmp_of_two_thousand_million_pixels_per_metre(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(encoded(".bmp"))
    struct.pack_into("<ii", content, 38, 2**31 - 1, 2**31 - 1)
    (tmp_path / "a.bmp").write_bytes(content)
    photo = read_photo(tmp_path / "a.bmp")
    assert photo.dpi is None
    write_photo(tmp_path / "a.png", photo)
    write_photo(tmp_path / "a.tif", photo)
    assert capfd.readouterr().err == ""  # where GLib would complain


@pytest.mark.parametrize("block", [b"rubbish", b"II*\0", b"II*\0\x08\0\0\0" + b"\xff" * 6])
def test_resolution_beside_damaged_exif(tmp_path: Path, block: bytes) -> None:
    """libvips takes 72 per inch from a damaged block; only what else says so counts."""
    content = encoded(".png")
    path = tmp_path / "a.png"
    damaged = chunk(b"eXIf", block)
    for per_metre, dpi in ((None, None), (2835, 72.0), (11811, 300.0)):
        size = struct.pack(">IIB", per_metre or 0, per_metre or 0, 1)
        before = chunk(b"pHYs", size) if per_metre else b""
        path.write_bytes(content[:33] + before + damaged + content[33:])
        found = read_photo(path).dpi
        assert found == (dpi and pytest.approx((dpi, dpi), abs=0.01))
    floats = noise(4, 5, 3).astype(np.float32) / 255  # which Pillow doesn't read
    options: dict[str, Any] = {"resolution": ((72, 1), (72, 1)), "resolutionunit": 2}
    tifffile.imwrite(tmp_path / "a.tif", floats, photometric="rgb", **options)
    assert read_photo(tmp_path / "a.tif").dpi == (72.0, 72.0)


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    checksum = zlib.crc32(name + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + name + content + checksum


def bomb(path: Path, side: int) -> None:
    """A PNG of a few hundred bytes that claims side x side pixels."""
    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress(bytes(2000))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_bombs_are_refused_with_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    bomb(path, 30000)
    message = failure(path)
    assert "268435456" in message
    assert message.endswith(" (max_pixels)")
    write_rgb(tmp_path / "a.png", noise(20, 30, 3))
    assert "limit of 599" in failure(tmp_path / "a.png", max_pixels=599)
    assert read_rgb(tmp_path / "a.png", max_pixels=600).shape == (20, 30, 3)


def test_warnings_in_any_bytes_stay_quiet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The decoder complains of a broken profile by its name, which is no UTF-8."""
    write_rgb(tmp_path / "a.png", noise(6, 6, 3))
    content = (tmp_path / "a.png").read_bytes()
    end = content.index(b"IDAT") - 4
    profile = bytearray(SRGB)
    profile[132:140] = b"\xff\x01\xe9\x07" * 2
    strange = chunk(b"iCCP", b"i\xe9c\0\0" + zlib.compress(profile))
    (tmp_path / "a.png").write_bytes(content[:end] + strange + content[end:])
    assert np.array_equal(read_rgb(tmp_path / "a.png"), noise(6, 6, 3))
    assert capfd.readouterr().err == ""


def test_names_in_any_bytes(tmp_path: Path) -> None:
    for suffix in (".png", ".tif", ".webp"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9" + suffix.encode()))
        path.write_bytes(encoded(suffix))
        assert read_rgb(path).shape == (33, 41, 3)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for seed in range(3):
        write_rgb(path, noise(5, 5, 3, seed=seed))
        assert np.array_equal(read_rgb(path), noise(5, 5, 3, seed=seed))


BY_LIBVIPS = [".png", ".jpg", ".tif", ".webp", ".gif"]
BY_PILLOW = [".lzma.tif", ".lab.tif", ".bmp", ".ppm", ".jp2", ".avif"]


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    image, options = Image.fromarray(smooth(33, 41)), {}
    if suffix == ".lzma.tif":
        options = {"compression": "lzma"}
    if suffix == ".lab.tif":
        image = image.convert("LAB")
    image.save(buffer, Image.registered_extensions()[Path(f"a{suffix}").suffix], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [*BY_LIBVIPS, *BY_PILLOW])
def test_damage_never_does_more_than_refuse(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each of 60 damaged files is read as some picture or refused in one line."""
    source = tmp_path / f"whole{suffix}"
    source.write_bytes(encoded(suffix))
    read = named = 0
    complaints: list[str] = []
    for path in corrupted_files(source, tmp_path / "damaged", 54):
        try:
            pixels = read_rgb(path)
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3
            read += 1
        except DataError as error:
            complaints.append(str(error))
            named += str(path) in str(error)
    assert capfd.readouterr().err == ""
    print(f"{suffix}: {read} read, {named} refused")
    assert named == len(complaints)
    assert read + named == 60
    assert named >= 20
    assert not any("\n" in complaint for complaint in complaints)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([*BY_LIBVIPS, *BY_PILLOW]),
    st.integers(0, 10**6),
    st.binary(max_size=64),
)
def test_any_bytes(tmp_path: Path, suffix: str, seed: int, tail: bytes) -> None:
    """Damage at random, or arbitrary bytes behind a good start."""
    content = encoded(suffix)
    damaged = next(corruptions(content, 1, seed))[1] if seed % 2 else content[: seed % 60] + tail
    path = tmp_path / "a"
    path.write_bytes(damaged)
    complaint = ""
    try:
        assert read_photo(path, max_pixels=10**6).pixels.ndim == 3
    except DataError as error:
        complaint = str(error)
    assert "\n" not in complaint


def camera_exif() -> Image.Exif:
    """EXIF with maker, date, copyright and position, of a camera turned by 90 degrees."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x8298] = "Maker", 6, "(c) somebody"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825)[1], exif.get_ifd(0x8825)[2] = "N", (47.0, 11.0, 8.0)
    return exif


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_metadata_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    options: dict[str, Any] = {"exif": camera_exif(), "xmp": xmp}
    if suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        text.add_text("Author", "me")
        options = {"exif": camera_exif(), "pnginfo": text}
    if suffix == ".tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags.update({0x010F: "Maker", 0x0112: 6, 0x8298: "(c) somebody", 700: xmp})
        tags[0x8769] = dict(camera_exif().get_ifd(0x8769))
        tags[0x8825] = dict(camera_exif().get_ifd(0x8825))
        options = {"tiffinfo": tags}
    if suffix == ".jpg":
        options["comment"] = "hello"
    Image.fromarray(smooth(20, 30)).save(path, **options)
    photo = read_photo(path)
    assert photo.pixels.shape == (30, 20, 3)
    exif = Image.Exif()
    block = photo.metadata["exif-data"]
    assert isinstance(block, bytes)
    assert block.startswith(b"Exif\0\0")
    exif.load(block)
    assert (exif[0x010F], exif[0x8298]) == ("Maker", "(c) somebody")
    assert 0x0112 not in exif
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert exif.get_ifd(0x8825)[2] == (47.0, 11.0, 8.0)
    assert photo.metadata["xmp-data"] == xmp
    comments = {n[14:]: t for n, t in photo.metadata.items() if n.startswith("png-comment-")}
    assert comments == {".jpg": {"Comment": "hello"}, ".png": {"Author": "me"}}.get(suffix, {})
    assert photo.pictures == 1


def test_metadata_of_no_sense_are_left_out(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(smooth(20, 30)).save(whole, "JPEG")
    block = b"Exif\0\0" + b"\xff" * 20
    marker = b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block
    path = tmp_path / "a.jpg"
    path.write_bytes(whole.getvalue()[:2] + marker + whole.getvalue()[2:])
    assert read_photo(path).metadata == {}
    tifffile.imwrite(tmp_path / "a.tif", noise(2, 8, 9), imagej=True)
    photo = read_photo(tmp_path / "a.tif")
    assert b"ImageJ=" not in photo.metadata["exif-data"]
    assert photo.pictures == 2


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_of_file(kind: Kind, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Pixels as Pillow, tifffile or the file's maker says, or a refusal in one line."""
    path = tmp_path / kind.name
    kind.make(path)
    capfd.readouterr()
    if isinstance(kind.wanted, str):
        assert kind.wanted in failure(path)
        assert capfd.readouterr() == ("", "")
        return
    wanted = kind.wanted if isinstance(kind.wanted, np.ndarray) else kind.wanted(path)
    photo = read_photo(path)
    pixels = photo.pixels
    assert photo.icc is None
    assert pixels.shape == wanted.shape
    assert pixels.dtype == wanted.dtype
    assert np.abs(pixels.astype(int) - wanted).max() <= kind.tolerance
    assert read_size(path) == wanted.shape[:2]
    colours = pixels[..., :-1] if pixels.shape[2] in (2, 4) else pixels
    eight = colours if pixels.dtype == np.uint8 else (colours / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(read_rgb(path), np.broadcast_to(eight, (*eight.shape[:2], 3)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(3))
def test_damaged_headers_of_every_kind(
    tmp_path: Path, seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two bytes near the start changed: some picture of the size promised, or one line."""
    rng = np.random.default_rng(seed)
    path = tmp_path / "a"
    for kind in KINDS:
        kind.make(tmp_path / kind.name)
        content = bytearray((tmp_path / kind.name).read_bytes())
        for place in rng.integers(0, min(len(content), 300) or 1, 2 if content else 0):
            content[place] = rng.choice([0, 1, 2, 255, rng.integers(256)])
        path.write_bytes(content)
        capfd.readouterr()
        complaint = ""
        try:
            photo = read_photo(path, max_pixels=10**6)
            assert read_size(path) == photo.pixels.shape[:2], kind.name
        except DataError as error:
            complaint = str(error)
        assert "\n" not in complaint
        assert capfd.readouterr() == ("", ""), kind.name


def test_inks_with_a_profile_become_what_it_says(tmp_path: Path) -> None:
    rgb = pyvips.Image.new_from_array(smooth(20, 30)).copy(interpretation="srgb")
    inks = rgb.icc_transform("cmyk", input_profile="srgb")  # the profile comes along
    inks.tiffsave(str(tmp_path / "a.tif"))
    wanted = inks.icc_transform("srgb", embedded=True).numpy().astype(int)
    photo = read_photo(tmp_path / "a.tif")
    assert photo.icc is None
    assert np.abs(photo.pixels - wanted).max() <= 3
    plain = np.asarray(Image.fromarray(inks.numpy(), "CMYK").convert("RGB")).astype(int)
    assert np.abs(plain - wanted).max() > 30


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".png", ".tif"])
def test_sizes_that_a_header_claims(tmp_path: Path, suffix: str) -> None:
    """Refused undecoded, by our limit rather than Pillow's."""
    content = bytearray(encoded(suffix))
    side = 20000
    if suffix == ".bmp":
        struct.pack_into("<II", content, 18, side, side)
    elif suffix == ".ppm":
        content[:8] = f"P6\n{side} {side}\n".encode()
    elif suffix == ".png":
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    else:
        tags = {256: [side], 257: [side], 259: [34925]}  # compressed by LZMA
        plain_tiff(1, [8], bytes(9), tags)(tmp_path / "a.tif")
        content = bytearray((tmp_path / "a.tif").read_bytes())
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    assert "20000x20000 pixels, more than the limit of 268435456" in failure(path)


def test_there_are_many_kinds() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) >= 80
