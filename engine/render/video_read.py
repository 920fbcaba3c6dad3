"""Frames of a video, or of numbered pictures, one after the other. Videos need PyAV."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from datasets.decoding import loader_of
from datasets.images import read_photo, read_size
from datasets.transparency import fill_hidden
from engine.render.pixels import rgb
from engine.render.video_look import (
    Look,
    convert,
    import_av,
    look_of,
    reason_of,
    upright,
    upright_size,
)
from utils import DataError

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".ogv", ".3gp", ".mxf", ".y4m"),
)
# How videos start: Matroska, AVI, Ogg, FLV, ASF, MPEG programme stream, Y4M.
STARTS = (b"\x1aE\xdf\xa3", b"OggS", b"FLV\1", b"0&\xb2u\x8ef\xcf\x11", b"\0\0\1\xba", b"YUV4MPEG2")
STEP_BACK = 5  # seconds before `--start` from which frames are decoded: some seeks land late
ATTACHED_PICTURE = 0x400  # FFmpeg's disposition of covers
SMPTE240M = 7  # the last matrix that PyAV 17 converts by
TS_DISCONT = 0x200  # FFmpeg's flag of containers whose stamps begin anywhere
INFINITE = float("inf")
SHORT = 0.5  # seconds that a file may end before what its header says
MOST_FRAMES = 0.9  # of those that a header counts: some are hidden on purpose
OVERLAP = 2  # seconds by which streams that belong together lie apart in a file at most


def is_video(path: Path) -> bool:
    """Whether a file starts as a video, or has the ending of one and doesn't start as a picture."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return path.is_file() and path.name.lower().endswith(SUFFIXES)
    if loader_of(start) is not None:
        return False
    riff = start[:4] == b"RIFF" and start[8:12] == b"AVI "
    mp4 = start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")
    return riff or mp4 or start.startswith(STARTS) or path.name.lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class Frame:
    """A picture and when it is shown.

    Attributes:
        pixels: gives it, upright, uint8 or uint16 (H, W, 3).
        stamp, duration: in units of `Look.time_base`; a duration of 0 is unknown.
        damage: what is wrong with it, if anything; the pixels are those of the frame before.
    """

    pixels: Callable[[], np.ndarray]
    stamp: int
    duration: int
    damage: str = ""


class NumberedPictures:
    """Numbered pictures as a video.

    Attributes:
        size: (height, width) of a frame, upright.
        look: how frames are stored.
        total: how many there will be, if known.
        input: the container; None here.
        ending: what is wrong with the end of the file, if anything, once all is read.
        note: what may be wrong with it.
    """

    def __init__(
        self, paths: Sequence[Path], rate: Fraction, max_pixels: int, begin: float, end: float
    ):
        first, last = begin * float(rate), min(end * float(rate), len(paths))
        self.paths = [path for n, path in enumerate(paths) if first <= n < last]
        if not self.paths:
            raise DataError(f"{paths[0].parent}: no pictures between --start and --end")
        self.max_pixels = max_pixels
        self.total: int | None = len(self.paths)
        self.size = read_size(self.paths[0], max_pixels)
        deep = read_photo(self.paths[0], max_pixels).pixels.dtype == np.uint16
        self.look = Look(
            "gbrp16le" if deep else "gbrp", 0, full=True, rate=rate, time_base=1 / rate
        )
        self.dtype = np.dtype(np.uint16 if deep else np.uint8)
        self.input, self.ending, self.note = None, "", ""

    def events(self) -> Iterator[Any]:
        """The frames."""
        for number, path in enumerate(self.paths):
            yield Frame(lambda path=path: self.read(path), number, 1)  # type: ignore[misc]

    def read(self, path: Path) -> np.ndarray:
        pixels = rgb(fill_hidden(read_photo(path, self.max_pixels, "--max-pixels").pixels))
        if pixels.shape[:2] != self.size or pixels.dtype != self.dtype:
            height, width = pixels.shape[:2]
            raise DataError(
                f"{path}: {height}x{width} pixels, {pixels.dtype}; allowed in one video: as the "
                f"first, {self.size[0]}x{self.size[1]}, {self.dtype}"
            )
        return pixels


