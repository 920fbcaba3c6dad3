"""Generated clips: moving pictures, sound, subtitles, and everything that must not be lost."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.subtitles.subtitle import SubtitleSet

from engine.render.video_look import Look, convert

HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, \
Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, \
Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
CLOCK = Fraction(1, 90000)


def moving(number: int, size: tuple[int, int] = (36, 48), deep: bool = False) -> np.ndarray:
    """Frame `number` of a smooth moving picture, uint8 or uint16 (*size, 3)."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / max(size)
    phase = 0.3 * number
    planes = [0.5 + 0.4 * np.sin(6 * (y + k * x) + k + phase) for k in range(3)]
    top, kind = (65535, np.uint16) if deep else (255, np.uint8)
    return (np.stack(planes, axis=-1) * top).round().astype(kind)


def uneven(frames: int) -> list[int]:
    """Stamps of a varying rate, in units of `CLOCK`."""
    gaps = [3003, 6006, 1501, 3003, 9009]
    return [sum(gaps[n % 5] for n in range(frame)) for frame in range(frames)]


def make_clip(
    path: Path,
    frames: int = 31,
    size: tuple[int, int] = (36, 48),
    encoder: str = "libx264",
    look: Look | None = None,
    options: dict[str, str] | None = None,
    degrees: int = 0,
    sound: str = "",
    text: str = "",
    tags: bool = True,
    gop: int = 12,
) -> list[int]:
    """Write a clip and give the stamps of its frames, in units of 1/90000 s.

    Args:
        look: layout and colours; `tags`: written into the file as well.
        degrees: it is shown turned by these, counterclockwise.
        sound, text: codecs of a stream of sound (a second of it) and of subtitles.
    """
    look = look or Look(pix_fmt="yuv420p", matrix=1)
    deep = look.bits > 8
    with av.open(
        str(path), "w", options={"movie_timescale": "90000"} if ".mp4" in path.name else {}
    ) as out:
        video = out.add_stream(encoder, rate=30, options=options or {})
        context = video.codec_context
        context.height, context.width, context.pix_fmt = *size, look.pix_fmt
        context.time_base = video.time_base = CLOCK
        context.gop_size = gop
        if look.aspect:
            context.sample_aspect_ratio = look.aspect
        if tags:
            context.colorspace, context.color_range = look.matrix, 2 if look.full else 1
            context.color_primaries, context.color_trc = look.primaries, look.transfer
        if degrees:
            video.set_display_rotation(degrees)
        add_others(out, sound, text)
        stamps = uneven(frames)
        out.metadata["title"] = "A clip"
        for number, stamp in enumerate(stamps):
            plain = av.VideoFrame.from_ndarray(
                moving(number, size, deep), format="rgb48le" if deep else "rgb24"
            )
            frame = convert(plain, look, look.pix_fmt)
            frame.pts, frame.time_base = stamp, CLOCK
            if tags:
                frame.colorspace, frame.color_range = look.matrix, 2 if look.full else 1
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        write_others(out)
    return stamps


def add_others(out: Any, sound: str, text: str) -> None:
    if sound:
        stream = out.add_stream(sound, rate=48000, layout="mono")
        stream.metadata["language"] = "fra"
    if text:
        stream = out.add_stream(text)
        stream.codec_context.subtitle_header = HEADER
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        stream.metadata["language"] = "deu"


def write_others(out: Any) -> None:
    for stream in out.streams.audio:
        form = stream.codec_context.codec.audio_formats[0].name
        resampler = av.AudioResampler(form, "mono", 48000, stream.codec_context.frame_size or 1024)
        wave = (np.sin(np.arange(48000) * 0.05) * 8000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    for stream in out.streams.subtitles:
        for start, words in ((100, b"Bonjour"), (500, b"Au revoir")):
            made = stream.codec_context.encode_subtitle(
                SubtitleSet.create(b"0,0,Default,,0,0,0,," + words, 0, 300, pts=start * 1000)
            )
            made.stream, made.time_base = stream, Fraction(1, 1000)
            made.pts = made.dts = start
            made.duration = 300
            out.mux(made)


def read_clip(path: Path) -> dict[str, Any]:
    """What is in a video file: times in seconds, frames as (H, W, 3) and as FFmpeg's."""
    found: dict[str, Any] = {"times": [], "frames": [], "text": [], "sound": [], "sounds_at": []}
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        found["aspect"] = stream.sample_aspect_ratio
        found["title"] = file.metadata.get("title") or file.metadata.get("TITLE")
        found["kinds"] = [one.type for one in file.streams]
        found["languages"] = [one.language for one in file.streams if one.type != "video"]
        found["codecs"] = [one.codec_context.codec.canonical_name for one in file.streams]
        for packet in file.demux():
            if packet.stream.type == "video":
                for frame in packet.decode():
                    found["times"].append(frame.time)
                    found["frames"].append(frame)
            elif packet.dts is not None and packet.stream.type == "audio":
                found["sound"].append(bytes(packet))
                found["sounds_at"].append(float(packet.pts * packet.time_base))
            elif packet.dts is not None:
                spoken = packet.decode()
                if spoken and spoken[0].dialogue:
                    at = float(packet.pts * packet.time_base)
                    found["text"].append((at, bytes(spoken[0].dialogue)))
    first = found["frames"][0]
    found["rotation"] = first.rotation
    found["pix_fmt"] = first.format.name
    found["colours"] = first.colorspace, first.color_range, first.color_primaries, first.color_trc
    return found


def planes(frame: Any) -> np.ndarray:
    """All codes of a frame of FFmpeg, one after the other."""
    kind = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    parts = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
        parts.append(rows[:, : plane.width].ravel())
    return np.concatenate(parts)
