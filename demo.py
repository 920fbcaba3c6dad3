"""Render photographs at any size.

python demo.py --input in.png --model MODEL.pth --resolution HEIGHT,WIDTH --output out.png
python demo.py in.png --scale 4
python demo.py photos/ -s 4 -o enlarged/ --recursive --format jpg --suffix _x4
python demo.py clip.mp4 -s 2 -o out.mp4
"""

from __future__ import annotations

import liif.packages  # noqa: F401  (before all that may be missing)

# isort: split
import argparse
import functools
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

import utils
from datasets.decoding import loader_of_file
from datasets.images import MAX_PIXELS, WRITTEN_SUFFIXES
from engine import distributed
from engine.distributed import Processes
from engine.imports import add_import_option, import_all, no_silent_exit
from engine.render import ContinuousImage
from engine.render.baselines import Resized, check_baseline
from engine.render.batch import Wanted, read_first, render_jobs
from engine.render.jobs import Job, expand, plan_jobs
from engine.render.photo import Represent
from engine.render.video_run import VideoOptions, render_videos
from engine.render.video_write import CONTAINERS, QUALITY, check_video_name
from engine.render.viewer import CACHE_BYTES, Shown, Viewer
from engine.render.viewer_server import check_reference, serve
from engine.render.zoom import FORMATS, film_pixels, frames_of, plan_film, write_film
from engine.runtime import PRECISIONS, Parser, nonempty, run_script, say, settle_precision
from engine.weights.pretrained import DEFAULT, PHOTO, load_model
from models.protocol import implicit
from utils import ConfigError, DataError

# --format -> what names of results may end in.
WRITTEN = {"png": (".png",), "jpg": (".jpg", ".jpeg"), "webp": (".webp",), "tif": (".tif", ".tiff")}
PATIENCE = timedelta(days=30)  # a process that has rendered its share waits for the others
# Options whose value may start with a minus, which argparse would take for another option.
NUMERIC = ("--resolution", "--scale", "-s", "--box", "--max-pixels")