class Video:
    """A video file that is open for reading; attributes as of `NumberedPictures`.

    Args:
        input: the container, closed by whoever opened it.
        log: where what FFmpeg says is put: (level, who, text).
        begin, end: seconds from where the video starts; frames shown between them are read.

    Raises:
        DataError: no video in it, or no frames.
    """

    def __init__(
        self, path: Path, input: Any, log: list[Any], max_pixels: int, begin: float, end: float
    ) -> None:
        self.av, self.path, self.input, self.log = import_av(), path, input, log
        self.ending, self.note = "", ""
        streams = [s for s in input.streams.video if not int(s.disposition) & ATTACHED_PICTURE]
        if not streams or streams[0].codec_context is None:
            raise DataError(f"{path}: no video in it")
        self.stream = streams[0]
        context = self.stream.codec_context
        if context.height * context.width > max_pixels:
            raise DataError(
                f"{path}: {context.height}x{context.width} pixels, more than the limit of "
                f"{max_pixels} (--max-pixels)"
            )
        self.span = TimeRange(input, begin, end)
        if self.span.begin is not None:
            early = max(0.0, begin - STEP_BACK)
            input.seek(int(early * 1e6) + (input.start_time or 0))
        self.previous: Any = None  # the last sound frame
        self.expected: list[int] = []  # stamps of packets whose frames have not come yet
        self.trouble, self.next_stamp = "", 0
        self.unread = 0  # frames before the first that can be decoded
        self.given = 0  # frames up to now
        self.shown = -INFINITE  # stamp of the last frame that was given
        self.waiting: list[Any] = []  # events up to the first frame
        self._events = self.read()
        for event in self._events:
            self.waiting.append(event)
            if isinstance(event, Frame):
                break
        if not self.waiting or not isinstance(self.waiting[-1], Frame):
            span = "" if (begin, end) == (0, INFINITE) else " between --start and --end"
            reason = f" ({self.ending})" if self.ending else ""
            raise DataError(f"{path}: no frames{span}{reason}")
        self.total: int | None = self.count(begin, end)

    def count(self, begin: float, end: float) -> int | None:
        """How many frames there should be; headers only estimate it."""
        rate, stream = self.stream.average_rate, self.stream
        length = (self.input.duration or 0) / 1e6
        if (begin, end) == (0, INFINITE) and stream.frames:
            return int(stream.frames)
        if not rate or not length:
            return None
        return max(1, round((min(end, length) - begin) * float(rate)))

    def events(self) -> Iterator[Any]:
        """Frames, and packets of the other streams, as they lie in the file."""
        yield from self.waiting
        self.waiting.clear()
        yield from self._events

    def read(self) -> Iterator[Any]:
        streams = [s for s in self.input.streams if s.type in ("video", "audio", "subtitle")]
        streams = [s for s in streams if s.type != "video" or s is self.stream]
        held: Frame | None = None  # until the next tells how long it is shown
        for event in self.decoded(streams):
            if not isinstance(event, Frame):
                if self.span.cut_packet(event):
                    yield event
                continue
            frame = self.span.cut_frame(event, self.look.time_base)
            if frame is None:
                continue
            if held is not None:
                if frame.stamp <= held.stamp:  # some files have such; no encoder takes them
                    frame = dataclasses.replace(frame, stamp=held.stamp + 1)
                held = dataclasses.replace(held, duration=frame.stamp - held.stamp)
                yield from self.span.from_begin(held)
            held, self.given = frame, self.given + 1
        if held is not None:
            held = self.last(held)
            self.note = "; ".join(self.missing(held))
            yield from self.span.from_begin(held)

    def missing(self, frame: Frame) -> Iterator[str]:
        """Notes of what a file should have; `frame` is its last. Some give no other sign."""
        unit, length = self.look.time_base, (self.input.duration or 0) / 1e6
        shown = float((frame.stamp + frame.duration) * unit + self.span.shift)
        shown -= (self.input.start_time or 0) / 1e6
        if self.unread and self.span.begin is None:
            yield f"at its beginning {self.unread} frames can't be decoded"
        if self.span.end is not None:
            return
        if length - shown >= SHORT:
            yield f"ends at {shown:.1f} s, its header says {length:.1f} s: cut off?"
        elif is_cut(self.path, self.input):
            yield "its last part is not whole: cut off?"
        if self.span.begin is None and self.given < MOST_FRAMES * self.stream.frames:
            yield f"only {self.given} of the {self.stream.frames} frames that its header counts"

    def last(self, frame: Frame) -> Frame:
        """The last frame, shown until the stream ends, where it says when."""
        if self.span.end is None and self.stream.duration:
            start = self.stream.start_time or 0
            end = start + self.stream.duration - round(self.span.shift / self.look.time_base)
            if end > frame.stamp:
                return dataclasses.replace(frame, duration=end - frame.stamp)
        return frame

    def decoded(self, streams: list[Any]) -> Iterator[Any]:
        """Packets of other streams, and frames in the order of their stamps, bad ones as well."""
        for packet in self.packets(streams):
            if packet.stream is not self.stream:
                yield packet
                continue
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None and not packet.is_discard:
                self.expected.append(stamp)
            try:
                frames = packet.decode()
            except (self.av.FFmpegError, ValueError) as error:
                self.trouble, frames = reason_of(error), []
            self.listen()
            for frame in frames:
                yield from self.sound(frame)
        yield from self.lost(None)

    def packets(self, streams: list[Any]) -> Iterator[Any]:
        """Packets up to the end of the file or of the time asked for."""
        demuxed = self.input.demux(streams)
        while True:
            try:
                packet = next(demuxed, None)
            except (self.av.FFmpegError, OSError, ValueError) as error:
                self.ending = reason_of(error)
                return
            self.listen()
            if packet is None or self.span.is_over(packet):
                return
            yield packet

    def listen(self) -> None:
        """Take in what FFmpeg has logged: not all errors are raised."""
        for _, name, text in self.log:
            if name == self.input.format.name:
                self.ending = text.strip()
            elif name == self.stream.codec_context.name:
                self.trouble = text.strip()
        self.log.clear()

    def sound(self, frame: Any) -> Iterator[Frame]:
        """A decoded frame, and before it those that should have come."""
        if self.previous is None:
            self.look = look_of(frame, self.stream)
            if self.look.matrix > SMPTE240M and int(self.av.__version__.split(".")[0]) < 18:
                raise DataError(f"{self.path}: colours of BT.2020, which need PyAV 18")
            self.size = upright_size((frame.height, frame.width), self.look)
            self.dtype = np.dtype(np.uint16 if self.look.bits > 8 else np.uint8)
        stamp = next((n for n in (frame.pts, frame.dts) if n is not None), self.next_stamp)
        duration = frame.duration or 0
        usual = round(1 / (self.look.rate * self.look.time_base))
        if self.trouble and stamp <= self.shown:
            return  # comes after all, when its place has been filled
        self.next_stamp = stamp + (duration or usual)
        yield from self.lost(stamp)
        self.shown = stamp
        damage = "decoded with errors" if frame.is_corrupt else ""
        if self.previous is None or not damage:
            self.previous = frame
        yield Frame(self.repeat(), stamp, duration, damage)

    def lost(self, stamp: int | None) -> Iterator[Frame]:
        """Frames that should have been shown before one of this stamp (None: the end), if any.

        A packet without a frame is no fault of itself: some codecs have such.
        """
        late = sorted(when for when in self.expected if stamp is None or when < stamp)
        self.expected = [when for when in self.expected if stamp is not None and when > stamp]
        if self.trouble and self.previous is None:
            self.unread += len(late)
        elif self.trouble:
            for when in late:
                self.shown = when
                yield Frame(self.repeat(), when, 0, self.trouble)

    def repeat(self) -> Callable[[], np.ndarray]:
        """What gives the pixels of the last sound frame."""
        frame, look = self.previous, self.look
        form = "rgb24" if self.dtype == np.uint8 else "rgb48le"
        size = upright_size(self.size, look)
        return lambda: upright(convert(frame, look, form, size).to_ndarray(), look)


