"""Videos enlarged frame by frame, by one process or several."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.listing import list_pictures
from engine.distributed import Processes
from engine.render.batch import Wanted, chosen_method, size_text
from engine.render.jobs import Job, share
from engine.render.photo import LARGEST, compared_bands
from engine.render.tiling import Grid
from engine.render.video_read import Frame, NumberedPictures, Video, open_video
from engine.render.video_streams import Copies, copy_tags, kept_tags
from engine.render.video_write import (
    CONTAINERS,
    QUALITY,
    VideoWriter,
    open_folder,
    open_output,
)
from engine.runtime import say
from utils import ConfigError, DataError, UserError


@dataclass(frozen=True)
class VideoOptions:
    """What is asked for of videos alone.

    Attributes:
        begin, end: seconds from where a video starts; between them.
        quality: 1 to 100, which is lossless; None for what is usual.
        repeat: show the frame before instead of a damaged one; else that ends the video.
        rate: frames per second of numbered pictures.
        suffix: of numbered pictures that are written.
    """

    begin: float = 0
    end: float = math.inf
    quality: int | None = None
    repeat: bool = False
    rate: Fraction = Fraction(24)
    suffix: str = ".png"

    def check(self) -> None:
        """Raises ConfigError for values that make no sense."""
        if not 0 <= self.begin < self.end:
            raise ConfigError(
                f"--start {self.begin:g}, --end {self.end:g} given; allowed: seconds, START < END"
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ConfigError(f"--quality: {self.quality} given; allowed: 1 to 100")
        if not 0 < self.rate <= 1000:
            raise ConfigError(f"--fps: {float(self.rate):g} given; allowed: above 0, up to 1000")


Source = Video | NumberedPictures
Finish = Callable[[], object]


@contextlib.contextmanager
def open_source(job: Job, wanted: Wanted, options: VideoOptions) -> Iterator[Source]:
    """The frames of a video file, or of a folder of numbered pictures."""
    span = options.begin, options.end
    if job.source.is_dir():
        paths = [job.source / name for name in list_pictures(job.source)]
        yield NumberedPictures(paths, options.rate, wanted.max_pixels, *span)
        return
    with open_video(job.source, wanted.max_pixels, *span) as video:
        yield video


@dataclass
class Sink:
    """Where frames go.

    Attributes:
        write: takes pixels, stamp and duration as `VideoWriter.write`.
        copy: takes a packet of another stream.
        rename: another name for what is written.
        finish: to be called when all is written.
        notes: for the user.
    """

    write: Callable[[np.ndarray, int, int], None]
    copy: Callable[[Any], None]
    rename: Callable[[Path], None]
    finish: Finish
    notes: list[str]


@contextlib.contextmanager
def open_sink(
    job: Job, source: Source, size: tuple[int, int], options: VideoOptions, tags: bool
) -> Iterator[Sink]:
    """A video file with the other streams of the source, or a folder of numbered pictures.

    Args:
        size: (height, width) of the pictures.
        tags: copy titles, chapters and the like.
    """
    if job.target.suffix.lower() not in CONTAINERS:
        with open_folder(job.target, options.suffix, options.quality) as pictures:
            notes = ["pictures alone: no sound, no times"] if source.input is not None else []
            rename = functools.partial(setattr, pictures, "path")
            yield Sink(pictures.write, lambda _: None, rename, lambda: None, notes)
        return
    with open_output(job.target) as output:
        copies, writer = Copies(output), None
        streams = [] if source.input is None else [*source.input.streams]
        make = functools.partial(VideoWriter, output, size, source.look, options.quality or QUALITY)
        for stream in streams:  # in their order, which players choose by
            if isinstance(source, Video) and stream is source.stream:
                writer = make()
                if tags:
                    copy_tags(stream, writer.stream)
            else:
                copies.add(stream)
        writer = writer or make()
        if tags and source.input is not None:
            output.container.metadata.update(kept_tags(source.input.metadata))
            if options.begin == 0 and output.ending != ".gif":
                output.container.set_chapters(source.input.chapters())
        notes = [f"left out: {', '.join(copies.left_out)}"] if copies.left_out else []
        if writer.padded != writer.size:
            notes.append(f"edges repeated to {size_text(writer.padded)}, for sides must be even")
        if output.ending == ".webm" and source.look.aspect not in (None, 1):
            notes.append(f"the ratio of the sides of pixels, {source.look.aspect}, is left out")
        rename = functools.partial(setattr, output, "path")

        def finish() -> None:
            writer.finish()
            copies.finish()

        yield Sink(writer.write, copies.write, rename, finish, notes)


def render_frame(pixels: np.ndarray, grid: Grid, wanted: Wanted) -> np.ndarray:
    """The picture that the demo makes of a frame, (height, width, 3) of the dtype of pixels."""
    represent, _ = chosen_method(wanted, grid)
    image = represent(pixels)
    if wanted.compare:
        names = ["bicubic", wanted.name]
        return np.concatenate([*compared_bands(pixels, grid, image, names)])
    return np.concatenate([*image.bands(grid, pixels.dtype)])


def rounds(events: Iterator[Any], count: int) -> Iterator[list[Any]]:
    """Events in groups with so many frames each, the last one with those that are left."""
    group: list[Any] = []
    for event in events:
        group.append(event)
        if sum(isinstance(one, Frame) for one in group) == count:
            yield group
            group = []
    if group:
        yield group


def unfinished(target: Path) -> Path:
    """The name of what was done before a damaged frame."""
    return target.with_name(f"{target.stem}.unfinished{target.suffix}")


def render_video(
    job: Job, wanted: Wanted, options: VideoOptions, processes: Processes, place: str = ""
) -> None:
    """Render one video; a bar of the frames done with the time left, then a line.

    Every process reads the whole video and renders every n-th frame; the first one writes.

    Raises:
        UserError: on all processes, if one can't go on.
    """
    begun = time.perf_counter()
    with open_source(job, wanted, options) as source, contextlib.ExitStack() as stack:
        grid = wanted.grid(source.size)
        size = wanted.written_size(grid)

        def open_it() -> Sink | None:
            if not processes.is_main:
                return None
            tags = not wanted.strip_metadata
            return stack.enter_context(open_sink(job, source, size, options, tags))

        sink = processes.agreed(open_it)
        quiet = None if processes.is_main else True
        name = place + job.source.name
        bar = tqdm(desc=name, total=source.total, unit="frame", leave=False, disable=quiet)
        render = functools.partial(render_round, grid, wanted, processes, sink)
        with bar:
            done, stopped = render_frames(job, source, options, processes, render, bar.update)
        notes = [chosen_method(wanted, grid)[1], source.note]
        if source.ending and not stopped:
            stopped = f"the file ends early ({source.ending})"
            if options.repeat:
                notes, stopped = [*notes, stopped], ""
        if done == 0:
            raise DataError(f"{job.source}: {stopped or 'no frames'}")
        if sink is not None:
            notes += sink.notes
            if stopped:
                sink.rename(unfinished(job.target))
        processes.agreed(sink.finish if sink is not None else lambda: None)
        processes.agreed(stack.close)
    if stopped:
        raise DataError(
            f"{job.source}: {stopped}; the {done} frames before it are in "
            f"{unfinished(job.target)}; --on-bad-frame repeat goes on"
        )
    if processes.is_main:
        seconds = time.perf_counter() - begun
        note = "".join(f"; {note}" for note in notes if note)
        say(f"{place}{job.target}: {size_text(size)} pixels, {done} frames, {seconds:.1f} s{note}")


def render_frames(
    job: Job,
    source: Source,
    options: VideoOptions,
    processes: Processes,
    render: Callable[[Sequence[Any], Sequence[Frame]], None],
    report: Callable[[int], object],
) -> tuple[int, str]:
    """Render all frames, or those before the first damaged one.

    Args:
        render: `render_round` for this video.
        report: told of the frames done since the last call.

    Returns:
        How many were rendered, and what ended the video early, if anything.
    """
    done = 0
    for group in rounds(source.events(), processes.count):
        frames = [event for event in group if isinstance(event, Frame)]
        for number, frame in enumerate(frames):
            if not frame.damage:
                continue
            text = damage_text(done + number, frame, source)
            if not options.repeat:
                cut = next(n for n, event in enumerate(group) if event is frame)
                render(group[:cut], frames[:number])
                return done + number, text
            if processes.is_main:
                say(f"{job.source}: {text}; the frame before is repeated")
        render(group, frames)
        done += len(frames)
        report(len(frames))
    return done, ""


def damage_text(number: int, frame: Frame, source: Source) -> str:
    """Which frame is damaged, for people."""
    seconds = float(frame.stamp * source.look.time_base)
    return f"frame {number} (from 0, at {seconds:.3f} s) is damaged ({frame.damage})"


def render_round(
    grid: Grid,
    wanted: Wanted,
    processes: Processes,
    sink: Sink | None,
    group: Sequence[Any],
    frames: Sequence[Frame],
) -> None:
    """Render a frame on each process, and write them and the packets between them in order."""

    def own() -> np.ndarray | None:
        if processes.rank >= len(frames):
            return None
        return render_frame(frames[processes.rank].pixels(), grid, wanted)

    pictures = iter(processes.gather_to_main(processes.agreed(own)))

    def write() -> None:
        if sink is None:
            return
        for event in group:
            if isinstance(event, Frame):
                sink.write(next(pictures), event.stamp, event.duration)
            else:
                sink.copy(event)

    processes.agreed(write)


def is_done(job: Job, wanted: Wanted, options: VideoOptions) -> bool:
    """Whether a video of the size wanted is there, by its first frame."""
    if wanted.overwrite or not job.target.is_file():
        return False
    try:
        with (
            open_source(job, wanted, options) as source,
            open_video(job.target, LARGEST**2) as made,
        ):
            return bool(made.size == wanted.written_size(wanted.grid(source.size)))
    except UserError:  # rendering says why
        return False


def render_videos(
    jobs: Sequence[Job], wanted: Wanted, options: VideoOptions, processes: Processes
) -> list[UserError]:
    """Render videos one after the other, all processes each; what kept some from being rendered.

    Of several those whose result is there are skipped.
    """
    errors: list[UserError] = []
    own = share(jobs) if processes.count == 1 else jobs  # where processes don't know each other
    for number, job in enumerate(own, 1):
        place = f"{number}/{len(own)} " if len(own) > 1 else ""
        if len(jobs) > 1 and processes.agreed(lambda job=job: is_done(job, wanted, options)):  # type: ignore[misc]
            if processes.is_main:
                say(f"{job.target}: was there already; --overwrite renders it again")
            continue
        try:
            render_video(job, wanted, options, processes, place)
        except UserError as error:
            if len(jobs) > 1 and processes.is_main:
                say(f"error: {error}")
            errors.append(type(error)(str(error)))
    return errors
