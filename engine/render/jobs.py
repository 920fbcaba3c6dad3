"""Which photographs go where: files, folders and patterns in, one file or a folder of files out."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.files import check_writable, fitting_name, make_folder
from datasets.listing import is_hidden, is_picture, list_pictures, report_left_out, user_path
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

    Args:
        inputs: files, folders (their pictures), and patterns with `*`, `?` or `[...]`.
        output: a file for one file, `OUTPUT` if None; a folder for anything else. Folders that
            are missing are made.
        suffixes: what an output's name may end in; the first is that of results in a folder whose
            photograph has another.

    Raises:
        ConfigError: an output whose ending says no format, two inputs with one output, or several
            with none.
        DataError: no such file, a folder without pictures, an output that can't be written.
    """
    groups = [expand(given) for given in inputs]
    sources = list(dict.fromkeys(path for found, _ in groups for path in found))
    several = len(inputs) > 1 or groups[0][1]
    if output is None:
        if several:
            raise ConfigError("--output: missing; allowed for several photographs: a folder")
        output = OUTPUT
    place = user_path(output)
    into_folder = several or place.is_dir() or output.endswith(("/", os.sep))
    targets = [place]
    if into_folder:
        targets = [place / name for name in target_names(sources, suffixes)]
    jobs = [Job(source, target) for source, target in zip(sources, targets, strict=True)]
    check_targets(jobs, suffixes)
    if into_folder:
        check_folder(place)
    for job in jobs:
        check_writable(job.target)
    return jobs, into_folder


def expand(given: str) -> tuple[list[Path], bool]:
    """The pictures that one input means, and whether it may mean several."""
    path = user_path(given)
    if path.is_dir():
        return [path / name for name in list_pictures(path)], True
    if path.exists() or not glob.has_magic(given):
        if not path.is_file():
            raise DataError(f"{given}: no such file")
        return [path], False
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
    matches = [match for match in matches if not match.is_dir() and not is_hidden(match.name)]
    if not matches:
        raise DataError(f"{given}: no file matches")
    matches.sort(key=lambda match: natural_key(str(match)))
    pictures = [match for match in matches if is_picture(match)]
    if not pictures:
        raise DataError(f"{given}: no image matches")
    others = [match.name for match in matches if match not in pictures]
    report_left_out(given, others, len(pictures))
    return pictures, True


def target_names(sources: Sequence[Path], suffixes: Sequence[str]) -> list[str]:
    """What each photograph's result in a folder is called.

    As the photograph, if results are written in its format; else as it with the first of the
    suffixes: "a.gif" gives "a.png", but "a.gif.png" where something else gives "a.png" as well.
    """
    names = [
        source.name if source.suffix.lower() in suffixes else source.stem + suffixes[0]
        for source in sources
    ]
    count = Counter(name.casefold() for name in names)
    return [
        name
        if name == source.name or count[name.casefold()] == 1
        else fitting_name(source.name, suffixes[0])
        for name, source in zip(names, sources, strict=True)
    ]


def check_targets(jobs: Sequence[Job], suffixes: Sequence[str]) -> None:
    """Raises ConfigError where results would overwrite each other or what they are made of."""
    taken: dict[str, Path] = {}
    sources = {os.path.realpath(job.source) for job in jobs}
    for job in jobs:
        place = os.path.realpath(job.target)
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
