"""Which checkpoint a run goes on from, and whether it is a checkpoint of the same run."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engine.config import TrainConfig, config_dict
from engine.runtime import say
from engine.train.run_folder import LAST, LOSSES_HEADER
from engine.weights.checkpoint import load_checkpoint
from engine.weights.pretrained import find_weights
from registry import show
from utils import ConfigError, DataError

# Settings that say how, how long or how often, but not what is trained on what.
FREE = {
    "epoch_max", "num_workers", "save_minutes", "epoch_val", "epoch_save", "resume", "init",
    "accumulate", "compile", "eval_bsize", "on_bad_image", "imports",
}  # fmt: skip
# Where the same files may lie, and how they are read; what they are is compared by fingerprint.
PLACES = ("root_path", "root_path_1", "root_path_2", "split_file", "cache", "max_pixels")

CONTENTS = ", contents "
END = 16384  # bytes: few enough for tens of thousands of photographs


class ResumePoint(NamedTuple):
    """A checkpoint to go on from, and its file."""

    path: Path
    checkpoint: dict[str, Any]


def read(name: str | Path) -> ResumePoint:
    path = find_weights(name, "resume")
    return ResumePoint(path, load_checkpoint(path))


def find_checkpoint(
    folder: Path, resume: str | None, key: str | None, overwrite: bool
) -> ResumePoint | None:
    """The checkpoint to go on from, or None for a fresh start.

    Args:
        resume: what `--resume` says: a file, a name as for `--model`, "auto" or nothing.
        key: what the configuration's `resume` says; counts where the option is not given, and
            where "auto" finds nothing.
        overwrite: start over, whatever the folder holds.

    Raises:
        ConfigError: the folder holds a run, and nothing says what shall become of it.
        DataError: the checkpoint can't be read.
    """
    wanted = resume or key
    if overwrite and wanted in (None, "auto"):
        return None
    if wanted == "auto":
        newest = find_newest(folder)
        return read(key) if newest is None and key not in (None, "auto") else newest
    losses = folder / "losses.csv"  # with its header alone, nothing came of the run
    holds_run = bool(checkpoints(folder)) or (
        losses.exists() and losses.stat().st_size > len(LOSSES_HEADER)
    )
    if wanted is None:
        if holds_run:
            raise ConfigError(
                f"{folder}: holds a run already; allowed: --resume auto to go on with it, "
                "--overwrite to start over, or another --name or --tag"
            )
        return None
    found = read(wanted)
    if holds_run and not lies_in(found.path, folder) and not overwrite:
        raise ConfigError(
            f"{folder}: holds another run than {wanted}; allowed: --overwrite, or another "
            "--name or --tag"
        )
    return found


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, however the two are named."""
    return path.resolve().parent == folder.resolve()


def checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint of a run, `epoch-last.pth` first."""
    return sorted(folder.glob("epoch-*.pth"), key=lambda path: (path.name != LAST, path.name))


def find_newest(folder: Path) -> ResumePoint | None:
    """`epoch-last.pth`, or where it is not whole the checkpoint that got furthest.

    None where there is no checkpoint at all. Those that are passed over are named in a line.

    Raises:
        DataError: there are checkpoints, and none is whole.
    """
    whole: list[ResumePoint] = []
    problems: list[DataError] = []
    for path in checkpoints(folder):
        try:
            whole.append(read(path))
        except DataError as error:
            problems.append(error)
        if whole and path.name == LAST:
            return whole[0]
    if problems and not whole:
        raise DataError(f"{problems[-1]}; no checkpoint of {folder} is whole")
    for problem in problems:
        say(f"passed over: {problem}")

    def progress(found: ResumePoint) -> tuple[int, int]:
        position = found.checkpoint.get("position", 0)
        return found.checkpoint.get("epoch", 0), position if isinstance(position, int) else 0

    return max(whole, key=progress, default=None)


def is_finished(checkpoint: Mapping[str, Any], config: TrainConfig) -> bool:
    """Whether a checkpoint is the end of the configured run; not that of another model."""
    same = all(checkpoint["model"][key] == config.model[key] for key in ("name", "args"))
    return same and checkpoint.get("epoch", 0) >= config.epoch_max


def refuse_differences(start: ResumePoint, config: TrainConfig, data: Mapping[str, str]) -> None:
    """Raises ConfigError where a checkpoint is of another run; names every difference."""
    differences = list(find_differences(start.checkpoint, config, data))
    if differences:
        raise ConfigError(
            f"{start.path}: of another run ({'; '.join(differences)}); allowed: the same "
            "settings, or --resume-anyway"
        )


def find_differences(
    checkpoint: Mapping[str, Any], config: TrainConfig, data: Mapping[str, str]
) -> Iterator[str]:
    """What is different about model, data and optimiser: `key: now ..., in the checkpoint ...`."""
    new = config_dict(config)
    old = checkpoint.get("config")
    if old is None:  # a published checkpoint
        new = {key: new[key] for key in ("model", "optimizer")}
        old = {key: {**(checkpoint.get(key) or {}), "sd": None} for key in new}
    old_files = checkpoint.get("data") or {}
    now, before = flatten(new), flatten(old)
    for key in sorted({*now, *before}):
        part, _, rest = key.partition(".")
        free = part in FREE and (part != "epoch_max" or config.cosine()[0] is None)
        is_place = rest.startswith("dataset.args.") and rest.rsplit(".", 1)[-1] in PLACES
        same = now.get(key) == before.get(key)
        if not (same or free or (is_place and part in old_files and part in data)):
            given = (show(s[key]) if key in s else "not given" for s in (now, before))
            why = ", and the learning rate is lowest at that epoch"
            yield "{}: {} now, {} then{}".format(key, *given, why if key == "epoch_max" else "")
    for part, files in data.items():
        # The contents, written last, are missing in what earlier versions wrote.
        if part in old_files and old_files[part] not in (files, files.split(CONTENTS)[0]):
            yield f"{part}: other files than then"


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings and lists of them as one, by dotted paths; nothing for what is not set."""
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        parts = (flatten(item, f"{path}.{key}".lstrip(".")) for key, item in value.items())
        return {key: item for part in parts for key, item in part.items()}
    if value is None:
        return {}
    return {path: [*value] if isinstance(value, (list, tuple)) else value}


def fingerprint(dataset: Any) -> str:
    """Of the files behind a data set: names and sizes, and what their ends hold.

    Where they lie does not count.
    """
    digest, checksum = hashlib.sha256(), 0
    names = dataset.names if hasattr(dataset, "names") else lambda _: ()
    files = dict.fromkeys(Path(name) for index in range(len(dataset)) for name in names(index))
    for path in files:
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{path.name} {size}\n".encode(errors="surrogateescape"))
        checksum = zlib.crc32(ends(path, size), checksum)
    counts = f"{len(dataset)} items, {len(files)} files"
    return f"{counts}, {digest.hexdigest()[:16]}{CONTENTS}{checksum:08x}"


def ends(path: Path, size: int) -> bytes:
    """The first and last bytes of a file; in nearly every format one of them shows a change."""
    try:
        with path.open("rb") as file:
            first = file.read(END)
            file.seek(max(0, size - END))
            return first + file.read(END)
    except OSError:  # whoever needs the pixels complains of it
        return b""
