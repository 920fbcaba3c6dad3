"""Photographs rendered one after the other, by one process or several, and what is said of them."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from datasets.images import Photo, read_photo, read_size
from datasets.transparency import fill_hidden
from engine.distributed import Processes
from engine.render.baselines import Resized
from engine.render.jobs import Job, share
from engine.render.photo import (
    LARGEST,
    Represent,
    compare,
    compared_size,
    enlarge,
    find_grid,
    reduces,
)
from engine.render.pixels import rgb
from engine.render.tiling import Box, Grid
from engine.runtime import say
from utils import ConfigError, DataError, UserError

NAMED = 4  # how many of the results that were there already are named


@dataclass(frozen=True)
class Wanted:
    """What is made of each photograph.

    Attributes:
        resolution, scale, box: as for `find_grid`.
        represent: what makes of a photograph's colours something to render.
        name: of that method.
        enlarges: it can't reduce, for it doesn't average.
        compare: show it beside bicubic.
        strip_metadata: leave out EXIF, XMP and comments.
        overwrite: also what is there already.
        max_pixels: of a photograph.
    """

    resolution: tuple[int, int] | None
    scale: tuple[float, float] | None
    box: Box | None
    represent: Represent
    name: str
    enlarges: bool
    compare: bool
    strip_metadata: bool
    overwrite: bool
    max_pixels: int

    def grid(self, size: tuple[int, int]) -> Grid:
        grid = find_grid(size, self.resolution, self.scale, self.box)
        if self.compare and reduces(grid):
            raise ConfigError(
                f"--compare: {grid.height}x{grid.width} pixels of {size[0]}x{size[1]} asked for; "
                "allowed: enlargements"
            )
        return grid

    def written_size(self, grid: Grid) -> tuple[int, int]:
        return compared_size(grid) if self.compare else (grid.height, grid.width)


def read_first(job: Job, max_pixels: int) -> Photo:
    """A photograph, the first where its file holds several, with a line that says so."""
    photo = read_photo(job.source, max_pixels, "--max-pixels")
    if photo.pictures > 1:
        say(f"{job.source}: {photo.pictures} pictures (frames or pages); the first is used")
    return dataclasses.replace(photo, pixels=fill_hidden(photo.pixels))


def chosen_method(wanted: Wanted, grid: Grid) -> tuple[Represent, str]:
    """What renders a grid's pixels, and a note for the user if it isn't what was asked for."""
    if reduces(grid) and wanted.enlarges:
        return functools.partial(Resized, name="bicubic"), (
            "reduced by bicubic, for models only enlarge"
        )
    return wanted.represent, ""


def size_text(size: tuple[int, int]) -> str:
    """(height, width) for people."""
    return f"{size[0]}x{size[1]}"


def render_one(job: Job, wanted: Wanted, place: str = "") -> None:
    """Read one photograph and write its result; a bar of the pixels done, then a line.

    place: what both begin with.
    """
    begun, notes = time.perf_counter(), []
    photo = read_first(job, wanted.max_pixels)
    if wanted.strip_metadata:
        photo = dataclasses.replace(photo, metadata={})
    grid = wanted.grid((photo.pixels.shape[0], photo.pixels.shape[1]))
    represent, note = chosen_method(wanted, grid)
    notes += [note] if note else []
    if job.target.exists():
        notes.append("replaces what was there")
    with tqdm(
        desc=place + job.source.name,
        total=grid.height * grid.width,
        unit="px",
        unit_scale=True,
        leave=False,
        disable=None,  # no bar where standard error is no terminal
    ) as bar:
        image = represent(rgb(photo.pixels))
        if wanted.compare:
            compare(photo, job.target, grid, image, ["bicubic", wanted.name], bar.update)
        else:
            enlarge(photo, job.target, grid, image, bar.update)
    height, width = wanted.written_size(grid)
    kilobytes = job.target.stat().st_size / 1000
    length = f"{kilobytes / 1000:.1f} MB" if kilobytes >= 1000 else f"{kilobytes:.1f} kB"
    seconds = time.perf_counter() - begun
    note = "".join(f"; {note}" for note in notes)
    say(f"{place}{job.target}: {height}x{width} pixels, {length}, {seconds:.1f} s{note}")


def is_finished(job: Job, wanted: Wanted) -> bool:
    """Whether a result of the size wanted is there, by the headers of the files alone."""
    if wanted.overwrite or not job.target.is_file():
        return False
    try:
        grid = wanted.grid(read_size(job.source, wanted.max_pixels))
        return read_size(job.target, LARGEST**2) == wanted.written_size(grid)
    except UserError:  # rendering says why
        return False


def render_share(
    jobs: Sequence[Job], several: bool, wanted: Wanted
) -> tuple[list[str], list[UserError]]:
    """Render this process's share of the photographs; those whose result is there are skipped.

    Returns:
        Names of results that were there, and what kept others from being rendered.
    """
    skipped: list[str] = []
    errors: list[UserError] = []
    for number, job in share([*enumerate(jobs, 1)]):
        place = f"{number}/{len(jobs)} " if several else ""
        if several and is_finished(job, wanted):
            skipped.append(job.target.name)
            continue
        try:
            render_one(job, wanted, place)
        except UserError as error:  # the other photographs can still be rendered
            message = str(error)
            if several:
                named = str(job.source) in message
                say(f"error: {message}" if named else f"error: {job.source}: {message}")
            errors.append(type(error)(message))  # the one caught holds on to its pixels
    return skipped, errors


def render_jobs(jobs: Sequence[Job], several: bool, wanted: Wanted, processes: Processes) -> None:
    """Render the photographs over all processes, which wait for the last of them.

    Before that none ends on an error: torchrun would end the others, their work unfinished.

    Raises:
        UserError: some could not be rendered.
    """
    parts = processes.gather(render_share(jobs, several, wanted))
    skipped = [name for part, _ in parts for name in part]
    errors = [error for _, part in parts for error in part]
    if skipped and processes.is_main:
        names = ", ".join(skipped[:NAMED]) + (", ..." if len(skipped) > NAMED else "")
        say(
            f"{len(skipped)} results of this size were there already ({names}); "
            "--overwrite renders them again"
        )
    if errors and not several:
        processes.raise_once(errors[0])
    if errors:
        # A mistake in the options is one that every photograph met.
        usage = len(errors) == len(jobs) and all(isinstance(e, ConfigError) for e in errors)
        kind = ConfigError if usage else DataError
        text = f"{len(errors)} of {len(jobs)} photographs could not be rendered"
        processes.raise_once(kind(text))
