"""Where the low-resolution pictures of a folder lie, and which command gets a missing folder."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

PREPARE = "python scripts/prepare_data.py"
# Folders below a data root, as regular expressions, and what `prepare_data.py` is asked for.
COMMANDS = {
    "div2k/DIV2K_train_LR_bicubic/X2": "div2k --parts train-lr-x2",
    "div2k/DIV2K_(?:train_HR|valid_HR|valid_LR_bicubic/X[234])": "div2k",
    "benchmark/(?:Set5|Set14|B100|Urban100)/(?:HR|LR_bicubic/X[234])": "benchmark",
    "celebAHQ/(?:256|128|64|32)": "celebahq --archive FOLDER_OF_1024x1024_FILES",
    "bsds500/(?:images|squares/(?:96|24))": "bsds500 --archive ARCHIVE_OR_FOLDER",
    "sample/(?:train|valid)": "sample",
}
LOW = "LR_bicubic"


def low_folder(high: Path) -> Path:
    """Where the folders X2, X3 and so on of a high-resolution folder lie: beside it.

    `HR` has `LR_bicubic`, as in the benchmarks, `DIV2K_valid_HR` has `DIV2K_valid_LR_bicubic`, and
    any other folder, `trip`, has `trip-LR_bicubic`: never two folders the same.
    """
    place = Path(os.path.realpath(high))
    if place.name == "HR":
        return place.with_name(LOW)
    if place.name.endswith("_HR"):
        return place.with_name(f"{place.name[:-2]}{LOW}")
    return place.parent / f"{place.name}-{LOW}"


def high_folder(low: Path) -> Path:
    """The folder that has `low`, which ends in LR_bicubic, as its `low_folder`."""
    stem = low.name.removesuffix(LOW)
    return low.with_name(stem[:-1] if stem.endswith("-") else f"{stem}HR")


def how_to_get(folder: Path) -> str:
    """ "; get it with: COMMAND", for a message about a folder that is missing; "" if unknown."""
    path = Path(os.path.normpath(folder)).as_posix()
    for pattern, what in COMMANDS.items():
        match = re.fullmatch(f"(?:(.*)/)?{pattern}", path)
        if match:
            root = "." if match[1] is None else match[1] or "/"
            place = "" if root == "load" else f" --root {shlex.quote(root)}"
            return f"; get it with: {PREPARE} {what}{place}"
    scale = re.fullmatch("X([0-9]+)", folder.name)
    if scale and folder.parent.name.endswith(LOW):
        high = high_folder(folder.parent)
        if high.is_dir():
            command = f"{PREPARE} lr --hr {shlex.quote(str(high))} --scales {scale[1]}"
            return f"; make it with: {command}"
    return ""
