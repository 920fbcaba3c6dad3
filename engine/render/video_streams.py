"""Sound, subtitles, attachments, chapters and tags of a video, carried into another file."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

from engine.render.video_look import import_av
from engine.render.video_write import Output

# What is encoded where a container doesn't take what the video has.
SOUND = {".mp4": "aac", ".mkv": "flac", ".webm": "libopus"}
TEXT = {".mp4": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}
TEXT_CODECS = ("ass", "ssa", "subrip", "srt", "mov_text", "webvtt", "text")  # not pictures
OWN_TAGS = ("encoder", "duration", "major_brand", "minor_version", "compatible_brands")


class Copies:
    """The other streams of a video on their way into a file.

    Packets are copied as they are where the container takes their codec, else encoded anew.

    Attributes:
        left_out: what the file can't hold, in words.
    """

    def __init__(self, output: Output) -> None:
        self.av, self.container, self.ending = import_av(), output.container, output.ending
        self.targets: dict[int, Any] = {}  # of the source's stream numbers
        self.resamplers: dict[int, Any] = {}  # of streams that are encoded anew
        self.left_out: list[str] = []
        self.times: dict[int, int] = {}  # of the last packet of each stream

    def add(self, stream: Any) -> None:
        """Make room for a stream; to be called before anything is written."""
        target, context = None, stream.codec_context
        name = "" if context is None else context.codec.canonical_name
        if stream.type == "audio" and not (name and context.sample_rate):
            name = ""  # nothing of it could be read
        if stream.type in ("audio", "subtitle") and name in self.container.supported_codecs:
            target = self.container.add_stream_from_template(stream)
        elif stream.type == "audio" and name and self.ending in SOUND:
            target = self.container.add_stream(SOUND[self.ending], rate=context.sample_rate)
            target.codec_context.layout = context.layout
            self.resamplers[stream.index] = None
        elif stream.type == "subtitle" and self.ending in TEXT and name in TEXT_CODECS:
            target = self.container.add_stream(TEXT[self.ending])
            target.codec_context.time_base = target.time_base = Fraction(1, 1000)
            context.open(strict=False)  # which makes the header
            target.codec_context.subtitle_header = context.subtitle_header or b""
            self.resamplers[stream.index] = None
        elif stream.type == "attachment" and self.ending == ".mkv":
            self.container.add_attachment(stream.name, stream.mimetype, stream.data)
            return
        if target is None:
            self.left_out.append(f"{stream.type} stream {stream.index} ({name or 'unknown'})")
            return
        self.targets[stream.index] = target
        copy_tags(stream, target)

    def write(self, packet: Any) -> None:
        """Copy or convert a packet."""
        index, kind = packet.stream.index, packet.stream.type
        target = self.targets.get(index)
        if target is None:
            return
        if index not in self.resamplers:
            if kind == "audio" and not self.goes_on(index, packet):
                return
            packet.stream = target
            # A damaged one is left out; errors of the disk are others.
            with contextlib.suppress(self.av.error.InvalidDataError, self.av.error.ArgumentError):
                self.container.mux(packet)
        elif kind == "audio":
            try:
                frames = packet.decode()
            except (self.av.FFmpegError, ValueError):  # a moment of silence
                frames = []
            for frame in frames:
                self.encode(index, frame)
        else:
            self.convert_text(packet, target)

    def goes_on(self, index: int, packet: Any) -> bool:
        """Whether a packet is later than the one before; of damaged files not all are."""
        if packet.dts is None or packet.dts <= self.times.get(index, packet.dts - 1):
            return False
        self.times[index] = packet.dts
        return packet.pts is None or packet.pts >= packet.dts

    def encode(self, index: int, frame: Any) -> None:
        """Encode sound, in the sample format that the encoder takes; None: the rest."""
        target, resampler = self.targets[index], self.resamplers[index]
        if resampler is None:
            if frame is None:
                return
            context = target.codec_context
            forms = [form.name for form in context.codec.audio_formats]
            form = frame.format.name if frame.format.name in forms else forms[0]
            rates = context.codec.audio_rates or [frame.sample_rate]
            rate = frame.sample_rate if frame.sample_rate in rates else max(rates)
            context.format, context.sample_rate = form, rate
            context.open(strict=False)
            resampler = self.av.AudioResampler(form, frame.layout, rate, context.frame_size or None)
            self.resamplers[index] = resampler
        for part in resampler.resample(frame):
            self.container.mux(target.encode(part))

    def convert_text(self, packet: Any, target: Any) -> None:
        """Encode a subtitle in the container's codec."""
        try:
            subtitle = packet.stream.codec_context.decode2(packet)
        except (self.av.FFmpegError, ValueError):
            return
        if subtitle is None or not len(subtitle):
            return
        made = target.codec_context.encode_subtitle(subtitle)
        unit = Fraction(1, 1000)
        made.stream, made.time_base = target, unit
        made.pts = made.dts = round(packet.pts * packet.time_base / unit)
        made.duration = round((packet.duration or 0) * packet.time_base / unit)
        self.container.mux(made)

    def finish(self) -> None:
        """Write what encoders of sound still hold."""
        for index, target in self.targets.items():
            if index in self.resamplers and target.type == "audio":
                self.encode(index, None)
                self.container.mux(target.encode(None))


def copy_tags(source: Any, target: Any) -> None:
    """Language, title and the like of a stream, and what it is for."""
    target.metadata.update(kept_tags(source.metadata))
    target.disposition = source.disposition


def kept_tags(tags: Any) -> dict[str, str]:
    """Tags without those that a container writes of itself."""
    return {
        key: value
        for key, value in tags.items()
        if key.lower() not in OWN_TAGS and not key.startswith("_STATISTICS")
    }
