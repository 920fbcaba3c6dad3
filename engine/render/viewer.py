"""What the page of `demo.py --view` looks at, and how its pixels are made: in stripes of rows."""

from __future__ import annotations

import functools
import io
import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from datasets.images import MAX_PIXELS
from engine.render.continuous_image import ContinuousImage
from engine.render.photo import reduces
from engine.render.resampling import resample_rows
from engine.render.tiling import Box, Grid, Span
from engine.render.zoom import film_pixels
from utils import ConfigError

STRIPE = 1 << 16  # pixels that are rendered between two looks at whether the view is still wanted
CACHE_BYTES = 1 << 28  # of features, for each photograph and model
LARGEST_VIEW = 1 << 24  # pixels
PREVIEW = 1024  # pixels along the longer side of the small whole picture under everything
PHOTOS, PAGES = 3, 64  # that are remembered
BASELINES = ("bicubic", "nearest", "lanczos")
REFERENCE = "reference"
SHALLOWEST, DEEPEST = 0.25, 4096.0  # scales whose cell can be held
TRAINED = 4.0  # largest scale of the paper's training, where a checkpoint tells none

Represent = Callable[[np.ndarray], ContinuousImage]  # of pixels (H, W, 1 to 4)


@dataclass(frozen=True)
class HeldCell(Grid):
    """A grid whose pixels are said to be those of the scale `held`, if there is one."""

    held: float | None = None

    @property
    def cell(self) -> tuple[float, float]:
        if self.held is None:
            return super().cell
        return 2 / (self.size[0] * self.held), 2 / (self.size[1] * self.held)


class Shown:
    """A photograph that pages look at.

    Args:
        pixels: (H, W, 1 to 4), uint8 or uint16, no colours hidden under its alpha.
        reference: the same scene in more pixels, likewise.
        images: representations that are there already, by method.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        reference: np.ndarray | None = None,
        images: Mapping[str, ContinuousImage] | None = None,
    ) -> None:
        self.pixels = pixels
        self.size = (pixels.shape[0], pixels.shape[1])
        self.on_screen = film_pixels(pixels)
        self.reference = None if reference is None else film_pixels(reference)
        self.images = dict(images or {})

    @functools.cached_property
    def preview(self) -> bytes:
        """A small PNG of the whole photograph."""
        factor = min(1, PREVIEW / max(self.size))
        shape = [max(1, round(side * factor)) for side in self.size]
        small = resample_rows(self.on_screen, Grid(self.size, *shape), (0, shape[0]))
        file = io.BytesIO()
        Image.fromarray(small).save(file, "PNG", compress_level=1)
        return file.getvalue()


@dataclass(frozen=True)
class View:
    """What a page asks for.

    Attributes:
        photo, method: whose pixels.
        box: (top, left, bottom, right) in pixels of the photograph.
        height, width: of the result.
        page, serial: a view is given up when its page has asked for one with a higher serial;
            one with serial 0 never is.
        ensemble: whether four codes predict each pixel, where the model lets one choose.
        cell: the scale whose pixels the model is told of; None for the true one.
    """

    photo: str
    method: str
    box: Box
    height: int
    width: int
    page: str = ""
    serial: int = 0
    ensemble: bool = True
    cell: float | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> View:
        """Raises ConfigError for what can't be read."""
        try:
            top, left, bottom, right = (float(edge) for edge in query["box"].split(","))
            height, width = int(query["height"]), int(query["width"])
            serial, cell = int(query.get("serial", 0)), query.get("cell")
            held = float(cell) if cell else None
            names = query["photo"], query["method"]
        except KeyError as error:
            raise ConfigError(f"view: no {error.args[0]} given") from None
        except ValueError as error:
            raise ConfigError(f"view: {error}") from None
        if min(height, width) < 1 or height * width > LARGEST_VIEW:
            raise ConfigError(f"view: {height}x{width} pixels; allowed: 1 to {LARGEST_VIEW}")
        if held is not None and not SHALLOWEST <= held <= DEEPEST:
            raise ConfigError(f"cell: {held} given; allowed: {SHALLOWEST} to {DEEPEST}")
        page, ensemble = query.get("page", ""), query.get("ensemble") != "0"
        return cls(*names, (top, left, bottom, right), height, width, page, serial, ensemble, held)

    def grid(self, size: tuple[int, int]) -> Grid:
        """Its pixels over a photograph of this size; ConfigError for a box that is not inside."""
        if not all(map(math.isfinite, self.box)):
            raise ConfigError("box: no numbers given; allowed: four")
        # Edges that the page computed may lie a rounding outside.
        top, left, bottom, right = (
            min(max(edge, 0.0), float(limit))
            for edge, limit in zip(self.box, 2 * size, strict=True)
        )
        return HeldCell(size, self.height, self.width, (top, left, bottom, right), self.cell)


