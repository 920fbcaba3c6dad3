"""Results of suites, kept in a file as they come, so that an interrupted run goes on."""

from __future__ import annotations

import glob
import json
import math
import time
from pathlib import Path
from typing import Any

from datasets.files import file_errors, write_whole
from utils import DataError

FORMAT = "liif-suite-1"
SAVE_SECONDS = 2.0


class ResultStore:
    """Records by key, in a JSON file that is rewritten whole every few seconds.

    A record is {"key": text, ...}. Each process of several writes a file of its own
    (`FILE.part-RANK`); all of them are read by all at the start, and the first process puts them
    together at the end.

    Raises:
        DataError: the file is there and is something else, or can't be written.
    """

    def __init__(self, path: Path, rank: int = 0, processes: int = 1) -> None:
        self.path = path
        self.own = path if processes == 1 else part_path(path, rank)
        self.records: dict[str, dict[str, Any]] = {}
        for file in [path, *part_files(path)]:
            self.records.update(read_records(file))
        self.found = len(self.records)
        self.saved_at = time.monotonic()
        self.save()

    def get(self, key: str, metrics: tuple[str, ...]) -> dict[str, Any] | None:
        """The record of that key, if it has all these metrics."""
        record = self.records.get(key)
        return record if record and set(metrics) <= record["values"].keys() else None

    def add(self, record: dict[str, Any]) -> None:
        self.records[record["key"]] = record
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is known so far."""
        results = list(self.records.values())
        write_json(self.own, {"format": FORMAT, "complete": False, "results": results})
        self.saved_at = time.monotonic()

    def finish(self, document: dict[str, Any]) -> None:
        """Write the complete document, which has its own `results`, and remove the parts."""
        write_json(self.path, {"format": FORMAT, "complete": True, **document})
        self.remove_parts()

    def remove(self) -> None:
        """Nothing is to be kept."""
        self.path.unlink(missing_ok=True)
        self.remove_parts()

    def remove_parts(self) -> None:
        for file in part_files(self.path):
            file.unlink(missing_ok=True)


def part_path(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.name}.part-{rank}")


def part_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(glob.escape(path.name) + ".part-*"))


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Records of an earlier run by key; none where there is no file."""
    if not path.exists():
        return {}
    try:
        with file_errors(path, "read"):
            content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise KeyError("format")
        records = {str(record["key"]): record for record in content["results"]}
        for record in records.values():
            values = record["values"].items()
            record["values"] = {k: float(v) if isinstance(v, str) else v for k, v in values}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: holds no results of a suite; name another file, or remove this one"
        ) from error
    return records


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of JSON, whole or not at all.

    Numbers that JSON has none for, such as the PSNR of a picture without error, are texts: "inf".
    """
    write_whole(path, f"{json.dumps(as_json(content), indent=1, allow_nan=False)}\n".encode())


def as_json(value: Any) -> Any:
    """A value with texts for the numbers that JSON has none for."""
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
