"""The folder of a training run: its lock, its log, and the record of losses."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
from pathlib import Path
from typing import IO, Any

import yaml

from engine.runtime import print_anyway, say
from engine.weights.checkpoint import TEMPORARY, load_checkpoint, write_whole
from utils import ConfigError, DataError, natural_key

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
            path.mkdir(parents=True, exist_ok=True)
            self.lock_file: IO[str] = open(path / LOCK, "a+")  # noqa: SIM115
        except OSError as error:
            raise DataError(f"{path}: no folder to write to ({error.strerror})") from error
        self.lock()
        for leftover in path.glob(f"*{TEMPORARY}"):
            leftover.unlink(missing_ok=True)

    def lock(self) -> None:
        """Take the lock, which the system releases when its holder ends, however it ends.

        A lock of fcntl's kind, since that is not handed on to loader processes, which may live a
        few seconds longer than a run that was killed.
        """
        try:
            fcntl.lockf(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.lock_file.seek(0)
            holder = self.lock_file.read().strip() or "another process"
            raise DataError(f"{self.path}: in use by {holder}; one run per folder") from error
        try:
            self.lock_file.truncate(0)
            self.lock_file.write(f"process {os.getpid()} on {os.uname().nodename}")
            self.lock_file.flush()
        except OSError as error:
            raise DataError(f"{self.path}: can't be written to ({error.strerror})") from error

    def release(self) -> None:
        self.lock_file.close()

    def checkpoints(self) -> list[Path]:
        """Every checkpoint, `epoch-last.pth` first."""
        found = sorted(self.path.glob("epoch-*.pth"), key=lambda path: natural_key(path.name))
        return sorted(found, key=lambda path: path.name != LAST)

    def holds_run(self) -> bool:
        """Whether there is anything that starting over would lose."""
        if self.checkpoints():
            return True
        losses = self.path / "losses.csv"  # with its header alone, nothing came of the run
        return losses.exists() and losses.stat().st_size > len(LOSSES_HEADER)

    def holds(self, path: Path) -> bool:
        """Whether a file lies in this folder."""
        return path.resolve().parent == self.path.resolve()

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """`epoch-last.pth`, or where it is not whole the checkpoint that got furthest.

        None where there is no checkpoint at all. Those that are passed over are named in a line.

        Raises:
            DataError: there are checkpoints, and none is whole.
        """
        best: tuple[Path, dict[str, Any]] | None = None
        problems: list[DataError] = []
        for path in self.checkpoints():
            try:
                checkpoint = load_checkpoint(path)
            except DataError as error:
                problems.append(error)
                continue
            if path.name == LAST:
                return path, checkpoint
            if best is None or progress(checkpoint) > progress(best[1]):
                best = path, checkpoint
        if best is None and problems:
            raise DataError(f"{problems[-1]}; no checkpoint of {self.path} is whole")
        for problem in problems:
            say(f"passed over: {problem}")
        return best

    def clear(self, *, diagnoses: bool) -> None:
        """Remove what a run leaves here, perhaps also its diagnoses, and nothing else."""
        for pattern in ("epoch-*.pth", "diagnosis-*.pth") if diagnoses else ("epoch-*.pth",):
            for path in self.path.glob(pattern):
                path.unlink()
        for name in ("config.yaml", "log.txt", "losses.csv", "trace.json"):
            (self.path / name).unlink(missing_ok=True)
        if (self.path / "tensorboard").is_dir():
            shutil.rmtree(self.path / "tensorboard")

    def write_config(self, config: dict[str, Any]) -> None:
        text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None)
        write_whole(self.path / "config.yaml", text.encode())

    def log(self, message: str) -> None:
        """A line in `log.txt`, and on the terminal."""
        print_anyway(message, sys.stdout)
        append(self.path / "log.txt", message + "\n")


def progress(checkpoint: dict[str, Any]) -> tuple[int, int]:
    """How far a checkpoint got, for comparing."""
    position = checkpoint.get("position", 0)
    return checkpoint.get("epoch", 0), position if isinstance(position, int) else 0


def append(path: Path, text: str) -> None:
    """Add to a text file, flushed to the disk.

    Raises:
        DataError: it can't be written.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"{path}: can't be written ({error.strerror})") from error


class LossLog:
    """`losses.csv`: the loss of every step, exactly as it was, in step with the checkpoints.

    Losses are written before the checkpoint that follows them. So a run that goes on finds at
    least those up to its checkpoint, and drops later ones, which it makes again.
    """

    def __init__(self, path: Path, steps_done: int) -> None:
        self.path = path
        self.waiting: list[str] = []
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: can't be read ({error})") from error
        write_whole(path, (LOSSES_HEADER + kept_lines(text, steps_done)).encode())

    def add(self, step: int, epoch: int, loss: float) -> None:
        self.waiting.append(f"{step},{epoch},{loss!r}\n")

    def flush(self) -> None:
        if self.waiting:
            append(self.path, "".join(self.waiting))
            self.waiting.clear()


def kept_lines(text: str, steps_done: int) -> str:
    """The lines of whole records of steps 1 to steps_done."""
    kept = []
    for line in text.splitlines(keepends=True)[1:]:
        step, _, rest = line.partition(",")
        if not line.endswith("\n") or not re.fullmatch("[0-9]{1,18}", step) or not rest:
            break
        if int(step) > steps_done:
            break
        kept.append(line)
    return "".join(kept)
