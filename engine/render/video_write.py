"""Frames as a video file: codecs, colours, time stamps. Needs PyAV."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import replacing
from engine.weights.pretrained import import_optional
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
# Otherwise chroma is repeated instead of interpolated.
SCALER = "BICUBIC", "ACCURATE_RND", "FULL_CHR_H_INT", "FULL_CHR_H_INP"
BT709, UNKNOWN = 1, 2  # numbers of ISO/IEC 23091-4, as FFmpeg's


@dataclass(frozen=True)
class Look:
    """How a video stores its frames, and when it shows them.

    Attributes:
        pix_fmt: FFmpeg's name of the pixels' layout.
        matrix, primaries, transfer: of the colours, numbers of ISO/IEC 23091-4.
        full: values fill their whole range (else 16 to 235 of 255).
        aspect: width over height of a pixel; None where nothing is said.
        display: a matrix (nine 32-bit numbers) that turns the frame; None for none.
        rate: frames per second, the mean where it varies.
        time_base: seconds that time stamps count.
    """

    pix_fmt: str = "yuv420p"
    matrix: int = BT709
    primaries: int = UNKNOWN
    transfer: int = UNKNOWN
    full: bool = False
    aspect: Fraction | None = None
    display: bytes | None = None
    rate: Fraction = Fraction(24)
    time_base: Fraction = Fraction(1, 24)


def import_av() -> Any:
    """PyAV. Raises ConfigError where it is not installed."""
    return import_optional("av", "to read and write videos")


def flags(av: Any) -> int:
    """What the conversion between RGB and YUV is told."""
    return sum(int(av.video.reformatter.Interpolation[name]) for name in SCALER)


def check_video_name(path: Path, option: str) -> None:
    """Raises ConfigError for a format that isn't written, or where PyAV is missing."""
    if path.suffix.lower() not in CONTAINERS:
        allowed = ", ".join(CONTAINERS)
        raise ConfigError(f"{option}: {path} given; allowed: a name that ends in {allowed}")
    import_av()


def encoder_options(encoder: str, quality: int) -> dict[str, str]:
    """Options of an encoder for a quality of 1 to 100, which is lossless but for chroma."""
    if encoder not in LARGEST_CRF:
        return {}
    if quality == 100 and encoder == "libx265":
        return {"x265-params": "lossless=1:log-level=none"}
    if quality == 100 and encoder == "libvpx-vp9":
        return {"lossless": "1", "row-mt": "1"}
    options = {"crf": str(round(LARGEST_CRF[encoder] * (100 - quality) / 100))}
    if encoder == "libx265":
        options["x265-params"] = "log-level=none"
    if encoder == "libvpx-vp9":
        options |= {"b": "0", "row-mt": "1", "deadline": "good", "cpu-used": "3"}
    if encoder == "libsvtav1":
        options["preset"] = "8"
    return options


class VideoWriter:
    """A video file that is being written; made by `open_video`.

    Attributes:
        size: (height, width) of the frames, as stored.
    """

    def __init__(self, output: Any, encoder: str, size: tuple[int, int], look: Look, quality: int):
        self.av = import_av()
        self.output, self.size, self.look = output, size, look
        options = encoder_options(encoder, quality)
        self.stream = output.add_stream(encoder, rate=look.rate, options=options)
        context = self.stream.codec_context
        context.height, context.width = size
        self.gif = encoder == "gif"
        self.time_base = Fraction(1, 100) if self.gif else look.time_base
        context.time_base = self.time_base
        if self.gif:
            context.pix_fmt = "pal8"
            self.graph: Any = None
            return
        self.stream.time_base = self.time_base
        context.pix_fmt = look.pix_fmt
        context.colorspace, context.color_range = look.matrix, 2 if look.full else 1
        context.color_primaries, context.color_trc = look.primaries, look.transfer
        if look.aspect is not None:
            context.sample_aspect_ratio = look.aspect
        if encoder == "libx265" and output.format.name == "mp4":
            context.codec_tag = "hvc1"  # what Apple's players ask for

    def write(self, pixels: np.ndarray, stamp: int, duration: int = 0) -> None:
        """Add a frame.

        Args:
            pixels: (height, width, 3), uint8 or uint16.
            stamp, duration: when it is shown and how long, in units of `look.time_base`.
        """
        form = "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=form)
        unit = self.look.time_base / self.time_base
        if not self.gif:
            frame = self.to_stored(frame)
        frame.pts, frame.duration = round(stamp * unit), round(duration * unit)
        frame.time_base = self.time_base
        for part in self.indexed(frame) if self.gif else [frame]:
            self.output.mux(self.stream.encode(part))

    def to_stored(self, frame: Any) -> Any:
        """An RGB frame in the layout and colours of the stream."""
        full, look = self.av.video.reformatter.ColorRange, self.look
        frame = frame.reformat(
            format=look.pix_fmt,
            src_colorspace=look.matrix,
            dst_colorspace=look.matrix,
            src_color_range=full.JPEG,
            dst_color_range=full.JPEG if look.full else full.MPEG,
            interpolation=flags(self.av),
        )
        frame.colorspace, frame.color_range = look.matrix, 2 if look.full else 1
        frame.color_primaries, frame.color_trc = look.primaries, look.transfer
        return frame

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
        source = graph.add_buffer(
            width=width, height=height, format="rgb24", time_base=self.time_base
        )
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
        if self.gif and self.graph is not None:
            for frame in self.indexed(None):
                self.output.mux(self.stream.encode(frame))
        self.output.mux(self.stream.encode(None))


@contextlib.contextmanager
def video_errors(path: Path, what: str) -> Iterator[None]:
    """Turn an error of FFmpeg or of the system into a line for the user, a DataError."""
    av = import_av()
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: can't be {what} ({reason})") from error


@contextlib.contextmanager
def open_output(path: Path) -> Iterator[tuple[Any, str]]:
    """A container under a temporary name, renamed to `path` at the end of the block.

    What ends early leaves nothing: also of an interrupted video FFmpeg would make a file that
    plays.

    Returns:
        The container, and the ending of the name, a key of `CONTAINERS`.

    Raises:
        DataError: it can't be written.
    """
    av, ending = import_av(), path.suffix.lower()
    form = CONTAINERS[ending][0]
    # In the header of .mp4, whose own clock of 1/1000 s would round where a track begins.
    options = {"movie_timescale": "90000"} if ending == ".mp4" else {}
    with (
        video_errors(path, "written"),
        replacing(path) as part,
        av.open(str(part), "w", format=form, options=options) as output,
    ):
        yield output, ending
