"""Frames as a video file, or as numbered pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from datasets.encoders import to_8_bits
from datasets.files import NAME_BYTES, beside, file_errors, move_into_place
from datasets.images import JPEG_QUALITY, Photo, write_photo
from engine.render.video_look import (
    FULL,
    LIMITED,
    RGB,
    Look,
    convert,
    guessed_matrix,
    import_av,
    stored,
    upright_size,
    video_errors,
)
from utils import ConfigError, DataError

# Ending -> FFmpeg's name of the container, and its encoders for 8 and for more bits.
CONTAINERS = {
    ".mp4": ("mp4", "libx264", "libx265"),
    ".mkv": ("matroska", "libx264", "libx265"),
    ".webm": ("webm", "libvpx-vp9", "libsvtav1"),
    ".gif": ("gif", "gif", "gif"),
}
QUALITY = 65  # of 1 to 100; crf 18 of H.264
LARGEST_CRF = {"libx264": 51, "libx265": 51, "libvpx-vp9": 63, "libsvtav1": 63}
GIF_CLOCK = Fraction(1, 100)


def check_video_name(path: Path, option: str) -> None:
    """Raises ConfigError for a format that isn't written, or where PyAV is missing."""
    if path.suffix.lower() not in CONTAINERS:
        allowed = ", ".join(CONTAINERS)
        raise ConfigError(f"{option}: {path} given; allowed: a name that ends in {allowed}")
    import_av()


def choose_encoder(ending: str, bits: int, quality: int) -> tuple[str, dict[str, str]]:
    """An encoder and its options; a quality of 100 is lossless, but for .gif and 10-bit .webm."""
    encoder = CONTAINERS[ending][1 if bits == 8 else 2]
    if encoder == "gif":
        return encoder, {}
    if quality == 100 and ending == ".mkv":
        return "ffv1", {}
    lossless = quality == 100
    crf = {"crf": str(round(LARGEST_CRF[encoder] * (100 - quality) / 100))}
    if encoder == "libx265":
        return encoder, {**crf, "x265-params": f"log-level=none{':lossless=1' * lossless}"}
    if encoder == "libvpx-vp9":
        rate = {"lossless": "1"} if lossless else {**crf, "b": "0"}
        return encoder, {**rate, "row-mt": "1", "deadline": "good", "cpu-used": "3"}
    return encoder, {**crf, "preset": "8"} if encoder == "libsvtav1" else crf


def choose_layout(encoder: str, look: Look) -> str:
    """The layout of pixels that an encoder takes and that is nearest to the look's."""
    av = import_av()
    if encoder == "gif":
        return "pal8"
    taken = {form.name for form in av.codec.Codec(encoder, "w").video_formats}
    form, deep = av.VideoFormat(look.pix_fmt), "10le" if look.bits > 8 else ""
    if form.is_rgb and encoder == "ffv1":
        return "bgr0" if look.bits == 8 else "gbrp16le"
    across, down = 8 // form.chroma_width(8), 8 // form.chroma_height(8)
    chroma = {(1, 1): "444", (2, 1): "422"}.get((across, down), "420")
    if form.is_rgb or len(form.components) < 3:
        chroma = "420"  # what every player shows
    near = f"yuv{chroma}p{deep}"
    return near if near in taken else f"yuv420p{deep}"


