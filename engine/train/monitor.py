"""What a run tells about itself: throughput, memory, TensorBoard, a trace."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from datasets.files import NO_FSYNC
from engine.runtime import say

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]


class Throughput:
    """Time of an epoch so far, what of it went by waiting for data, and the images it took."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.waited = 0.0
        self.images = 0

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches, the time until each is there counted as waiting."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - asked
            yield batch

    def scalars(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self.start, 1e-9)
        return {"images_per_second": self.images / seconds, "waiting": self.waited / seconds}


def peak_memory(device: torch.device) -> float | None:
    """GiB: the most that was allocated on a CUDA device, or that the process has taken.

    None on systems that do not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class TensorBoardWriter:
    """Curves, pictures and texts for TensorBoard, on the disk when a call returns.

    Not tensorboardX's SummaryWriter, whose thread loses what is still in its queue when the
    process is killed, also after flush(), and blocks the run for ever once the disk is full. Here
    a full disk costs the curves, not the run.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        """Open a new event file; TensorBoard forgets what earlier ones hold of later steps.

        Args:
            first_step: the first that this session adds to.
        """
        self.writer: EventsWriter | None = None
        with self.tolerant():
            folder.mkdir(exist_ok=True)
            self.writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self.write(Event(session_log=SessionLog(status=SessionLog.START), step=first_step))

    @contextlib.contextmanager
    def tolerant(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in NO_FSYNC:  # raised at the end, when all is written
                say(f"TensorBoard: can't be written ({error.strerror}); going on without")
                self.writer = None

    def write(self, *events: Event) -> None:
        with self.tolerant():
            if self.writer is not None:
                for event in events:
                    event.wall_time = time.time()
                    self.writer.write_event(event)
                self.writer.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        made = [summary.scalar(name, value) for name, value in values.items()]
        self.write(*(Event(step=step, summary=each) for each in made))

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Add a picture, uint8 (height, width, 3)."""
        buffer = io.BytesIO()
        # Not PNG: the checksum of a record takes a second per megabyte where it runs in Python.
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=92, subsampling=0)
        picture = Summary.Image(
            height=pixels.shape[0],
            width=pixels.shape[1],
            colorspace=3,  # RGB
            encoded_image_string=buffer.getvalue(),
        )
        value = Summary.Value(tag=name, image=picture)
        self.write(Event(step=step, summary=Summary(value=[value])))

    def text(self, step: int, name: str, words: str) -> None:
        """Add a text, shown as it stands."""
        indented = "".join(f"    {line}\n" for line in words.splitlines())  # Markdown: verbatim
        self.write(Event(step=step, summary=summary.text(name, indented)))


def start_profiler(path: Path, steps: int) -> torch.profiler.profile:
    """Record a trace of some steps, after the first two, for TensorBoard or Perfetto."""

    def write(profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(path))
        say(f"{path}: trace written")

    schedule = torch.profiler.schedule(wait=1, warmup=1, active=steps, repeat=1)
    profiler = torch.profiler.profile(schedule=schedule, on_trace_ready=write)
    profiler.start()
    return profiler
