"""Which photographs go where: files, folders and patterns in, one file or a folder of files out."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from datasets.files import check_writable, fitting_name, make_folder
from datasets.listing import is_hidden, is_picture, list_pictures, report_left_out, user_path
from engine.render.video_read import is_video
from utils import ConfigError, DataError, natural_key

OUTPUT = "output"  # what the result of one photograph is called when nothing is said
Part = TypeVar("Part")


@dataclass(frozen=True)
class Job:
    """A photograph or video to read, and the file (or folder of numbered pictures) to write."""

    source: Path
    target: Path
    video: bool = False


def plan_jobs(
    inputs: Sequence[str],
    output: str | None,
    suffixes: Sequence[str],
    ending: str = "",
    recursive: bool = False,
    videos: Sequence[str] = (),
) -> tuple[list[Job], bool]:
    """The jobs in natural order of each input's names, and whether the output is a folder.

    Args:
        inputs: files, folders (their pictures), and patterns with `*`, `?` or `[...]`.
        output: a file for one file, `OUTPUT` with the first suffix if None; a folder for anything
            else. Folders that are missing are made.
        suffixes: what an output's name may end in; the first is that of results in a folder whose
            photograph has another.
        ending: what the names of results in a folder, and `OUTPUT`, have before their suffix.
        recursive: also the pictures of the folders' subfolders, whose results go into such
            subfolders.
        videos: what names of videos may end in, the first again the one for others; none where
            videos are no input.

    Raises:
        ConfigError: an output whose ending says no format, two inputs with one output, or several
            with none.
        DataError: no such file, a folder without pictures, an output that can't be written.
    """
    single = plan_video(inputs, output, videos) if videos else None
    if single is not None:
        check_targets([single], suffixes, (*videos, single.target.suffix))
        return [single], False
    found: dict[Path, Path] = {}  # photographs, and their names in a folder for results
    several = len(inputs) > 1
    place = None if output is None else user_path(output)
    for given in inputs:
        inside, many = expand(given, recursive, place, bool(videos))
        for path, name in inside.items():
            found.setdefault(path, name)
        several = several or many
    if place is None:
        if several:
            raise ConfigError("--output: missing; allowed for several photographs: a folder")
        usual = videos if videos and is_video(next(iter(found))) else suffixes
        place = Path(f"{OUTPUT}{ending}{usual[0]}")
    into_folder = several or place.is_dir() or (output or "").endswith(("/", os.sep))
    moving = [bool(videos) and is_video(source) for source in found]
    others = {n: videos for n, video in enumerate(moving) if video}
    targets = [place]
    if into_folder:
        targets = [
            place / name for name in target_names([*found.values()], suffixes, ending, others)
        ]
    elif ending and output is not None:
        raise ConfigError(f"--suffix: given with the file {output}; allowed: with a folder")
    jobs = [Job(*job) for job in zip(found, targets, moving, strict=True)]
    check_targets(jobs, suffixes, videos)
    if into_folder:
        if place.is_file():
            raise ConfigError(f"output: {place} is a file; allowed for these inputs: a folder")
        make_folder(place)
    for job in jobs:
        check_writable(job.target)
    return jobs, into_folder


def plan_video(inputs: Sequence[str], output: str | None, videos: Sequence[str]) -> Job | None:
    """The job of numbered pictures that become a video, or of a video that becomes pictures.

    Also of an animated GIF, which is a photograph unless the output is a video. None for anything
    else.
    """
    if len(inputs) > 1 or output is None:
        return None
    source, target = user_path(inputs[0]), user_path(output)
    if target.suffix.lower() in videos and not target.is_dir():
        moving = source.is_dir() or (source.is_file() and source.suffix.lower() == ".gif")
        if not moving:
            return None
        check_writable(target)
        return Job(source, target, True)
    folder = target.is_dir() or output.endswith(("/", os.sep)) or not target.suffix
    return Job(source, target, True) if folder and source.is_file() and is_video(source) else None


def expand(
    given: str, recursive: bool = False, place: Path | None = None, videos: bool = False
) -> tuple[dict[Path, Path], bool]:
    """The pictures that one input means, and whether it may mean several.

    Args:
        place: for results; what is in such a folder below the one given is no photograph.
        videos: also videos.

    Returns:
        Paths, and what each is called from the folder given; else their names.
    """
    path, more = user_path(given), is_video if videos else None
    if path.is_dir():
        names = [Path(name) for name in list_pictures(path, recursive, "--recursive", more)]
        if place is not None and place != path:
            names = [name for name in names if place not in (path / name).parents] or names
        return {path / name: name for name in names}, True
    if path.exists() or not glob.has_magic(given):
        if not path.is_file():
            raise DataError(f"{given}: no such file")
        return {path: Path(path.name)}, False
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
    matches = [match for match in matches if not match.is_dir() and not is_hidden(match.name)]
    if not matches:
        raise DataError(f"{given}: no file matches")
    matches.sort(key=lambda match: natural_key(str(match)))
    pictures = [match for match in matches if is_picture(match) or (videos and is_video(match))]
    if not pictures:
        raise DataError(f"{given}: no image matches")
    others = [match.name for match in matches if match not in pictures]
    report_left_out(given, others, len(pictures))
    return {picture: Path(picture.name) for picture in pictures}, True


def target_names(
    sources: Sequence[Path],
    suffixes: Sequence[str],
    ending: str = "",
    others: Mapping[int, Sequence[str]] | None = None,
) -> list[str]:
    """What each photograph's result in a folder is called, in subfolders as those of the sources.

    As the photograph, if results are written in its format; else as it with the first of the
    suffixes: "a.gif" gives "a.png", but "a.gif.png" where something else gives "a.png" as well.

    Args:
        ending: what follows the stem: "a_x4.png".
        others: suffixes of those sources that have others, such as videos, by their position.
    """
    allowed = [(others or {}).get(n, suffixes) for n in range(len(sources))]
    kept = [s.suffix.lower() in own for s, own in zip(sources, allowed, strict=True)]
    names = [
        fitting_name(source.stem + ending, source.suffix if keep else own[0])
        for source, keep, own in zip(sources, kept, allowed, strict=True)
    ]
    places = [str(source.with_name(name)) for source, name in zip(sources, names, strict=True)]
    count = Counter(place.casefold() for place in places)
    return [
        place
        if keep or count[place.casefold()] == 1
        else str(source.with_name(fitting_name(source.name + ending, own[0])))
        for source, place, keep, own in zip(sources, places, kept, allowed, strict=True)
    ]


def check_targets(jobs: Sequence[Job], suffixes: Sequence[str], videos: Sequence[str] = ()) -> None:
    """Raises ConfigError where results would overwrite each other or what they are made of."""
    taken: dict[str, Path] = {}
    sources = {os.path.realpath(job.source) for job in jobs}
    for job in jobs:
        place = os.path.realpath(job.target)
        own = videos if job.video else suffixes
        if job.target.suffix.lower() not in own:
            allowed = ", ".join(own)
            raise ConfigError(f"output: {job.target} given; allowed: a name that ends in {allowed}")
        if place in sources:
            raise ConfigError(f"output: {job.target} is an input; allowed: another place")
        if place in taken:
            raise ConfigError(
                f"output: {taken[place]} and {job.source} would both become {job.target}"
            )
        taken[place] = job.source


def share(jobs: Sequence[Part]) -> list[Part]:
    """This process's part of the jobs, where `torchrun` started several."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return list(jobs[rank::world])