def is_cut(path: Path, container: Any) -> bool:
    """Whether a file ends within a packet of a transport stream, or before an AVI says it does."""
    size, kind = path.stat().st_size, container.format.name
    if kind == "avi":
        with open(path, "rb") as file:
            return int.from_bytes(file.read(8)[4:], "little") + 8 > size
    return kind == "mpegts" and all(size % packet for packet in (188, 192, 204))


class TimeRange:
    """The time asked for, and the shift that makes it begin at 0.

    Attributes:
        begin, end: in seconds of the file's own stamps; None where all is asked for.
        shift: seconds taken from all stamps. MPEG transport streams don't begin at 0.
    """

    def __init__(self, input: Any, begin: float, end: float):
        origin = Fraction(input.start_time or 0, 1_000_000)
        self.begin = None if begin == 0 else origin + Fraction(begin).limit_denominator(1_000_000)
        self.end = None if end == INFINITE else origin + Fraction(end).limit_denominator(1_000_000)
        usual = origin if input.format.flags & TS_DISCONT else Fraction(0)
        self.shift = usual if self.begin is None else self.begin

    def is_over(self, packet: Any) -> bool:
        """Whether nothing that is wanted can follow a packet."""
        if self.end is None or packet.dts is None:
            return False
        return bool(packet.dts * packet.time_base > self.end + OVERLAP)

    def from_begin(self, frame: Frame) -> Iterator[Frame]:
        """A frame with the part of its time that is asked for; none if it is over before."""
        if self.begin is None or frame.stamp >= 0:
            yield frame
        elif frame.stamp + frame.duration > 0:
            yield dataclasses.replace(frame, stamp=0, duration=frame.stamp + frame.duration)

    def cut_frame(self, frame: Frame, unit: Fraction) -> Frame | None:
        """A frame with shifted stamp, and no longer than the time asked for; None behind it."""
        stamp, duration = frame.stamp - round(self.shift / unit), frame.duration
        if self.end is not None:
            left = round((self.end - self.shift) / unit) - stamp
            if left <= 0:
                return None
            duration = min(duration, left)
        return dataclasses.replace(frame, stamp=stamp, duration=duration)

    def cut_packet(self, packet: Any) -> bool:
        """Shift a packet's stamps in place; False where it is outside the time asked for."""
        if packet.dts is None and packet.pts is None:
            return False
        unit, shift = packet.time_base, round(self.shift / packet.time_base)
        stamp = packet.pts if packet.pts is not None else packet.dts
        if self.end is not None and stamp * unit >= self.end:
            return False
        if self.begin is not None and stamp * unit < self.begin:
            last = stamp + (packet.duration or 0)
            if packet.stream.type != "subtitle" or last * unit <= self.begin:
                return False
            packet.pts = packet.dts = round(self.begin / unit)  # a text that is still shown
            packet.duration = last - packet.pts
        if packet.pts is not None:
            packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift
        return True


@contextlib.contextmanager
def open_video(
    path: Path, max_pixels: int, begin: float = 0, end: float = INFINITE
) -> Iterator[Video]:
    """A video file, open for reading.

    Args:
        begin, end: seconds from where the video starts; frames shown between them are read.

    Raises:
        DataError: it can't be read, there is no video in it, or there are no frames.
    """
    av = import_av()
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # the file before may have had the same fault
    try:
        # Of a file that is cut off no error is raised, but FFmpeg logs one, maybe in a thread.
        with av.logging.Capture(local=False) as log:
            try:
                container = av.open(str(path), metadata_errors="replace")
            except (av.FFmpegError, OSError, ValueError) as error:
                raise DataError(f"{path}: can't be read as a video ({reason_of(error)})") from error
            with container:
                yield Video(path, container, log, max_pixels, begin, end)
    finally:
        av.logging.set_level(before[0])
        av.logging.set_skip_repeated(before[1])