class Viewer:
    """The photographs and methods that pages can look at.

    Args:
        methods: name -> what makes a photograph's pixels continuous.
        max_pixels: larger photographs are refused.
    """

    def __init__(self, methods: Mapping[str, Represent], max_pixels: int = MAX_PIXELS) -> None:
        self.methods = dict(methods)
        self.max_pixels = max_pixels
        self.photos: OrderedDict[str, Shown] = OrderedDict()
        self.serials: OrderedDict[str, int] = OrderedDict()
        self.computing = threading.Lock()  # more threads at once would share the same cores
        self.noting = threading.Lock()  # of serials and photographs

    def add(self, shown: Shown) -> str:
        """Remember a photograph, by a name; the first stays, later ones replace each other."""
        with self.noting:
            name = secrets.token_hex(8) if self.photos else "first"
            self.photos[name] = shown
            if len(self.photos) > PHOTOS:
                del self.photos[list(self.photos)[1]]
        return name

    def shown(self, name: str) -> Shown:
        """Raises ConfigError for a photograph that isn't remembered."""
        try:
            return self.photos[name]
        except KeyError:
            raise ConfigError("photo: no longer here; upload it again") from None

    def describe(self, photo: str) -> dict[str, Any]:
        """What a page has to know of a photograph and of the methods."""
        shown, models = self.shown(photo), []
        with self.computing:
            for name in self.methods:
                model = self.image(shown, name).model
                trained = getattr(model, "trained_scale", None) or TRAINED
                about = {"name": name, "trained": trained, "upscale": model.upscale}
                models.append({**about, "ensemble": bool(getattr(model, "local_ensemble", False))})
        truth = shown.reference
        scale = None if truth is None else truth.shape[0] / shown.size[0]
        others = [*BASELINES, *([] if truth is None else [REFERENCE])]
        about = {"photo": photo, "size": shown.size, "models": models, "others": others}
        return {**about, "reference": scale}

    def image(self, shown: Shown, method: str) -> ContinuousImage:
        if method not in shown.images:
            shown.images[method] = self.methods[method](shown.pixels)
        return shown.images[method]

    def note(self, view: View) -> None:
        """Remember the newest view of a page, for the pages that asked last."""
        with self.noting:
            self.serials[view.page] = max(view.serial, self.serials.pop(view.page, 0))
            if len(self.serials) > PAGES:
                self.serials.popitem(last=False)

    def given_up(self, view: View) -> bool:
        return 0 < view.serial < self.serials.get(view.page, 0)

    def stripes(self, view: View) -> Iterator[np.ndarray]:
        """The view's pixels, uint8 (rows, width, 3), from top to bottom, while it is wanted.

        Raises:
            ConfigError: no such photograph or method, or a box that is not inside.
        """
        shown = self.shown(view.photo)
        reference = [] if shown.reference is None else [REFERENCE]
        if view.method not in (*self.methods, *BASELINES, *reference):
            raise ConfigError(f"method: {view.method!r} is unknown")
        grid, top = view.grid(shown.size), 0
        if view.serial:
            self.note(view)
        for part in grid.strips(max(1, STRIPE // view.width)):
            with self.computing:
                if self.given_up(view):
                    return
                pixels = self.rows(shown, view, grid, (top, top + part.height), part)
            yield pixels
            top += part.height

    def rows(self, shown: Shown, view: View, grid: Grid, rows: Span, part: Grid) -> np.ndarray:
        """Rows of a grid, of which they are `part`; antialiased where it shrinks the photograph."""
        if view.method == REFERENCE and shown.reference is not None:
            return resample_rows(shown.reference, over(grid, shown.reference.shape[:2]), rows)
        if view.method in self.methods and not reduces(grid):
            image = self.image(shown, view.method)
            if not view.ensemble and getattr(image.model, "local_ensemble", False):
                image = image.without_ensemble()
            return np.concatenate([*image.bands(part, np.uint8)])
        kind = view.method if view.method in BASELINES and not reduces(grid) else "bicubic"
        return resample_rows(shown.on_screen, grid, rows, kind)


def over(grid: Grid, size: tuple[int, ...]) -> Grid:
    """The same pixels over a picture of the same scene in another size."""
    down, across = size[0] / grid.size[0], size[1] / grid.size[1]
    top, left, bottom, right = grid.area
    box = top * down, left * across, bottom * down, right * across
    box = (*box[:2], min(box[2], float(size[0])), min(box[3], float(size[1])))
    return Grid((size[0], size[1]), grid.height, grid.width, box)
