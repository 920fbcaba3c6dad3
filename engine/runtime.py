"""Where and how things run: device, precision, messages, and how a script ends."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np
import PIL
import torch

from liif import __version__
from utils import ConfigError, UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def say(message: str) -> None:
    """Print a line for the user to standard error, beside the results."""
    print_anyway(message, sys.stderr)


def print_anyway(message: str, stream: TextIO) -> None:
    """Print a line, ignoring a closed pipe (`| head`)."""
    try:
        # In one piece: several processes may share the stream.
        print(f"{message}\n", end="", file=stream, flush=True)
    except BrokenPipeError:
        mute(stream)


def mute(stream: TextIO) -> None:
    """Discard what a stream still holds, and what follows."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def can_flush(stream: TextIO) -> bool:
    """Whether a stream still takes what it holds."""
    try:
        stream.flush()
    except BrokenPipeError:
        return False
    return True


class Parser(argparse.ArgumentParser):
    """A parser of command lines: it knows `--version`, and complains in one line like all else."""

    def __init__(self, *, add_help: bool = True, **options: Any) -> None:
        super().__init__(add_help=add_help, **options)
        if add_help:
            self.add_argument("--version", action="version", version=f"liif {__version__}")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def nonempty(text: str) -> str:
    """The type of an option that an unset variable of the shell would leave out in silence."""
    if not text:
        raise argparse.ArgumentTypeError("'' given; allowed: a name or a path")
    return text


def nonempty_path(text: str) -> Path:
    """`nonempty`, as a path; Path("") would be the folder that the script is started in."""
    return Path(nonempty(text))


def parse_gpu(gpu: str | None) -> list[int]:
    """The device numbers of `--gpu 0,1`; none when absent.

    Raises:
        ConfigError: anything but numbers, or one twice.
    """
    if gpu is None:
        return []
    parts = [part.strip() for part in gpu.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(f"--gpu: {gpu!r} given; allowed: device numbers such as 0 or 0,1")
    return [int(part) for part in parts]


def choose_device(gpu: str | None = None) -> torch.device:
    """The first device named by `--gpu`; without it CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: no such CUDA device. Where there is no CUDA at all, the CPU and a line of it.
    """
    numbers = parse_gpu(gpu)
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        for number in numbers:
            if number >= count:
                raise ConfigError(f"--gpu: {gpu!r} given; allowed: 0 to {count - 1}")
        torch.backends.cudnn.allow_tf32 = False  # fp32 is to be fp32, in convolutions as well
        return torch.device("cuda", numbers[0] if numbers else int(os.environ.get("LOCAL_RANK", 0)))
    if numbers:
        say(f"--gpu {gpu}: there is no CUDA here; running on the CPU")
        return torch.device("cpu")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@functools.cache
def has_bf16(kind: str) -> bool:
    """Whether devices of this kind compute in bfloat16 here.

    A CPU without instructions for it imitates them, hundreds of times slower than fp32.
    """
    if kind != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def usable_precision(device: torch.device, precision: str) -> str:
    """What `precision` comes to on a device: itself, or fp32 for bf16 on a CPU without bf16.

    Raises:
        ConfigError: an unknown precision, or fp16 without CUDA.
    """
    if precision not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise ConfigError(f"precision: {precision!r} given; allowed: {allowed}")
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"precision: fp16 needs CUDA; allowed on {device.type}: fp32, bf16")
    return "fp32" if precision == "bf16" and not has_bf16(device.type) else precision


def settle_precision(device: torch.device, precision: str) -> str:
    """`usable_precision`, with a line for the user where it is not the one asked for."""
    usable = usable_precision(device, precision)
    if usable != precision:
        say(f"precision {precision}: this {device.type.upper()} has none; computing in {usable}")
    return usable


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Context in which matrix products run in what `precision` comes to on this device."""
    usable = usable_precision(device, precision)
    if usable == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[usable])


def versions() -> dict[str, str]:
    """Versions of what the numbers of a result or a checkpoint depend on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's main function and end the process with its exit code.

    A user's mistake ends in one line and code 1 or 2 instead of a traceback; an interruption that
    nothing else took care of in code 130.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    code = 1
    try:
        sys.exit(main() or 0)
    except UserError as error:
        line, code = f"error: {error}", error.exit_code
    except KeyboardInterrupt:
        line, code = "interrupted", 130
    except BrokenPipeError:
        if can_flush(sys.stdout):  # then the pipe is another, of the user's code
            raise
        mute(sys.stdout)
        sys.exit(code)
    except torch.cuda.OutOfMemoryError as error:
        line = f"error: the GPU's memory is full ({str(error).split('.')[0]}); try smaller batches"
    except MemoryError as error:
        line = f"error: the memory is full ({str(error) or 'no details'}); try smaller sizes"
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        details = str(error).split("Allocator: ")[-1].split(". ")[0]
        line = f"error: the memory is full ({details}); try smaller sizes"
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        line = f"error: {name}{error.strerror or error}"
    say(line)
    sys.exit(code)
