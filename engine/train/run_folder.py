"""The folder of a training run: its lock, its log, and the record of losses."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import IO, Any

import yaml

from datasets.files import TEMPORARY, file_errors, flush_to_disk, write_whole
from engine.runtime import print_anyway, say
from utils import ConfigError, DataError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
LAST, BEST = "epoch-last.pth", "epoch-best.pth"
LOSSES_HEADER = "step,epoch,loss\n"


def run_name(config_path: str, name: str | None, tag: str | None) -> str:
    """`NAME`, or `_CONFIG-NAME`; with a tag `_TAG` after it.

    Raises:
        ConfigError: a name that leads out of the folder of all runs.
    """
    base = name if name is not None else "_" + Path(config_path).stem
    full = base if tag is None else f"{base}_{tag}"
    parts = Path(full).parts
    if not parts or Path(full).is_absolute() or ".." in parts:
        raise ConfigError(f"--name, --tag: {full!r} given; allowed: the name of a folder in save/")
    return full


class RunFolder:
    """A run's folder, locked as long as this object and its process live.

    Raises:
        DataError: it can't be made or written, or another process is at work in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            self.lock_file: IO[str] = open(path / LOCK, "a+")  # noqa: SIM115
        except OSError as error:
            raise DataError(f"{path}: no folder to write to ({error.strerror})") from error
        self.lock()
        for leftover in path.glob(TEMPORARY):
            leftover.unlink(missing_ok=True)

    def lock(self) -> None:
        """Take the lock, which the system releases when its holder ends, however it ends.

        A lock of fcntl's kind, since loader processes, which may live a few seconds longer than a
        run that was killed, do not inherit it.
        """
        try:
            if fcntl is None:
                raise OSError(errno.ENOLCK, "this system has no locks of files")
            fcntl.lockf(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            in_use = not (self.path / LOCK).exists()  # its holder has just removed its folder
        except OSError as error:
            in_use = error.errno in (errno.EACCES, errno.EAGAIN)
            if not in_use:
                say(
                    f"{self.path}: can't be locked ({error.strerror}), so that a second run in "
                    "this folder would not be noticed; start one only"
                )
        if in_use:
            self.lock_file.seek(0)
            holder = self.lock_file.read().strip() or "another process"
            raise DataError(f"{self.path}: in use by {holder}; one run per folder")
        with file_errors(self.path, "written to"):
            self.lock_file.truncate(0)
            self.lock_file.write(f"process {os.getpid()} on {socket.gethostname()}")
            self.lock_file.flush()

    def remove_if_unused(self) -> None:
        """Remove the folders that this object has made, where a run has written nothing."""
        if self.made and [file.name for file in self.path.iterdir()] == [LOCK]:
            with contextlib.suppress(OSError):  # another run has begun beside this one
                (self.path / LOCK).unlink()
                for folder in self.made:
                    folder.rmdir()

    def clear(self, *, diagnoses: bool) -> None:
        """Remove what a run leaves here, perhaps also its diagnoses, and nothing else."""
        names = ["config.yaml", "log.txt", "losses.csv", "trace.json", "epoch-*.pth"]
        for pattern in [*names, "diagnosis-*.pth"] if diagnoses else names:
            for path in self.path.glob(pattern):
                path.unlink()
        tensorboard = self.path / "tensorboard"
        if tensorboard.is_dir() and not tensorboard.is_symlink():  # others may use what it leads to
            shutil.rmtree(tensorboard)

    def write_config(self, config: dict[str, Any]) -> None:
        text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None)
        write_whole(self.path / "config.yaml", text.encode())

    def log(self, message: str) -> None:
        """Write a line, with the time of day, to `log.txt` and to the terminal."""
        message = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}"
        print_anyway(message, sys.stdout)
        append(self.path / "log.txt", message + "\n")


def append(path: Path, text: str) -> None:
    """Add to a text file, and flush it to the disk.

    Raises:
        DataError: it can't be written.
    """
    with file_errors(path, "written"), open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        flush_to_disk(file.fileno())


class LossLog:
    """`losses.csv`: the exact loss of every step, in step with the checkpoints.

    Losses are written before the checkpoint that follows them. So a run that goes on finds at
    least those up to its checkpoint, and drops later ones, which it makes again.
    """

    def __init__(self, path: Path, steps_done: int) -> None:
        """Keep what a file that is there records of steps 1 to steps_done."""
        self.path = path
        self.waiting: list[str] = []
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: can't be read ({error})") from error
        kept = [LOSSES_HEADER]
        for line in text.splitlines(keepends=True)[1:]:
            record = re.fullmatch("([0-9]{1,18}),.+\n", line)
            if record is None or int(record[1]) > steps_done:
                break
            kept.append(line)
        write_whole(path, "".join(kept).encode())

    def add(self, step: int, epoch: int, loss: float) -> None:
        self.waiting.append(f"{step},{epoch},{loss!r}\n")

    def flush(self) -> None:
        if self.waiting:
            append(self.path, "".join(self.waiting))
            self.waiting.clear()
