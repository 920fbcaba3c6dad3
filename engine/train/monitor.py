"""What a run tells about itself: numbers of steps, throughput, TensorBoard, a trace."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar, text
from torch import Tensor

from engine.runtime import say


@dataclass
class StepReport:
    """What a step computed, on its way from the device.

    Attributes:
        lr: its learning rate.
        items: of its batch, over all processes.
        batch: this process's part of it, as the loader gave it.
        loss: this process's part of the loss.
        numbers: loss, norm of the gradient, whether some process was asked to stop, whether a
            save is due, and the count of replaced items; (5,), added up over the processes.
    """

    step: int
    lr: float
    items: int
    batch: Mapping[str, Any]
    loss: Tensor
    numbers: Tensor

    def __post_init__(self) -> None:
        self.copied: torch.cuda.Event | None = None
        if self.numbers.is_cuda:
            self.numbers = self.numbers.to("cpu", non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def values(self) -> list[float]:
        """The numbers, as soon as the device has computed them."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.numbers.tolist()


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

    def figures(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self.start, 1e-9)
        return {"images_per_second": self.images / seconds, "waiting": self.waited / seconds}


def peak_memory(device: torch.device) -> float:
    """GiB: the most that was allocated on a CUDA device, or that the process has taken."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Board:
    """Scalars for TensorBoard, written at once: a full disk costs the curves, not the run."""

    def __init__(self, folder: Path, first_step: int) -> None:
        self.writer: EventsWriter | None = None
        with self.tolerant():
            folder.mkdir(exist_ok=True)
            self.writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            # What an earlier sitting wrote for these steps and later ones is made again.
            begin = Event(session_log=SessionLog(status=SessionLog.START), step=first_step)
            self.writer.write_event(begin)
            self.writer.flush()

    @contextlib.contextmanager
    def tolerant(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            say(f"TensorBoard: can't be written ({error.strerror}); going on without")
            self.writer = None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        with self.tolerant():
            if self.writer is not None:
                for name, value in values.items():
                    summary = scalar(name, value)
                    self.writer.write_event(
                        Event(step=step, summary=summary, wall_time=time.time())
                    )
                self.writer.flush()

    def add_picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture, uint8 (height, width, 3)."""
        buffer = io.BytesIO()
        # Not PNG: the checksum of a record takes a second per megabyte where it runs in Python.
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=92, subsampling=0)
        height, width, colorspace = *pixels.shape[:2], 3  # RGB
        picture = Summary.Image(
            height=height,
            width=width,
            colorspace=colorspace,
            encoded_image_string=buffer.getvalue(),
        )
        self.add_summary(step, Summary(value=[Summary.Value(tag=name, image=picture)]))

    def add_text(self, step: int, name: str, words: str) -> None:
        """A text, shown as it stands."""
        indented = "".join(f"    {line}\n" for line in words.splitlines())  # Markdown: verbatim
        self.add_summary(step, text(name, indented))

    def add_summary(self, step: int, summary: Any) -> None:
        with self.tolerant():
            if self.writer is not None:
                self.writer.write_event(Event(step=step, summary=summary, wall_time=time.time()))
                self.writer.flush()


class Profile:
    """A trace of some steps, after the first two, for TensorBoard or Perfetto."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.left = path, steps + 2 if steps else 0
        self.profiler: torch.profiler.profile | None = None
        if steps:
            self.profiler = torch.profiler.profile(
                schedule=torch.profiler.schedule(wait=1, warmup=1, active=steps, repeat=1),
                on_trace_ready=self.write,
            )
            self.profiler.start()

    def write(self, profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(self.path))
        say(f"{self.path}: trace written")

    def step(self) -> None:
        if self.profiler is None:
            return
        self.profiler.step()
        self.left -= 1
        if self.left == 0:
            self.close()

    def close(self) -> None:
        if self.profiler is not None:
            self.profiler.stop()
            self.profiler = None


def first_lines(messages: Sequence[str], shown: int = 3) -> str:
    """The first of many messages, and how many more there are."""
    more = f"; and {len(messages) - shown} more" if len(messages) > shown else ""
    return "; ".join(messages[:shown]) + more
