"""How a video stores its frames: layout, colours, orientation. Needs PyAV (FFmpeg)."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from engine.weights.pretrained import import_optional
from utils import DataError

RGB, BT709, UNKNOWN, BT601 = 0, 1, 2, 6  # numbers of ISO/IEC 23091-4, as FFmpeg's
LIMITED, FULL = 1, 2  # FFmpeg's numbers of ranges
# swscale's bicubic, accurate rounding, full chroma: else chroma is repeated, not interpolated.
SCALER = 0x4 | 0x40000 | 0x2000 | 0x4000


@dataclass(frozen=True)
class Look:
    """How a video stores its frames, and how it counts time.

    Attributes:
        pix_fmt: FFmpeg's name of the pixels' layout.
        matrix, primaries, transfer: of the colours, numbers of ISO/IEC 23091-4.
        full: values fill their whole range (else 16 to 235 of 255).
        aspect: width over height of a stored pixel; None where nothing is said.
        display: nine numbers, a matrix that turns or mirrors the frame when it is shown.
        rate: frames per second, the mean where it varies.
        time_base: seconds that time stamps count.
        bits: of a colour.
    """

    pix_fmt: str = "yuv420p"
    matrix: int = BT709
    primaries: int = UNKNOWN
    transfer: int = UNKNOWN
    full: bool = False
    aspect: Fraction | None = None
    display: tuple[int, ...] | None = None
    rate: Fraction = Fraction(24)
    time_base: Fraction = Fraction(1, 24)
    bits: int = 8

    @property
    def turn(self) -> tuple[bool, bool, bool]:
        """Whether rows are exchanged with columns to show a frame, then mirrored down, across."""
        a, b, _, c, d, *_ = self.display or (1, 0, 0, 0, 1)
        if a == d == 0 and b and c:
            return True, b < 0, c < 0
        return (False, d < 0, a < 0) if b == c == 0 else (False, False, False)


def import_av() -> Any:
    """PyAV. Raises ConfigError where it is not installed."""
    return import_optional("av", "to read and write videos")


@contextlib.contextmanager
def video_errors(path: Path, what: str) -> Iterator[None]:
    """Turn an error of FFmpeg or the system into a DataError, "PATH: can't be WHAT (...)"."""
    av = import_av()
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: can't be {what} ({reason_of(error)})") from error


def reason_of(error: Exception) -> str:
    """What an error says, without file names and logs."""
    return str(getattr(error, "strerror", None) or error)


def look_of(frame: Any, stream: Any) -> Look:
    """The look of a decoded frame of a stream.

    Where no matrix is named, it is that which players take for frames of this size; the copy's
    size may be another, so its own look names it.
    """
    form = frame.format
    full = frame.color_range == FULL or form.name.startswith("yuvj") or form.is_rgb
    matrix = int(frame.colorspace)
    if form.is_rgb:
        matrix = RGB
    elif matrix in (RGB, UNKNOWN):
        matrix = guessed_matrix(frame.height, frame.width)
    display = None
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            display = struct.unpack("<9i", bytes(data))
    return Look(
        form.name.replace("yuvj", "yuv"),
        matrix,
        int(frame.color_primaries),
        int(frame.color_trc),
        full,
        stream.sample_aspect_ratio or None,
        display,
        stream.average_rate or stream.guessed_rate or Fraction(25),
        stream.time_base,
        max(component.bits for component in form.components),
    )


def guessed_matrix(height: int, width: int) -> int:
    """The matrix of frames that name none: BT.601 of television's sizes, BT.709 of larger ones."""
    return BT709 if height > 576 or width >= 1280 else BT601


def upright(pixels: np.ndarray, look: Look) -> np.ndarray:
    """Stored pixels (H, W, 3) as they are shown."""
    exchanged, down, across = look.turn
    pixels = pixels.swapaxes(0, 1) if exchanged else pixels
    return np.ascontiguousarray(pixels[:: -1 if down else 1, :: -1 if across else 1])


def stored(pixels: np.ndarray, look: Look) -> np.ndarray:
    """Pixels that are shown (H, W, 3) as they are stored: the inverse of `upright`."""
    exchanged, down, across = look.turn
    pixels = pixels[:: -1 if down else 1, :: -1 if across else 1]
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if exchanged else pixels)


def upright_size(size: tuple[int, int], look: Look) -> tuple[int, int]:
    """(height, width) as shown of a frame stored in this size, or the other way round."""
    return (size[1], size[0]) if look.turn[0] else size


def convert(frame: Any, look: Look, form: str, size: tuple[int, int] | None = None) -> Any:
    """A frame of FFmpeg in another layout, from RGB to the look's colours or back.

    Args:
        form: name of the layout.
        size: (height, width), where it should have another.
    """
    own = FULL if look.full else LIMITED
    back = frame.format.is_rgb
    height, width = size or (frame.height, frame.width)
    return frame.reformat(
        width,
        height,
        form,
        src_colorspace=look.matrix,
        dst_colorspace=look.matrix,
        src_color_range=FULL if back else own,
        dst_color_range=own if back else FULL,
        interpolation=SCALER,
    )
