"""Kinds of picture files, made here, and what Pillow, tifffile or their maker says is in each."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import tifffile
from PIL import Image, ImageOps

HEIGHT, WIDTH = 24, 32


def picture() -> np.ndarray:
    """A small photograph, uint8 (HEIGHT, WIDTH, 3)."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [127 + 100 * np.sin((x * (k + 1) + y * (3 - k)) / 9) for k in range(3)]
    noise = np.random.default_rng(0).normal(0, 4, (HEIGHT, WIDTH, 3))
    return (np.stack(waves, 2) + noise).clip(0, 255).astype(np.uint8)


RGB = picture()
GREY = RGB[..., :1]
ALPHA = np.linspace(0, 255, WIDTH)[None, :, None].repeat(HEIGHT, 0).astype(np.uint8)
RGBA = np.concatenate([RGB, ALPHA], axis=2)
FADED = (RGB * (ALPHA / 255)).round().astype(np.uint8)  # multiplied by alpha
IMAGE = Image.fromarray(RGB)
CMYK = np.asarray(IMAGE.convert("CMYK"))
YCBCR = np.asarray(IMAGE.convert("YCbCr"))
LAB = np.asarray(IMAGE.convert("LAB"))


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of the file, its suffix included.
        make: writes it.
        wanted: the pixels (H, W, C) of `Photo`; or what reads them from the file; or, where the
            file is to be refused, a part of the message.
        tolerance: in levels of wanted's dtype.
    """

    name: str
    make: Callable[[Path], object]
    wanted: np.ndarray | Callable[[Path], np.ndarray] | str
    tolerance: int = 0


def by_pillow(path: Path) -> np.ndarray:
    """Pixels as Pillow shows them: uint8, RGB or grey, alpha where there is any."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        seen_through = "transparency" in image.info or image.mode in ("LA", "La", "RGBA", "RGBa")
        grey = image.mode in ("1", "L", "LA", "La")
        mode = {(True, True): "LA", (True, False): "L", (False, True): "RGBA"}
        image = image.convert(mode.get((grey, seen_through), "RGB"))
        return np.asarray(image).reshape(image.height, image.width, -1)


def opaque(path: Path) -> np.ndarray:
    """As Pillow shows them, with an alpha that hides nothing."""
    return np.dstack([by_pillow(path), np.full((HEIGHT, WIDTH), 255, np.uint8)])


def by_tifffile(path: Path) -> np.ndarray:
    """Pixels as tifffile gives them; float in [0, 1] over the range of 16 bits."""
    pixels = tifffile.imread(path, key=0)
    if pixels.dtype.kind == "f":
        pixels = (pixels.astype(np.float64) * 65535).round().astype(np.uint16)
    return pixels.reshape(HEIGHT, WIDTH, -1)


def wide(pixels: np.ndarray) -> np.ndarray:
    """8 bits spread over 16."""
    return pixels.astype(np.uint16) * 257


def saved(image: Image.Image = IMAGE, **options: Any) -> Callable[[Path], object]:
    """What writes a file with Pillow."""
    return lambda path: image.save(path, **options)


def tiff(pixels: np.ndarray, photometric: str = "rgb", **options: Any) -> Callable[[Path], object]:
    """What writes a file with tifffile."""
    if pixels.shape[-1] > 1:
        options.setdefault("planarconfig", "contig")
    elif pixels.ndim == 3:
        pixels = pixels[..., 0]
    return lambda path: tifffile.imwrite(path, pixels, photometric=photometric, **options)


def planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def plain_tiff(
    photometric: int | None,
    bits: Sequence[int],
    data: bytes,
    more: dict[int, Sequence[int]] | None = None,
) -> Callable[[Path], object]:
    """What writes a TIFF tag by tag, all of them of 16 bits."""
    tags: dict[int, Sequence[int]] = {
        **{256: [WIDTH], 257: [HEIGHT], 258: bits, 259: [1], 277: [len(bits)], 278: [HEIGHT]},
        **({} if photometric is None else {262: [photometric]}),
        **(more or {}),
        **{273: [0], 279: [len(data)]},
    }
    place = 8 + 2 + 12 * len(tags) + 4
    long_ones = b""
    entries = []
    for code, values in sorted(tags.items()):
        raw = struct.pack(f"<{len(values)}H", *values)
        if len(raw) > 4:
            start, long_ones = place + len(long_ones), long_ones + raw
            raw = struct.pack("<I", start)
        entries.append((code, len(values), raw.ljust(4, b"\0")))
    start = struct.pack("<HH", place + len(long_ones), 0)

    def directory() -> Iterator[bytes]:
        yield struct.pack("<2sHIH", b"II", 42, 8, len(entries))
        for code, count, raw in entries:
            yield struct.pack("<HHI", code, 3, count) + (start if code == 273 else raw)
        yield bytes(4)

    content = b"".join(directory()) + long_ones + data
    return lambda path: path.write_bytes(content)