class VideoWriter:
    """The frames of a video file that is being written.

    Args:
        output: the container, from `open_output`.
        size: (height, width) of the pictures, upright.
        look: of the video that they are made of; the file's own is the attribute `look`.

    Raises:
        DataError: the encoder takes no frames of that size.
    """

    def __init__(self, output: Output, size: tuple[int, int], look: Look, quality: int) -> None:
        self.av, self.container = import_av(), output.container
        encoder, options = choose_encoder(output.ending, look.bits, quality)
        form = choose_layout(encoder, look)
        if look.matrix == RGB and not self.av.VideoFormat(form).is_rgb:
            look = dataclasses.replace(look, matrix=guessed_matrix(*size), full=False)
        self.gif = encoder == "gif"
        if self.gif:  # knows no orientation
            look = dataclasses.replace(look, display=None)
        self.look = dataclasses.replace(look, pix_fmt=form)
        self.size = upright_size(size, self.look)
        layout = self.av.VideoFormat("yuv420p" if self.gif else form)
        across, down = 2 // layout.chroma_width(2), 2 // layout.chroma_height(2)
        if self.gif or layout.is_rgb:
            across = down = 1
        # Encoders refuse an odd number of rows or columns where chroma has half of them.
        self.padded = -(-self.size[0] // down) * down, -(-self.size[1] // across) * across
        os.environ.setdefault("SVT_LOG", "1")  # errors alone, of libsvtav1
        self.stream = self.container.add_stream(encoder, rate=look.rate, options=options)
        self.clock = GIF_CLOCK if self.gif else look.time_base
        context = self.stream.codec_context
        self.prepare(context, encoder == "libx265" and output.ending == ".mp4")
        try:
            context.open(strict=False)
        except self.av.FFmpegError as error:
            height, width = self.padded
            given = f"{output.path}: frames of {width}x{height} pixels"
            raise DataError(f"{given} can't be encoded by {encoder}; try another size") from error
        self.graph: Any = None

    def prepare(self, context: Any, apple: bool) -> None:
        """Tell the encoder what it will get."""
        context.height, context.width = self.padded
        context.pix_fmt = self.look.pix_fmt
        context.time_base = self.clock  # its own choice would merge stamps of a varying rate
        if self.gif:
            return
        self.stream.time_base = self.clock
        context.colorspace = self.look.matrix
        context.color_range = FULL if self.look.full else LIMITED
        context.color_primaries, context.color_trc = self.look.primaries, self.look.transfer
        if self.look.aspect is not None:
            context.sample_aspect_ratio = self.look.aspect
        if self.look.display is not None:
            self.stream.set_display_matrix(self.look.display)
        if apple:
            context.codec_tag = "hvc1"  # what Apple's players ask for

    def write(self, pixels: np.ndarray, stamp: int, duration: int = 0) -> None:
        """Add a frame.

        Args:
            pixels: (height, width, 3), uint8 or uint16, upright.
            stamp, duration: when it is shown and how long, in units of `look.time_base`.
        """
        if self.gif:
            pixels = to_8_bits(pixels)
        pixels = stored(pixels, self.look)
        more = [(0, long - short) for long, short in zip(self.padded, self.size, strict=True)]
        pixels = np.pad(pixels, (*more, (0, 0)), "edge")
        form = "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
        frame = self.av.VideoFrame.from_ndarray(pixels, format=form)
        if not self.gif:
            frame = convert(frame, self.look, self.look.pix_fmt)
            frame.colorspace = self.look.matrix
            frame.color_range = FULL if self.look.full else LIMITED
        unit = self.look.time_base / self.clock
        frame.pts, frame.duration = round(stamp * unit), round(duration * unit)
        frame.time_base = self.clock
        for part in self.indexed(frame) if self.gif else [frame]:
            self.container.mux(self.stream.encode(part))

    def indexed(self, frame: Any) -> Iterator[Any]:
        """Frames of a GIF that an RGB frame completes, each with its 256 colours; None: the end."""
        self.graph = self.graph or self.make_palettes()
        self.graph.push(frame)
        while True:
            try:
                yield self.graph.pull()
            except (self.av.error.BlockingIOError, self.av.error.EOFError):
                return

    def make_palettes(self) -> Any:
        """A graph of filters from RGB frames to indexed ones, in memory for one frame."""
        graph, (height, width) = self.av.filter.Graph(), self.size
        source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=self.clock)
        split = graph.add("split")
        choose = graph.add("palettegen", "stats_mode=single")
        use, sink = graph.add("paletteuse", "new=1"), graph.add("buffersink")
        source.link_to(split)
        split.link_to(choose, 0, 0)
        split.link_to(use, 1, 0)
        choose.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()
        return graph

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self.graph is not None:
            for frame in self.indexed(None):
                self.container.mux(self.stream.encode(frame))
        self.container.mux(self.stream.encode(None))


@dataclass
class Output:
    """What is being written, and the name that it gets at the end.

    Attributes:
        path: that name; may be changed until then.
        ending: of the name, a key of `CONTAINERS`.
        container: of PyAV.
    """

    path: Path
    ending: str
    container: Any


@contextlib.contextmanager
def open_output(path: Path) -> Iterator[Output]:
    """A container under a temporary name, which gets its own at the end of the block.

    A block that ends early leaves nothing: FFmpeg itself would end the file so that it plays.

    Raises:
        DataError: it can't be written.
    """
    av, ending = import_av(), path.suffix.lower()
    # The clock of .mp4 as a whole, 1/1000 s if nothing is said, rounds where a track begins.
    options = {"movie_timescale": "90000"} if ending == ".mp4" else {}
    form = CONTAINERS[ending][0]
    with video_errors(path, "written"), beside(path) as (part, _):
        with av.open(str(part), "w", format=form, options=options) as container:
            output = Output(path, ending, container)
            yield output
        move_into_place(part, Path(os.path.realpath(output.path)))


class PictureWriter:
    """Numbered pictures in a folder, which appears when it is whole."""

    def __init__(self, folder: Path, suffix: str, quality: int | None) -> None:
        self.folder, self.suffix, self.count = folder, suffix, 0
        self.quality = quality or JPEG_QUALITY
        self.path = folder

    def write(self, pixels: np.ndarray, stamp: int, duration: int = 0) -> None:
        """Add a picture (height, width, 3); it has no time."""
        self.count += 1
        write_photo(
            self.folder / f"{self.count:06}{self.suffix}", Photo(pixels), quality=self.quality
        )


@contextlib.contextmanager
def open_folder(path: Path, suffix: str, quality: int | None) -> Iterator[PictureWriter]:
    """A writer of pictures into a folder of a temporary name, as `open_output`.

    Raises:
        DataError: it can't be made, or there is one that isn't empty.
    """
    if path.is_dir() and any(path.iterdir()):
        raise DataError(f"{path}: not empty; allowed for numbered pictures: a new folder")
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{os.getpid()}-{path.name}.tmp"[-NAME_BYTES:])
    with file_errors(path, "written"):
        part.mkdir(parents=True)
        try:
            writer = PictureWriter(part, suffix, quality)
            writer.path = path
            yield writer
            os.rename(part, writer.path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
