"""Timing that the benchmarks share: turns, medians, peak memory, and the machine's own rate."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import re
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.runtime import PRECISIONS, has_bf16

# Side of the square matrices whose product gives the rate that shares are shares of.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}


@dataclass
class Contender:
    """One way of doing the work, and what was measured of it.

    Attributes:
        name: as the table shows it.
        run: does the work once.
        precision: of its matrix products, "fp32", "bf16" or "fp16".
        error: how far its result is off, for the table.
        steps: how many pieces of work a run is; all figures but memory are of one.
        flops: of its products and convolutions.
        result: of the first run.
        seconds: one per round.
        processor: seconds of processor time, of all threads, one per round; what the work takes
            where other programs keep the processor busy (with --threads 1; of several threads,
            some may wait busily).
        peak: bytes of memory beyond what was held before, the largest over the rounds; None where
            the system does not tell.
    """

    name: str
    run: Callable[[], object]
    precision: str = "fp32"
    error: float | None = None
    steps: int = 1
    flops: float = 0
    result: Any = None
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    peak: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark of models has."""
    made = argparse.ArgumentParser(description=description)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made.add_argument("--device", default=device)
    # A processor that imitates bf16 would take hours.
    precisions = ["fp32", "bf16"] if has_bf16(device) else ["fp32"]
    made.add_argument("--precisions", nargs="+", default=precisions, choices=PRECISIONS)
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--compile", action="store_true", help="also with torch.compile")
    return made


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resident(key: str) -> int | None:
    """A line of Linux's account of this process ("VmRSS", "VmHWM"), in bytes."""
    status = Path("/proc/self/status")
    found = re.search(rf"{key}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else None


def reset_peak(device: torch.device) -> int | None:
    """Start measuring peak memory; returns what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is not held
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    except OSError:
        return None
    return resident("VmRSS")


def peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")


def timed(run: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def product(device: torch.device, precision: str) -> Contender:
    """A large square matrix product, whose rate the machine is measured by."""
    side = MATRIX_SIDE.get(device.type, 2048)
    a = torch.randn(side, side, device=device).to(PRECISIONS[precision])
    return Contender(precision, lambda: a @ a, precision, flops=2 * side**3)


def measure(contenders: Iterable[Contender], rounds: int, device: torch.device) -> dict[str, float]:
    """Time everything in turns, so that what else the machine does hits all alike.

    Convolutions in fp32 are fp32, as in the project's commands.

    Returns:
        floating-point operations per second of a large matrix product, per precision.
    """
    torch.backends.cudnn.allow_tf32 = False
    contenders = list(contenders)
    products = {c.precision: product(device, c.precision) for c in contenders}
    for contender in contenders:
        with FlopCounterMode(display=False) as counter:
            contender.result = contender.run()  # also warms up
        contender.flops = counter.get_total_flops() / contender.steps
    for one in products.values():
        one.run()
    for _ in range(rounds):
        for one in products.values():
            one.seconds.append(timed(one.run, device))
        for contender in contenders:
            before = reset_peak(device)
            started = time.process_time()
            contender.seconds.append(timed(contender.run, device) / contender.steps)
            contender.processor.append((time.process_time() - started) / contender.steps)
            if before is not None:
                contender.peak = max(contender.peak or 0, (peak(device) or before) - before)
    return {precision: one.flops / one.median for precision, one in products.items()}


def ratio(first: list[float], other: list[float]) -> float:
    """The median of the ratios within each round."""
    return statistics.median(theirs / ours for theirs, ours in zip(first, other, strict=True))


def table(contenders: list[Contender], rates: dict[str, float]) -> str:
    """Markdown; ratios are to the first contender: the median of those within each round."""
    lines = [
        "| | median ms | ratio | processor ms | ratio | peak memory MB "
        "| share of the matrix-multiply rate | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    first = contenders[0]
    for one in contenders:
        processor = statistics.median(one.processor)
        memory = "" if one.peak is None else f"{one.peak / 1e6:.3g}"
        share = one.flops / one.median / rates[one.precision]
        difference = "" if one.error is None else f"{one.error:.1e}"
        lines.append(
            f"| {one.name} | {one.median * 1e3:.4g} | {ratio(first.seconds, one.seconds):.3g} "
            f"| {processor * 1e3:.4g} | {ratio(first.processor, one.processor):.3g} "
            f"| {memory} | {share:.0%} | {difference} |"
        )
    return "\n".join(lines)


def machine(device: torch.device, rates: dict[str, float]) -> str:
    """The machine in a line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    products = ", ".join(f"{p} {rate / 1e9:.0f} GFLOP/s" for p, rate in rates.items())
    return f"{name}{threads}, torch {torch.__version__}; matrix product: {products}"
