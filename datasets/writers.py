"""Writing pictures row by row, without ever leaving half a file under the name asked for."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

import numpy as np
import pyvips

from utils import DataError

from .encoders import Encoder, PngEncoder, TiffEncoder, WholeEncoder

WRITTEN_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")
LARGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}


class Writer:
    """A picture that is written row by row, to another name until it is whole.

    Use it in a `with` statement; where that ends early, nothing is left behind.

    Raises:
        DataError: a suffix that no encoder here writes, a picture that the format can't hold, a
            place that can't be written to, a full disk.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        icc: bytes | None,
        dpi: tuple[float, float] | None,
        quality: int,
    ) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.rows_written = 0
        suffix = path.suffix.lower()
        if suffix not in WRITTEN_SUFFIXES:
            raise DataError(
                f"{path}: can't be written; allowed: names ending in {', '.join(WRITTEN_SUFFIXES)}"
            )
        if max(shape[:2]) > LARGEST_SIDE.get(suffix, 2**31 - 1):
            raise DataError(
                f"{path}: {shape[0]}x{shape[1]} pixels; a {suffix} file holds at most "
                f"{LARGEST_SIDE[suffix]} on a side"
            )
        self.part = path.with_name(f".{path.name}.part-{os.getpid()}{suffix}")
        try:
            self.file = self.part.open("wb")
            self.encoder: Encoder
            if suffix == ".png":
                self.encoder = PngEncoder(self.file, shape, self.dtype, icc, dpi)
            elif suffix in (".tif", ".tiff"):
                self.encoder = TiffEncoder(self.file, shape, self.dtype, icc, dpi)
            else:
                self.encoder = WholeEncoder(self.part, suffix, shape, icc, dpi, quality)
        except OSError as error:
            raise self.failure(error) from None

    def __enter__(self) -> Writer:
        return self

    def write(self, rows: np.ndarray) -> None:
        """The next rows, (n, W, C) of the picture's dtype.

        Raises:
            DataError: the disk is full or gone.
        """
        assert rows.shape[1:] == self.shape[1:], (rows.shape, self.shape)
        assert rows.dtype == self.dtype, (rows.dtype, self.dtype)
        self.rows_written += len(rows)
        try:
            self.encoder.write(rows)
        except OSError as error:
            raise self.failure(error) from None

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
            self.discard()

    def finish(self) -> None:
        assert self.rows_written == self.shape[0], (self.rows_written, self.shape)
        try:
            self.encoder.finish()
            self.file.flush()
            os.fsync(self.file.fileno())
            os.replace(self.part, self.path)
        except (OSError, pyvips.Error) as error:
            raise self.failure(error) from None

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # what was buffered may not fit on the disk either
            self.file.close()
        self.part.unlink(missing_ok=True)

    def failure(self, error: OSError | pyvips.Error) -> DataError:
        if isinstance(error, OSError):
            return DataError(f"{self.path}: can't be written ({error.strerror or error})")
        details = (error.detail or "").strip().splitlines()
        return DataError(f"{self.path}: can't be written ({details[-1] if details else error})")
