"""Which checkpoint a run goes on from, and whether it is a checkpoint of the same run."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.config import TrainConfig, config_dict
from engine.train.run_folder import RunFolder
from engine.weights.checkpoint import load_checkpoint
from registry import show
from utils import ConfigError

# Settings that say how, how long or how often, but not what is trained on what.
FREE = {
    "epoch_max", "num_workers", "save_minutes", "epoch_val", "epoch_save", "resume", "init",
    "accumulate", "compile", "eval_bsize", "on_bad_image",
}  # fmt: skip
# Where the same files may lie, and how they are read; what they are is compared by fingerprint.
PLACES = ("root_path", "root_path_1", "root_path_2", "split_file", "cache", "max_pixels")

CONTENTS = ", contents "
END = 16384  # bytes: few enough for tens of thousands of photographs

Found = tuple[Path, dict[str, Any]]


def find_checkpoint(
    folder: RunFolder, resume: str | None, key: str | None, overwrite: bool
) -> Found | None:
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
    if overwrite and resume is None:
        return None if key in (None, "auto") else read(Path(str(key)))
    if wanted == "auto":
        found = folder.newest()
        if found is None and key not in (None, "auto"):
            found = read(Path(str(key)))
        return found
    if wanted is None:
        if folder.holds_run():
            raise ConfigError(
                f"{folder.path}: holds a run already; allowed: --resume auto to go on with it, "
                "--overwrite to start over, or another --name or --tag"
            )
        return None
    found = read(Path(wanted))
    if folder.holds_run() and not folder.holds(found[0]) and not overwrite:
        raise ConfigError(
            f"{folder.path}: holds another run than {wanted}; allowed: --overwrite, or another "
            "--name or --tag"
        )
    return found


def read(path: Path) -> Found:
    return path, load_checkpoint(path)


def refuse_differences(found: Found, config: TrainConfig, data: Mapping[str, str]) -> None:
    """Raises ConfigError where a checkpoint is of another run; names every difference."""
    path, checkpoint = found
    differences = list(find_differences(checkpoint, config, data))
    if differences:
        raise ConfigError(
            f"{path}: of another run ({'; '.join(differences)}); allowed: the same settings, or "
            "--resume-anyway"
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
    if part == "epoch_max":
        return config.lr_schedule is None
    if part in FREE:
        return True
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
    count = 0
    if hasattr(dataset, "names"):
        files = dict.fromkeys(str(name) for i in range(len(dataset)) for name in dataset.names(i))
        count = len(files)
        for name in files:
            path = Path(name)
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{path.name} {size}\n".encode())
            checksum = zlib.crc32(ends(path, size), checksum)
    return f"{len(dataset)} items, {count} files, {digest.hexdigest()[:16]}{CONTENTS}{checksum:08x}"


def ends(path: Path, size: int) -> bytes:
    """The first and last bytes of a file; in nearly every format one of them shows a change."""
    try:
        with path.open("rb") as file:
            first = file.read(END)
            file.seek(max(0, size - END))
            return first + file.read(END)
    except OSError:  # whoever needs the pixels complains of it
        return b""
