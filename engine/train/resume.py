"""Which checkpoint a run goes on from, and whether it is a checkpoint of the same run."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engine.config import TrainConfig, config_dict
from engine.runtime import say
from engine.train.run_folder import LAST, RunFolder
from engine.weights.checkpoint import load_checkpoint
from registry import show
from utils import ConfigError, DataError

# Settings that say how, how long or how often, but not what is trained on what.
FREE = {
    "epoch_max", "num_workers", "save_minutes", "epoch_val", "epoch_save", "resume", "init",
    "accumulate", "compile", "eval_bsize", "on_bad_image",
}  # fmt: skip
# Where the same files may lie, and how they are read; what they are is compared by fingerprint.
PLACES = ("root_path", "root_path_1", "root_path_2", "split_file", "cache", "max_pixels")

CONTENTS = ", contents "
END = 16384  # bytes: few enough for tens of thousands of photographs


class ResumePoint(NamedTuple):
    """A checkpoint to go on from, and its file."""

    path: Path
    checkpoint: dict[str, Any]


def read(path: str | Path) -> ResumePoint:
    return ResumePoint(Path(path), load_checkpoint(path))


def find_checkpoint(
    folder: RunFolder, resume: str | None, key: str | None, overwrite: bool
) -> ResumePoint | None:
    """The checkpoint to go on from, or None for a fresh start.

    Args:
        resume: what `--resume` says: a file, "auto" or nothing.
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
    if wanted is None:
        if folder.holds_run():
            raise ConfigError(
                f"{folder.path}: holds a run already; allowed: --resume auto to go on with it, "
                "--overwrite to start over, or another --name or --tag"
            )
        return None
    found = read(wanted)
    if folder.holds_run() and not folder.holds(found.path) and not overwrite:
        raise ConfigError(
            f"{folder.path}: holds another run than {wanted}; allowed: --overwrite, or another "
            "--name or --tag"
        )
    return found


def find_newest(folder: RunFolder) -> ResumePoint | None:
    """`epoch-last.pth`, or where it is not whole the checkpoint that got furthest.

    None where there is no checkpoint at all. Those that are passed over are named in a line.

    Raises:
        DataError: there are checkpoints, and none is whole.
    """
    best: ResumePoint | None = None
    problems: list[DataError] = []
    for path in folder.checkpoints():
        try:
            found = read(path)
        except DataError as error:
            problems.append(error)
            continue
        if path.name == LAST:
            return found
        if best is None or progress(found.checkpoint) > progress(best.checkpoint):
            best = found
    if best is None and problems:
        raise DataError(f"{problems[-1]}; no checkpoint of {folder.path} is whole")
    for problem in problems:
        say(f"passed over: {problem}")
    return best


def progress(checkpoint: Mapping[str, Any]) -> tuple[int, int]:
    """How far a checkpoint got, for comparing."""
    position = checkpoint.get("position", 0)
    return checkpoint.get("epoch", 0), position if isinstance(position, int) else 0


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
        old = {key: dict(checkpoint.get(key) or {}) for key in new}
        for spec in old.values():
            spec.pop("sd", None)
    old_files = checkpoint.get("data") or {}
    now, before = flatten(new), flatten(old)
    for key in sorted({*now, *before}):
        if now.get(key) != before.get(key) and not is_free(key, config, old_files, data):
            yield f"{key}: {given(now, key)} now, {given(before, key)} then"
    for part, files in data.items():
        # The contents, written last, are missing in what earlier versions wrote.
        if part in old_files and old_files[part] not in (files, files.split(CONTENTS)[0]):
            yield f"{part}: other files than then"


def is_free(
    key: str, config: TrainConfig, old_files: Mapping[str, str], files: Mapping[str, str]
) -> bool:
    """Whether a setting may differ in a run that goes on."""
    part, _, rest = key.partition(".")
    if part in FREE:
        return part != "epoch_max" or config.lr_schedule is None
    in_place = rest.startswith("dataset.args.") and rest.rsplit(".", 1)[-1] in PLACES
    return in_place and part in old_files and part in files


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, by dotted paths; nothing for what is not set."""
    if isinstance(value, Mapping):
        items: dict[str, Any] = {}
        for key, item in value.items():
            items.update(flatten(item, f"{path}.{key}" if path else str(key)))
        return items
    if isinstance(value, (list, tuple)):
        return {path: [*value]}
    return {} if value is None else {path: value}


def given(settings: Mapping[str, Any], key: str) -> str:
    return show(settings[key]) if key in settings else "not given"


def fingerprint(dataset: Any) -> str:
    """Of the files behind a data set: names and sizes, and what their ends hold.

    Where they lie does not count.
    """
    digest, checksum = hashlib.sha256(), 0
    names = dataset.names if hasattr(dataset, "names") else lambda _: ()
    files = dict.fromkeys(Path(name) for index in range(len(dataset)) for name in names(index))
    for path in files:
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{path.name} {size}\n".encode())
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