def numbers(text: str, allowed: str, counts: Sequence[int]) -> list[float]:
    """The finite numbers of a list with commas; `allowed` says what would be right."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts or not all(math.isfinite(value) for value in values):
        raise ConfigError(f"{text!r} given; allowed: {allowed}")
    return values


def parse_resolution(text: str) -> tuple[int, int]:
    allowed = "HEIGHT,WIDTH, two whole numbers of at least 1, such as 480,640"
    height, width = numbers(text, allowed, [2])
    if min(height, width) < 1 or height != int(height) or width != int(width):
        raise ConfigError(f"{text!r} given; allowed: {allowed}")
    return int(height), int(width)


def parse_box(text: str) -> tuple[float, float, float, float]:
    top, left, bottom, right = numbers(text, "TOP,LEFT,BOTTOM,RIGHT in input pixels", [4])
    return top, left, bottom, right


def parse_rate(text: str) -> Fraction:
    """Frames per second: "25", "29.97" or "30000/1001"; digits alone, for 1e999999 takes hours."""
    parts = re.fullmatch(r"(\d{1,9}(?:[.]\d{1,9})?)(?:/([1-9]\d{0,8}))?", text)
    if parts is None:
        raise ConfigError(f"{text!r} given; allowed: a number above 0, such as 25 or 30000/1001")
    return Fraction(parts[1]) / int(parts[2] or 1)


READERS = {"resolution": parse_resolution, "box": parse_box, "fps": parse_rate}


def make_parser() -> Parser:
    parser = Parser(prog="demo.py", description="Render photographs and videos at any size.")
    parser.add_argument("photographs", nargs="*", type=nonempty, help="files, folders or patterns")
    parser.add_argument("-i", "--input", nargs="+", type=nonempty, default=[], help="or so")
    parser.add_argument(
        "-o", "--output", help="a file (output.png if absent); a folder for several photographs"
    )
    parser.add_argument(
        "--model",
        action="append",
        help="a checkpoint, or the name of published weights; with --view, several by as many",
    )
    add_import_option(parser)
    parser.add_argument("--resolution", metavar="HEIGHT,WIDTH", help="size of the result")
    parser.add_argument("-s", "--scale", metavar="S or SY,SX", help="or its size over the input's")
    parser.add_argument(
        "--box", metavar="TOP,LEFT,BOTTOM,RIGHT", help="render this part (input pixels)"
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="an interpolation baseline, such as bicubic"
    )
    parser.add_argument("--compare", action="store_true", help="beside bicubic in one picture")
    parser.add_argument("--view", action="store_true", help="look into it in the browser")
    parser.add_argument("--reference", metavar="FILE", help="the truth to compare with in --view")
    parser.add_argument("--port", type=int, help="of --view (default: any that is free)")
    parser.add_argument("--no-browser", action="store_true", help="--view opens no window")
    parser.add_argument("--zoom-video", metavar="FILE", help="glide into the box: .mp4, .webm, ...")
    parser.add_argument("--start", metavar="SECONDS", type=float, default=0.0, help="of a video")
    parser.add_argument("--end", metavar="SECONDS", type=float, default=math.inf, help="of a video")
    parser.add_argument("--quality", metavar="N", type=int, help="of a video, 1 to 100 (lossless)")
    parser.add_argument("--fps", default="24", help="of numbered pictures")
    parser.add_argument(
        "--on-bad-frame", choices=["stop", "repeat"], default="stop", help="of a video"
    )
    parser.add_argument("--gpu", help="number of the CUDA device")
    parser.add_argument("--precision", default="fp32", choices=[*PRECISIONS])
    parser.add_argument(
        "--raw-weights", action="store_true", help="the weights as trained, not their EMA"
    )
    parser.add_argument(
        "--cell-max-scale", metavar="S", type=float, help="no smaller cell than that of xS"
    )
    parser.add_argument("--recursive", action="store_true", help="subfolders of folders too")
    parser.add_argument("--format", choices=[*WRITTEN], help="of results in a folder")
    parser.add_argument(
        "--suffix", default="", metavar="TEXT", help="_x4 makes photo_x4.png of photo.png"
    )
    parser.add_argument("--overwrite", action="store_true", help="redo results that are there")
    parser.add_argument(
        "--strip-metadata", action="store_true", help="leave out EXIF, XMP and comments"
    )
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help="refuse to read larger pictures"
    )
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options, checked as far as they can be without the photographs."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in NUMERIC:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    options = make_parser().parse_intermixed_args(joined)
    options.input = [*options.photographs, *options.input]
    if options.scale is not None:
        options.scale = utils.parse_scale(options.scale, "--scale")
    for name, read in READERS.items():
        text = getattr(options, name)
        if text is not None:
            try:
                setattr(options, name, read(text))
            except ConfigError as error:
                raise ConfigError(f"--{name}: {error}") from None
    return options


def check(options: argparse.Namespace) -> None:
    """What must be there, and what excludes each other, before anything is read."""
    if not options.input:
        raise ConfigError("photographs: missing; allowed: files, folders or patterns")
    if options.suffix != os.path.basename(options.suffix):
        raise ConfigError(f"--suffix: {options.suffix!r} given; allowed: text without folders")
    film = options.zoom_video is not None
    check_view(options)
    if film:
        check_video_name(Path(options.zoom_video), "--zoom-video")
        for name in ("scale", "compare", "output"):
            if getattr(options, name):
                raise ConfigError(f"--zoom-video: given with --{name}; allowed: one of them")
    elif not options.view:
        check_result(options)
    if options.resolution is not None and options.scale is not None:
        raise ConfigError("--resolution and --scale: both given; allowed: one of them")
    if options.baseline is not None and options.model is not None:
        raise ConfigError("--model and --baseline: both given; allowed: one of them")
    if options.baseline is not None:
        check_baseline(options.baseline)
        if film and options.baseline != "bicubic":
            raise ConfigError(f"--baseline: {options.baseline} given; allowed in films: bicubic")
    utils.check_cell_max_scale(options.cell_max_scale)
    import_all(options.imports)
    video_options(options).check()
    if options.max_pixels < 1:
        raise ConfigError(f"--max-pixels: {options.max_pixels} given; allowed: at least 1")


def check_result(options: argparse.Namespace) -> None:
    """What a picture needs: a place, and a size."""
    if options.output == "":
        raise ConfigError(
            "--output: '' given; allowed: a file, or a folder for several photographs"
        )
    if options.resolution is None and options.scale is None:
        raise ConfigError("--resolution or --scale: missing; allowed: one of them")


def check_view(options: argparse.Namespace) -> None:
    """What --view excludes, and what is for it alone."""
    if not options.view:
        for name in ("reference", "port", "no_browser"):
            if getattr(options, name) not in (None, False):
                raise ConfigError(f"--{name.replace('_', '-')}: given without --view")
        if len(options.model or []) > 1:
            raise ConfigError("--model: several given; allowed without --view: one")
        return
    for name in ("zoom_video", "scale", "resolution", "box", "compare", "output", "baseline"):
        if getattr(options, name):
            raise ConfigError(
                f"--view: given with --{name.replace('_', '-')}; allowed: one of them"
            )


def video_options(options: argparse.Namespace) -> VideoOptions:
    """What is asked for of videos alone."""
    repeat = options.on_bad_frame == "repeat"
    suffix = WRITTEN[options.format][0] if options.format else ".png"
    span = options.start, options.end
    return VideoOptions(*span, options.quality, repeat, options.fps, suffix)


def find_method(options: argparse.Namespace, processes: Processes) -> tuple[Represent, str]:
    """What makes of a photograph's pixels something to render, and what it is called."""
    if options.baseline is not None:
        return functools.partial(Resized, name=options.baseline), options.baseline
    return find_model(options, processes, (options.model or [None])[0])


