"""Writing pictures row by row, without ever leaving half a file under the name asked for."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType

import numpy as np
import pyvips

from utils import DataError

from .encoders import ENCODERS, Raw, to_8_bits
from .files import beside, file_errors, replacing

WRITTEN_SUFFIXES = tuple(ENCODERS)
LARGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}  # these have 8 bits only


class Writer:
    """A picture that is written row by row to a scratch file beside its place, then encoded.

    Use it in a `with` statement; where that ends early, nothing is left behind.

    Raises:
        DataError: a suffix that isn't written, a picture that the format can't hold, a place that
            can't be written to, a full disk.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        icc: bytes | None,
        dpi: tuple[float, float] | None,
        metadata: dict[str, bytes | str],
        quality: int,
    ) -> None:
        suffix = path.suffix.lower()
        if suffix not in ENCODERS:
            allowed = ", ".join(ENCODERS)
            raise DataError(f"{path}: can't be written; allowed: names ending in {allowed}")
        if max(shape[:2]) > LARGEST_SIDE.get(suffix, 2**31 - 1):
            raise DataError(
                f"{path}: {shape[0]}x{shape[1]} pixels; a {suffix} file holds at most "
                f"{LARGEST_SIDE[suffix]} on a side"
            )
        self.path, self.dtype, self.encoder = path, np.dtype(dtype), ENCODERS[suffix]
        self.rows_written = 0
        self.open = contextlib.ExitStack()
        held = np.dtype(np.uint8) if suffix in LARGEST_SIDE else self.dtype
        with file_errors(path, "written"):
            scratch, _ = self.open.enter_context(beside(path))
            self.file = self.open.enter_context(scratch.open("wb"))
        self.raw = Raw(scratch, shape, held, icc, dpi, metadata, quality)

    def __enter__(self) -> Writer:
        return self

    def write(self, rows: np.ndarray) -> None:
        """The next rows, (n, W, C) of the picture's dtype.

        Raises:
            DataError: the disk is full or gone.
        """
        assert rows.shape[1:] == self.raw.shape[1:], (rows.shape, self.raw.shape)
        assert rows.dtype == self.dtype, (rows.dtype, self.dtype)
        self.rows_written += len(rows)
        if self.dtype != self.raw.dtype:
            rows = to_8_bits(rows)
        with file_errors(self.path, "written"):
            self.file.write(np.ascontiguousarray(rows).data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            with contextlib.suppress(OSError):  # what is buffered may not fit on the disk either
                self.open.close()

    def finish(self) -> None:
        assert self.rows_written == self.raw.shape[0], (self.rows_written, self.raw.shape)
        try:
            with file_errors(self.path, "written"):
                self.file.close()
                with replacing(self.path) as part, part.open("w+b") as file:
                    self.encoder(self.raw, file)
        except pyvips.Error as error:
            reason = " ".join(str(error.detail or error).split())
            raise DataError(f"{self.path}: can't be written ({reason})") from None