def packed(values: np.ndarray, bits: int) -> bytes:
    """Numbers (H, N) of so many bits each, rows ending with whole bytes."""
    shifted = values[..., None] >> np.arange(bits - 1, -1, -1)
    return np.packbits((shifted & 1).astype(np.uint8).reshape(len(values), -1), axis=1).tobytes()


def subsampled(values: np.ndarray) -> bytes:
    """YCbCr (H, W, 3) with one pair of colour differences per 2x2 pixels, as TIFF stores it."""
    blocks = values.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).transpose(0, 2, 1, 3, 4)
    light = blocks[..., 0].reshape(HEIGHT // 2, WIDTH // 2, 4)
    colour = blocks[..., 1:].mean(axis=(2, 3)).round()
    return np.concatenate([light, colour], axis=2).astype(np.uint8).tobytes()


def encoded(format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    IMAGE.save(stream, format, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes, wrong: int = 0) -> bytes:
    """A chunk of PNG, its checksum perhaps wrong."""
    checksum = (zlib.crc32(name + content) + wrong) & 0xFFFFFFFF
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def with_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def avif(pixels: np.ndarray, bits: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        image = pyvips.Image.new_from_array(pixels)
        image = image.copy(interpretation="rgb16" if bits > 8 else "srgb")
        image.heifsave(str(path), bitdepth=bits, compression="av1", lossless=True)

    return make


def pyramid(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(RGB, photometric="rgb", tile=(16, 16))
        writer.write(RGB[::2, ::2], photometric="rgb", tile=(16, 16), subfiletype=1)


def jpeg_kinds() -> Iterator[Kind]:
    jpeg = encoded("JPEG", quality=95)
    exif = b"Exif\0\0" + b"\xff" * 20
    marker = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    turned = Image.Exif()
    turned[274] = 6
    yield Kind("plain.jpg", saved(quality=95), by_pillow)
    yield Kind("progressive.JPE", saved(format="JPEG", progressive=True), by_pillow)
    yield Kind("subsampled.jfif", saved(format="JPEG", quality=70, subsampling=2), by_pillow)
    yield Kind("upper_case.JPEG", saved(format="JPEG"), by_pillow)
    yield Kind("grey.jpg", saved(Image.fromarray(GREY[..., 0]), quality=95), by_pillow)
    yield Kind("cmyk.jpg", saved(IMAGE.convert("CMYK"), quality=95), by_pillow)
    yield Kind("mpo.jpg", saved(format="MPO", save_all=True, append_images=[IMAGE]), by_pillow)
    yield Kind("no_eoi.jpg", with_bytes(jpeg[:-2]), "damaged")
    yield Kind("half.jpg", with_bytes(jpeg[: len(jpeg) // 2]), "damaged")
    yield Kind("trailing.jpg", with_bytes(jpeg + b"rubbish" * 50), by_pillow)
    yield Kind("zeros_after.jpg", with_bytes(jpeg + bytes(4096)), by_pillow)
    yield Kind("extraneous.jpg", with_bytes(jpeg[:2] + bytes(4) + jpeg[2:]), "no image")
    yield Kind("bad_exif.jpg", with_bytes(jpeg[:2] + marker + jpeg[2:]), by_pillow)
    yield Kind("orientation6.jpg", saved(exif=turned), by_pillow)
    yield Kind("column.jpg", saved(IMAGE.crop((0, 0, 1, HEIGHT))), by_pillow)
    yield Kind("a_jpeg.png", with_bytes(jpeg), by_pillow)


def png_kinds() -> Iterator[Kind]:
    png = encoded("PNG")
    grey = Image.fromarray(GREY[..., 0])
    colour = tuple(int(v) for v in RGB[3, 4])
    turned = Image.Exif()
    turned[274] = 6
    gamma = chunk(b"gAMA", struct.pack(">I", 100000))
    yield Kind("plain.png", saved(), RGB)
    yield Kind("a_png.jpg", with_bytes(png), RGB)
    yield Kind("no_suffix", with_bytes(png), RGB)
    yield Kind("grey.png", saved(grey), GREY)
    yield Kind("grey16.png", saved(Image.fromarray(wide(GREY[..., 0]))), wide(GREY))
    yield Kind("rgba.png", saved(Image.fromarray(RGBA)), RGBA)
    yield Kind("grey_alpha.png", saved(Image.fromarray(RGBA[..., [0, 3]], "LA")), RGBA[..., [0, 3]])
    yield Kind("palette.png", saved(IMAGE.quantize(64)), by_pillow)
    yield Kind("palette4.png", saved(IMAGE.quantize(16), bits=4), by_pillow)
    yield Kind("palette_trns.png", saved(IMAGE.quantize(64), transparency=3), by_pillow)
    yield Kind("onebit.png", saved(IMAGE.convert("1")), by_pillow)
    yield Kind("rgb_trns.png", saved(transparency=colour), by_pillow)
    yield Kind("grey_trns.png", saved(grey, transparency=int(GREY[3, 4, 0])), by_pillow)
    yield Kind("apng.png", saved(save_all=True, append_images=[IMAGE.rotate(90)]), RGB)
    yield Kind("orientation6.png", saved(exif=turned), by_pillow)
    yield Kind("trailing.png", with_bytes(png + b"rubbish" * 50), RGB)
    yield Kind("no_iend.png", with_bytes(png[:-12]), RGB)
    yield Kind("half.png", with_bytes(png[: len(png) // 2]), "damaged")
    comment = chunk(b"tEXt", b"a\0b", wrong=1)
    yield Kind("bad_comment.png", with_bytes(png[:33] + comment + png[33:]), RGB)
    profile = chunk(b"iCCP", b"x\0\0rubbish")
    yield Kind("bad_profile.png", with_bytes(png[:33] + profile + png[33:]), RGB)
    yield Kind("gamma1.png", with_bytes(png[:33] + gamma + png[33:]), RGB)
    yield Kind("one_pixel.png", saved(IMAGE.crop((0, 0, 1, 1))), RGB[:1, :1])


def tiff_kinds() -> Iterator[Kind]:
    yield from tiffs_of_integers()
    yield from tiffs_of_floats()
    yield from tiffs_with_more_channels()
    yield from tiffs_of_other_colours()
    yield from tiffs_by_compression()


def tiffs_of_integers() -> Iterator[Kind]:
    inverted = 255 - GREY
    yield Kind("plain.tif", saved(), RGB)
    yield Kind("grey.tif", tiff(GREY, "minisblack"), GREY)
    yield Kind("white_is_zero.tif", tiff(inverted, "miniswhite"), GREY)
    yield Kind("white_is_zero16.tif", tiff(65535 - wide(GREY), "miniswhite"), wide(GREY))
    yield Kind("onebit.tif", saved(IMAGE.convert("1"), compression="group4"), by_pillow)
    yield Kind("onebit_white.tif", tiff(GREY < 128, "miniswhite"), (GREY >= 128) * np.uint8(255))
    for bits in (2, 4):
        values = GREY[..., 0] >> (8 - bits)
        yield Kind(f"grey{bits}.tif", plain_tiff(1, [bits], packed(values, bits)), by_pillow)
    for bits in (10, 12, 14):
        values = GREY[..., 0].astype(int) << (bits - 8)
        made = plain_tiff(1, [bits], packed(values, bits))
        yield Kind(f"grey{bits}.tif", made, f"MINISBLACK of {bits} bits")
    values = RGB.reshape(HEIGHT, -1).astype(int) << 4
    yield Kind("rgb12.tif", plain_tiff(2, [12] * 3, packed(values, 12)), "12 bits")
    yield Kind("rgb565.tif", plain_tiff(2, [5, 6, 5], bytes(HEIGHT * WIDTH * 2)), "different kinds")
    yield Kind("rgb16.tif", tiff(wide(RGB)), by_tifffile)
    yield Kind("rgb16_big_endian.tif", tiff(wide(RGB), byteorder=">"), by_tifffile)
    yield Kind("bigtiff.tif", tiff(RGB, bigtiff=True), RGB)
    yield Kind(
        "bigtiff16_big_endian.tif", tiff(wide(RGB), bigtiff=True, byteorder=">"), by_tifffile
    )
    yield Kind("uint32_grey.tif", tiff(GREY.astype(np.uint32), "minisblack"), "32 bits, unsigned")
    yield Kind("uint32_rgb.tif", tiff(RGB.astype(np.uint32) << 24), "32 bits, unsigned")
    yield Kind("uint64.tif", tiff(GREY.astype(np.uint64), "minisblack"), "64 bits, unsigned")
    for bits in (8, 16, 32):
        values = GREY.astype(f"int{bits}")
        yield Kind(f"int{bits}.tif", tiff(values, "minisblack"), f"{bits} bits, signed")
    yield Kind("complex.tif", tiff(GREY.astype(np.complex64), "minisblack"), "complex")
    yield Kind("planar.tif", tiff(planes(RGB), planarconfig="separate"), RGB)
    yield Kind("planar16.tif", tiff(planes(wide(RGB)), planarconfig="separate"), wide(RGB))
    tiles = tiff(planes(RGB), planarconfig="separate", tile=(16, 16))
    yield Kind("planar_tiled.tif", tiles, RGB)
    tiles = tiff(planes(wide(RGB)), planarconfig="separate", tile=(16, 16))
    yield Kind("planar_tiled16.tif", tiles, "stored so")
    yield Kind("tiled.tif", tiff(RGB, tile=(16, 16)), RGB)
    yield Kind("predictor.tif", tiff(RGB, compression="zlib", predictor=True), RGB)
    yield Kind("pages.tif", tiff(np.stack([RGB, RGB[::-1]])), RGB)
    yield Kind("pyramid.tif", pyramid, RGB)
    turned = Image.Exif()
    turned[274] = 6
    yield Kind("orientation6.tif", saved(exif=turned), by_pillow)
    yield Kind("no_photometric.tif", plain_tiff(None, [8], GREY.tobytes()), "its colour model, -1")
    stack = np.stack([GREY[..., 0], GREY[::-1, :, 0]])
    yield Kind("imagej.tif", lambda path: tifffile.imwrite(path, stack, imagej=True), GREY)


def tiffs_of_floats() -> Iterator[Kind]:
    for dtype in (np.float16, np.float32):
        name = np.dtype(dtype).name
        grey = tiff((GREY / 255).astype(dtype), "minisblack")
        yield Kind(f"{name}.tif", tiff((RGB / 255).astype(dtype)), by_tifffile, 1)
        yield Kind(f"{name}_grey.tif", grey, by_tifffile, 1)
    values = (RGB / 255).astype(np.float32)
    yield Kind("float_rgba.tif", tiff((RGBA / 255).astype(np.float32)), by_tifffile)
    yield Kind("float_big_endian.tif", tiff(values, byteorder=">"), by_tifffile)
    yield Kind("float_deflate.tif", tiff(values, compression="zlib"), by_tifffile)
    white = tiff((1 - GREY / 255).astype(np.float32), "miniswhite")
    yield Kind("float_white_is_zero.tif", white, wide(GREY), 1)
    yield Kind("float255.tif", tiff(RGB.astype(np.float32)), "allowed: 0 (black) to 1 (white)")
    yield Kind("float_negative.tif", tiff(values - 0.1), "allowed: 0 (black) to 1 (white)")
    lost = np.where(RGB > 200, np.nan, values).astype(np.float32)
    yield Kind("float_nan.tif", tiff(lost), "allowed: 0 (black) to 1 (white)")
    yield Kind("float64.tif", tiff(RGB / 255), "64 bits, float")


def tiffs_with_more_channels() -> Iterator[Kind]:
    grey_alpha = RGBA[..., [0, 3]]
    more = np.concatenate([RGBA, GREY], axis=2)
    unassociated, unspecified, associated = "unassalpha", "unspecified", "assocalpha"
    yield Kind("rgba.tif", tiff(RGBA, extrasamples=[unassociated]), RGBA)
    yield Kind("rgba16.tif", tiff(wide(RGBA), extrasamples=[unassociated]), wide(RGBA))
    faded = np.concatenate([FADED, ALPHA], axis=2)
    yield Kind("associated.tif", tiff(faded, extrasamples=[associated]), by_pillow)
    yield Kind("rgba_untold.tif", plain_tiff(2, [8] * 4, RGBA.tobytes()), RGBA)
    yield Kind("infrared.tif", tiff(RGBA, extrasamples=[unspecified]), RGB)
    yield Kind("infrared16.tif", tiff(wide(RGBA), extrasamples=[unspecified]), wide(RGB))
    yield Kind("two_unspecified.tif", tiff(more, extrasamples=[unspecified] * 2), RGB)
    yield Kind("alpha_and_more.tif", tiff(more, extrasamples=[unassociated, unspecified]), RGBA)
    faded = np.concatenate([FADED, ALPHA, GREY], axis=2)
    options = {"extrasamples": [associated, unspecified]}
    yield Kind("associated_and_more.tif", tiff(faded, **options), by_pillow)
    options = {"extrasamples": [unspecified, associated]}
    yield Kind("alpha_last.tif", tiff(more, **options), "alpha that isn't the first")
    six = np.concatenate([more, GREY], axis=2)
    options = {"extrasamples": [unspecified] * 3, "planarconfig": "separate"}
    yield Kind("six_planes.tif", tiff(planes(six), **options), RGB)
    options = {"extrasamples": [unassociated]}
    yield Kind("grey_alpha.tif", tiff(grey_alpha, "minisblack", **options), grey_alpha)
    inverted = np.concatenate([255 - GREY, ALPHA], axis=2)
    yield Kind("white_alpha.tif", tiff(inverted, "miniswhite", **options), grey_alpha)
    options = {"extrasamples": [unspecified]}
    yield Kind("grey_and_more.tif", tiff(grey_alpha, "minisblack", **options), GREY)
    yield Kind("three_of_grey.tif", tiff(RGB, "minisblack"), "MINISBLACK with 3 channels")
    floats = (grey_alpha / 255).astype(np.float32)
    for name, photometric, extra, pixels, more_options in (
        ("8", "minisblack", unassociated, grey_alpha, {}),
        ("8_lzma", "minisblack", unassociated, grey_alpha, {"compression": "lzma"}),
        ("16", "minisblack", unassociated, wide(grey_alpha), {"rowsperstrip": 5}),
        ("float", "minisblack", associated, floats, {}),
        ("white", "miniswhite", unassociated, inverted, {"rowsperstrip": 5}),
        ("unexplained", "minisblack", unspecified, grey_alpha, {}),
    ):
        options = {"extrasamples": [extra], "planarconfig": "separate", **more_options}
        refused = f"{photometric.upper()} with 2 channels in separate planes"
        made = tiff(planes(pixels), photometric, **options)
        yield Kind(f"two_planes_{name}.tif", made, refused)


def tiffs_of_other_colours() -> Iterator[Kind]:
    for bits in (1, 2, 4, 8):
        image = IMAGE.quantize(2**bits)
        colours = np.zeros((2**bits, 3), int)
        known = np.array(image.getpalette()).reshape(-1, 3)[: 2**bits]
        colours[: len(known)] = known
        data = packed(np.asarray(image), bits)
        table = {320: (colours * 257).T.flatten().tolist()}
        name = f"palette{bits}.tif"
        yield Kind(name, plain_tiff(3, [bits], data, table), by_pillow)
        short = {320: table[320][:-3]}
        refused = f"{3 * 2**bits - 3} of the palette's {3 * 2**bits} numbers"
        yield Kind(f"palette{bits}_short.tif", plain_tiff(3, [bits], data, short), refused)
        refused = f"0 of the palette's {3 * 2**bits} numbers"
        yield Kind(f"palette{bits}_missing.tif", plain_tiff(3, [bits], data), refused)
    yield Kind("cmyk.tif", saved(IMAGE.convert("CMYK")), by_pillow)
    yield Kind("cmyk_planar.tif", tiff(planes(CMYK), "separated", planarconfig="separate"), RGB, 1)
    yield Kind("cmyk16.tif", tiff(wide(CMYK), "separated"), wide(RGB), 257)
    with_alpha = np.concatenate([CMYK, ALPHA], axis=2)
    yield Kind(
        "cmyk_alpha.tif", tiff(with_alpha, "separated", extrasamples=["unassalpha"]), RGBA, 1
    )
    other = plain_tiff(5, [8] * 4, CMYK.tobytes(), {332: [2]})
    yield Kind("other_inks.tif", other, "other inks than cyan")
    yield Kind("ycbcr.tif", saved(IMAGE.convert("YCbCr")), by_pillow)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd"):
        name = f"ycbcr_{compression}.tif"
        yield Kind(name, saved(IMAGE.convert("YCbCr"), compression=compression), by_pillow)
    two = {530: [2, 2]}
    averages = np.stack([YCBCR[..., 0], *(blocky(YCBCR[..., k]) for k in (1, 2))], axis=2)
    shown = np.asarray(Image.fromarray(averages, "YCbCr").convert("RGB"))
    yield Kind("ycbcr_2x2.tif", plain_tiff(6, [8] * 3, subsampled(YCBCR), two), shown, 1)
    deflated = zlib.compress(subsampled(YCBCR))
    wanted = by_pillow
    yield Kind("ycbcr_2x2_z.tif", plain_tiff(6, [8] * 3, deflated, {**two, 259: [8]}), wanted)
    untold = plain_tiff(6, [8] * 3, YCBCR.tobytes())
    yield Kind("ycbcr_untold.tif", untold, "doesn't say its subsampling")
    yield Kind("lab.tif", saved(IMAGE.convert("LAB")), by_pillow)
    deflate = {"compression": "tiff_adobe_deflate"}
    yield Kind("lab_deflate.tif", saved(IMAGE.convert("LAB"), **deflate), by_pillow)
    lab16 = plain_tiff(8, [16] * 3, wide(LAB).tobytes())
    yield Kind("lab16.tif", lab16, "CIELAB of 16 bits")
    yield Kind("icclab.tif", plain_tiff(9, [8] * 3, LAB.tobytes()), "ICCLAB")
    yield Kind("linear_raw.tif", plain_tiff(34892, [8] * 3, RGB.tobytes()), "LINEAR_RAW")
    yield Kind("sensor.tif", tiff(GREY, "cfa"), "CFA")
    yield Kind("mask.tif", plain_tiff(4, [1], packed(GREY[..., 0] >> 7, 1)), "MASK")


def blocky(plane: np.ndarray) -> np.ndarray:
    """A plane (H, W) with each 2x2 pixels replaced by their rounded mean."""
    means = plane.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean(axis=(1, 3)).round()
    return means.astype(np.uint8).repeat(2, 0).repeat(2, 1)


def tiffs_by_compression() -> Iterator[Kind]:
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        yield Kind(f"rgb_{compression}.tif", saved(compression=compression), RGB)
    yield Kind("rgb_jpeg.tif", saved(compression="jpeg"), by_pillow)
    cmyk = IMAGE.convert("CMYK")
    yield Kind("cmyk_lzw.tif", saved(cmyk, compression="tiff_lzw"), by_pillow)
    yield Kind("cmyk_zstd.tif", saved(cmyk, compression="zstd"), by_pillow)
    lzma: dict[str, Any] = {"compression": "lzma"}
    yield Kind("rgba_lzma.tif", tiff(RGBA, extrasamples=["unassalpha"], **lzma), RGBA)
    faded = np.concatenate([FADED, ALPHA], axis=2)
    options = {"extrasamples": ["assocalpha"], **lzma}
    yield Kind("associated_lzma.tif", tiff(faded, **options), by_pillow)
    yield Kind("infrared_lzma.tif", tiff(RGBA, extrasamples=["unspecified"], **lzma), RGB)
    yield Kind("planar_lzma.tif", tiff(planes(RGB), planarconfig="separate", **lzma), RGB)
    yield Kind("white_lzma.tif", tiff(255 - GREY, "miniswhite", **lzma), GREY)
    yield Kind("white16_lzma.tif", tiff(65535 - wide(GREY), "miniswhite", **lzma), wide(GREY))
    yield Kind("grey16_lzma.tif", tiff(wide(GREY), "minisblack", **lzma), wide(GREY))
    yield Kind("rgb16_lzma.tif", tiff(wide(RGB), **lzma), "RGB of 16 bits stored so (LZMA)")
    floats = (GREY / 255).astype(np.float32)
    yield Kind("float_lzma.tif", tiff(floats, "minisblack", **lzma), by_tifffile)
    floats = (RGB / 255).astype(np.float32)
    yield Kind("float_rgb_lzma.tif", tiff(floats, **lzma), "stored so (LZMA)")


def other_kinds() -> Iterator[Kind]:
    grey, frames = Image.fromarray(GREY[..., 0]), [IMAGE.rotate(90)]
    indexed = IMAGE.quantize(64)
    more: list[Image.Image] = [indexed.rotate(90)]
    turned = Image.Exif()
    turned[274] = 6
    yield Kind("plain.gif", saved(indexed), by_pillow)
    yield Kind("animated.gif", saved(indexed, save_all=True, append_images=more), opaque)
    yield Kind("plain.webp", saved(quality=80), by_pillow)
    yield Kind("rgba.webp", saved(Image.fromarray(RGBA), lossless=True, exact=True), RGBA)
    yield Kind("animated.webp", saved(save_all=True, append_images=frames, lossless=True), RGB)
    yield Kind("orientation6.webp", saved(exif=turned, lossless=True), by_pillow)
    yield Kind("plain.avif", saved(quality=90), by_pillow)
    yield Kind("orientation6.avif", saved(exif=turned, quality=90), by_pillow)
    ramp = np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3) % 1024
    spread = (ramp * (65535 / 1023)).round().astype(np.uint16)
    yield Kind("ten_bits.avif", avif((ramp << 6).astype(np.uint16), 10), spread)
    yield Kind("plain.bmp", saved(), RGB)
    yield Kind("grey.bmp", saved(grey), GREY)
    yield Kind("palette.dib", saved(indexed, format="BMP"), by_pillow)
    yield Kind("onebit.bmp", saved(IMAGE.convert("1")), by_pillow)
    yield Kind("rgba.bmp", saved(Image.fromarray(RGBA)), by_pillow)
    bmp = encoded("BMP")
    yield Kind("half.bmp", with_bytes(bmp[: len(bmp) // 2]), "damaged")
    yield Kind("a_bmp.png", with_bytes(bmp), RGB)
    yield Kind("plain.ppm", saved(), RGB)
    yield Kind("plain.pgm", saved(grey), GREY)
    yield Kind("onebit.pbm", saved(IMAGE.convert("1")), by_pillow)
    text = f"P3\n# by hand\n{WIDTH} {HEIGHT} 255\n" + " ".join(map(str, RGB.flatten()))
    yield Kind("text.ppm", with_bytes(text.encode()), RGB)
    head = f"P5 {WIDTH} {HEIGHT} 65535\n".encode()
    yield Kind("grey16.pgm", with_bytes(head + wide(GREY).astype(">u2").tobytes()), wide(GREY))
    head = f"P6 {WIDTH} {HEIGHT} 65535\n".encode()
    yield Kind("rgb16.ppm", with_bytes(head + wide(RGB).astype(">u2").tobytes()), by_pillow)
    yield Kind("half.ppm", with_bytes(encoded("PPM")[:500]), "damaged")
    head = f"Pf\n{WIDTH} {HEIGHT}\n-1.0\n".encode()
    floats = (GREY[::-1] / 255).astype("<f4")
    yield Kind("grey.pfm", with_bytes(head + floats.tobytes()), wide(GREY))
    yield Kind("plain.jp2", saved(), RGB)
    yield Kind("grey.jp2", saved(grey), GREY)
    yield Kind("rgba.jp2", saved(Image.fromarray(RGBA)), RGBA)
    yield Kind("grey16.jp2", saved(Image.fromarray(wide(GREY[..., 0]))), wide(GREY))
    yield Kind("codestream.j2k", saved(), RGB)
    yield Kind("tga.tga", saved(), "no image")
    yield Kind("ico.ico", saved(), "no image")
    yield Kind("empty.png", with_bytes(b""), "an empty file")
    yield Kind("text.png", with_bytes(b"no picture at all"), "no image")


KINDS = [*jpeg_kinds(), *png_kinds(), *tiff_kinds(), *other_kinds()]