def find_model(
    options: argparse.Namespace, processes: Processes, name: str | None
) -> tuple[Callable[[np.ndarray], ContinuousImage], str]:
    """`find_method` of one model."""
    device = distributed.own_device(options.gpu, processes)
    precision = settle_precision(device, options.precision)
    model = load_model(name, device, options.raw_weights)
    if implicit(model).halo is None:
        say("this model's features depend on the whole picture: encoded in one piece")

    def represent(pixels: np.ndarray) -> ContinuousImage:
        return ContinuousImage.represent(
            pixels,
            model,
            device=device,
            precision=precision,
            keep_features=False,
            cell_max_scale=options.cell_max_scale,
            cache_bytes=CACHE_BYTES if options.view else None,
        )

    return represent, Path(name or DEFAULT).stem


def tell_of_photo_model(options: argparse.Namespace, sources: Iterable[Path]) -> None:
    """Say in one line, of JPEG files and where no model is named, that one is made for them."""
    if options.baseline is not None or options.model:
        return
    if any(loader_of_file(path) == "jpegload" for path in sources):
        say(f"JPEG: --model {PHOTO.stem} takes blocks and noise away, the default sharpens them")


def look_into(options: argparse.Namespace) -> None:
    """Show one photograph in the browser until Ctrl-C."""
    paths = [path for given in options.input for path in expand(given, options.recursive)[0]]
    if len(paths) > 1:
        raise ConfigError("--view: several photographs given; allowed: one")
    tell_of_photo_model(options, paths)
    methods: dict[str, Callable[[np.ndarray], ContinuousImage]] = {}
    for given in options.model or [None]:
        represent, name = find_model(options, Processes(), given)
        methods[name if name not in methods else given] = represent  # two may be epoch-last.pth
    files = [*paths, *([] if options.reference is None else [Path(options.reference)])]
    pixels = [read_first(Job(path, path), options.max_pixels).pixels for path in files]
    check_reference(pixels[0], pixels[-1])
    viewer = Viewer(methods, options.max_pixels)
    viewer.add(Shown(pixels[0], reference=pixels[1] if len(pixels) > 1 else None))
    serve(viewer, options.port or 0, not options.no_browser)


def render_film(options: argparse.Namespace) -> None:
    """Read one photograph and write the film of it."""
    path = Path(options.zoom_video)
    jobs, several = plan_jobs(options.input, options.zoom_video, FORMATS)
    if several:
        raise ConfigError("--zoom-video: several photographs given; allowed: one")
    tell_of_photo_model(options, [job.source for job in jobs])
    represent, _ = find_method(options, Processes())
    photo = read_first(jobs[0], options.max_pixels)
    pixels = film_pixels(photo.pixels)
    film = plan_film((pixels.shape[0], pixels.shape[1]), options.resolution, options.box)
    with tqdm(desc=path.name, total=len(film.boxes), unit="frame", disable=None) as bar:
        frames = frames_of(pixels, film, represent(pixels), bar.update)
        write_film(path, frames, film.resolution, options.quality or QUALITY)


def render_photographs(options: argparse.Namespace, processes: Processes) -> None:
    """Plan and render, over all processes."""
    suffixes = WRITTEN[options.format] if options.format else WRITTEN_SUFFIXES
    where = options.input, options.output, suffixes, options.suffix, options.recursive
    (jobs, several), (represent, name) = processes.all_or_none(
        lambda: (plan_jobs(*where, tuple(CONTAINERS)), find_method(options, processes))
    )
    if processes.is_main:
        tell_of_photo_model(options, [job.source for job in jobs])
    kept = ("resolution", "scale", "box", "compare", "strip_metadata", "overwrite", "max_pixels")
    how = {key: getattr(options, key) for key in kept}
    enlarges = options.baseline is None
    wanted = Wanted(represent=represent, name=name, enlarges=enlarges, **how)
    photos = [job for job in jobs if not job.video]
    errors = render_videos(
        [job for job in jobs if job.video], wanted, video_options(options), processes
    )
    if photos:
        render_jobs(photos, several, wanted, processes)
    if errors:
        several_text = f"{len(errors)} of {len(jobs) - len(photos)} videos could not be rendered"
        processes.raise_once(errors[0] if len(jobs) == 1 else DataError(several_text))


def render_together(options: argparse.Namespace) -> None:
    """`render_photographs` over the processes that torchrun has started, or by this one alone."""
    processes = Processes()
    if "MASTER_ADDR" in os.environ:  # without it shares are rendered one by one, each on its own
        processes = distributed.this_process()
        distributed.join(processes, "gloo", PATIENCE)
    with distributed.lost_peers("the same command renders what is missing"):
        render_photographs(options, processes)
    distributed.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    check(options)
    with no_silent_exit():
        if options.view:
            look_into(options)
        elif options.zoom_video is not None:
            render_film(options)
        else:
            render_together(options)
    return 0


if __name__ == "__main__":
    # An end from outside takes the way of an exception, which removes half-written files.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    run_script(main)
