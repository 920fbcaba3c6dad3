"""Listing the pictures of a data set."""

from __future__ import annotations

import os
from pathlib import Path

from datasets.images import SUFFIXES


def picture_names(folder: Path) -> list[str]:
    """Names of the pictures in a folder, sorted; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
    )
