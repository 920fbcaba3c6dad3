"""Which photographs go where: files, folders and patterns in, one file or a folder of files out."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.files import check_writable, make_folder
from datasets.images import SUFFIXES
from utils import ConfigError, DataError, natural_key

OUTPUT = "output.png"  # where one photograph goes when nothing is said


@dataclass(frozen=True)
class Job:
    """A photograph to read, and the file to write of it."""

    source: Path
    target: Path


def plan_jobs(
    inputs: Sequence[str], output: str | None, suffixes: Sequence[str]
) -> tuple[list[Job], bool]:
    """The jobs in natural order of each input's names, and whether the output is a folder.

    inputs: files, folders (their pictures), and patterns with `*`, `?` or `[...]`.
    output: a file for one file, `OUTPUT` if None; a folder, made if need be, for anything else.
    suffixes: what an output's name may end in; the first is that of results in a folder whose
        photograph has another.

    Raises:
        ConfigError: an output whose ending says no format, two inputs with one output, or several
            with none.
        DataError: no such file, a folder without pictures, an output that can't be written.
    """
    sources: list[Path] = []
    several = len(inputs) > 1
    for given in inputs:
        found, group = expand(given)
        sources += [path for path in found if path not in sources]
        several = several or group
    if output is None:
        if several:
            raise ConfigError("--output: missing; allowed for several photographs: a folder")
        output = OUTPUT
    into_folder = several or Path(output).is_dir() or output.endswith(("/", os.sep))
    if into_folder:
        jobs = [Job(source, Path(output) / target_name(source, suffixes)) for source in sources]
    else:
        jobs = [Job(sources[0], Path(output))]
    check_targets(jobs, suffixes)
    if into_folder:
        check_folder(Path(output))
    for job in jobs:
        check_writable(job.target)
    return jobs, into_folder


def expand(given: str) -> tuple[list[Path], bool]:
    """The pictures that one input means, and whether it may mean several."""
    path = Path(given)
    if path.is_dir():
        inside = [entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES]
        if not inside:
            raise DataError(f"{given}: a folder without pictures ({', '.join(SUFFIXES)})")
        return in_order(inside), True
    if path.exists() or not glob.has_magic(given):
        if not path.is_file():
            raise DataError(f"{given}: no such file")
        return [path], False
    matches = [Path(match) for match in glob.glob(given, recursive=True)]
    matches = [match for match in matches if match.is_file()]
    if not matches:
        raise DataError(f"{given}: no file matches")
    return in_order(matches), True


def in_order(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: natural_key(str(path)))


def target_name(source: Path, suffixes: Sequence[str]) -> str:
    """The name of a photograph's result in a folder: its own, in its own format if possible."""
    return source.name if source.suffix.lower() in suffixes else source.stem + suffixes[0]


def check_targets(jobs: Sequence[Job], suffixes: Sequence[str]) -> None:
    """Raises ConfigError where results would overwrite each other or what they are made of."""
    taken: dict[Path, Path] = {}
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        place = job.target.resolve()
        if job.target.suffix.lower() not in suffixes:
            allowed = ", ".join(suffixes)
            raise ConfigError(f"output: {job.target} given; allowed: a name that ends in {allowed}")
        if place in sources:
            raise ConfigError(f"output: {job.target} is an input; allowed: another place")
        if place in taken:
            raise ConfigError(
                f"output: {taken[place]} and {job.source} would both become {job.target}"
            )
        taken[place] = job.source


def check_folder(folder: Path) -> None:
    """Make a folder for results, if it is not there."""
    if folder.is_file():
        raise ConfigError(f"output: {folder} is a file; allowed for these inputs: a folder")
    make_folder(folder)


def share(jobs: Sequence[Job]) -> list[Job]:
    """This process's part of the jobs, where `torchrun` started several."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return list(jobs[rank::world])
