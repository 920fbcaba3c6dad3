"""Comparisons that one can look at: every method's crop beside the truth, with its errors."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from torch import nn

from datasets.resize import resize_pil
from datasets.transforms import to_bytes
from engine.config import DataNorm
from engine.evaluate.evaluate import from_uint8, to_uint8
from engine.evaluate.metrics import EvalType, psnr
from engine.render import baselines, render_once
from engine.render.baselines import Image

Colour = tuple[int, int, int]
SURFACE: Colour = (252, 252, 251)
INK: Colour = (11, 11, 11)
INK_SOFT: Colour = (82, 81, 78)
INK_FAINT: Colour = (137, 135, 129)
MARK: Colour = (227, 73, 72)
# Colours of errors, from none to the largest.
ERROR_STOPS = np.array(
    [[252, 252, 251], [253, 219, 176], [243, 151, 92], [205, 72, 60], [122, 17, 58], [43, 5, 42]]
)
TILE = 256  # side of a crop as it is shown, in pixels
GAP = 16
HEAD = 64  # height of the title
LABEL = 54  # height of the two lines above a crop
KEY = 82  # height of the key of the errors
OVERVIEW = 2 * TILE + LABEL  # largest side of the whole picture as it is shown


@dataclass(frozen=True)
class Shown:
    """A method's picture, uint8 (H, W, 3), and the line of figures above its crop."""

    label: str
    picture: Image
    figure: str = ""


def most_different_crop(pictures: Sequence[Image], side: int) -> tuple[int, int]:
    """(top, left) of the square of that side in which the pictures differ most, summed."""
    stack = np.stack([picture.astype(np.float32) for picture in pictures])
    spread = stack.var(axis=0).sum(axis=-1) if len(pictures) > 1 else stack[0].std(axis=-1)
    height, width = spread.shape
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = spread.astype(np.float64).cumsum(0).cumsum(1)
    rows, columns = np.arange(height - side + 1), np.arange(width - side + 1)
    totals = (
        sums[np.ix_(rows + side, columns + side)]
        - sums[np.ix_(rows, columns + side)]
        - sums[np.ix_(rows + side, columns)]
        + sums[np.ix_(rows, columns)]
    )
    top, left = np.unravel_index(int(totals.argmax()), totals.shape)
    return int(top), int(left)


def comparison_panel(title: str, low: Image, truth: Image, methods: Sequence[Shown]) -> Image:
    """One picture of them all.

    Left: the whole truth, the crop marked. Then a column per method, its crop above its error
    (mean of the three channels' absolute differences, one colour scale for all); last the truth,
    and below it the same part of the low-resolution picture with pixels of the same size.

    Args:
        low: uint8 (h, w, 3).
        truth: uint8 (H, W, 3).
        methods: at least one, with pictures of the truth's size.

    Returns:
        uint8 (height, width, 3).
    """
    size = (truth.shape[0], truth.shape[1])
    scale = (size[0] / low.shape[0], size[1] / low.shape[1])
    side = min(64 if max(scale) <= 4 else 128, *size)  # larger crops show more at large scales
    # Nearest differs from everything everywhere, and would decide alone.
    judged = [shown for shown in methods if shown.label != baselines.label("nearest")]
    top, left = most_different_crop([shown.picture for shown in judged or methods], side)
    window = (slice(top, top + side), slice(left, left + side))
    crops = [shown.picture[window] for shown in methods]
    errors = [np.abs(crop.astype(float) - truth[window]).mean(-1) for crop in crops]
    largest = max(8.0, float(np.percentile(np.stack(errors), 99.5)))
    overview = overview_image(truth, (top, left, side))
    columns = len(methods) + 1
    width = GAP + overview.width + columns * (GAP + TILE) + GAP
    paper = PILImage.new("RGB", (width, HEAD + OVERVIEW + LABEL + GAP), SURFACE)
    draw = ImageDraw.Draw(paper)
    draw.text((GAP, HEAD / 2), fitted(title, 26, width - 2 * GAP), INK, font(26), anchor="lm")
    sizes = f"{low.shape[0]}x{low.shape[1]} to {size[0]}x{size[1]}"
    put(paper, (GAP, HEAD), "whole picture", sizes, overview)
    for number, (shown, crop, error) in enumerate(zip(methods, crops, errors, strict=True)):
        x = 2 * GAP + overview.width + number * (GAP + TILE)
        put(paper, (x, HEAD), shown.label, shown.figure, enlarged(crop))
        tile = enlarged(error_colours(error, largest))
        put(paper, (x, HEAD + LABEL + TILE), "", f"error, mean {error.mean():.1f}/255", tile)
    x = 2 * GAP + overview.width + len(methods) * (GAP + TILE)
    put(paper, (x, HEAD), "ground truth", f"crop {side}x{side}", enlarged(truth[window]))
    y = HEAD + LABEL + TILE + LABEL
    draw_error_key(paper, (x, y), largest)
    put_low(paper, (x, y + KEY), low, (top, left, side), scale)
    return np.asarray(paper)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface, so that no font has to be installed."""
    return ImageFont.load_default(size)


def fitted(text: str, size: int, width: float) -> str:
    """The text, its middle left out if it is wider than that."""
    short, keep = text, len(text)
    while font(size).getlength(short) > width and keep > 2:
        keep -= 1
        short = f"{text[: (keep + 1) // 2]}…{text[-(keep // 2) :]}"
    return short


def error_colours(error: np.ndarray, largest: float) -> np.ndarray:
    """Errors (H, W) from 0 to largest, and beyond, as colours: uint8 (H, W, 3)."""
    stops = np.linspace(0, largest, len(ERROR_STOPS))
    channels = [np.interp(error, stops, channel) for channel in ERROR_STOPS.T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def overview_image(truth: Image, crop: tuple[int, int, int]) -> PILImage.Image:
    """The whole picture, fitted into its place, the crop marked."""
    height, width = truth.shape[:2]
    factor = min(OVERVIEW / height, 1.5 * OVERVIEW / width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    kind = PILImage.Resampling.LANCZOS if factor < 1 else PILImage.Resampling.BICUBIC
    image = PILImage.fromarray(truth).resize(size, kind)
    top, left, side = (round(value * factor) for value in crop)
    box = (left, top, left + side, top + side)
    draw = ImageDraw.Draw(image)
    draw.rectangle([box[0] - 4, box[1] - 4, box[2] + 4, box[3] + 4], outline=SURFACE, width=2)
    draw.rectangle([box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2], outline=MARK, width=3)
    return image


def enlarged(pixels: Image, height: int = TILE, width: int = TILE) -> PILImage.Image:
    """Pixels as squares, of a crop in its place where no size is given."""
    image = PILImage.fromarray(np.ascontiguousarray(pixels))
    return image.resize((width, height), PILImage.Resampling.NEAREST)


def put(
    paper: PILImage.Image, place: tuple[int, int], label: str, figure: str, image: PILImage.Image
) -> None:
    """An image with two lines above it; place is the left top of the lines."""
    x, y = place
    draw = ImageDraw.Draw(paper)
    width = max(image.width, TILE)
    if label:
        draw.text((x, y), fitted(label, 19, width), INK, font(19))
    draw.text((x, y + LABEL - 8), fitted(figure, 16, width), INK_SOFT, font(16), anchor="ls")
    paper.paste(image, (x, y + LABEL))


def draw_error_key(paper: PILImage.Image, place: tuple[int, int], largest: float) -> None:
    """Which colour is how large an error."""
    ramp = error_colours(np.linspace(0, 1, TILE)[None].repeat(20, axis=0), 1.0)
    x, y = place
    draw = ImageDraw.Draw(paper)
    draw.text((x, y), "absolute error", INK_SOFT, font(16))
    paper.paste(PILImage.fromarray(ramp), (x, y + 28))
    draw.rectangle((x, y + 28, x + TILE - 1, y + 47), outline=INK_FAINT)
    draw.text((x, y + 54), "0", INK_SOFT, font(15))
    draw.text((x + TILE, y + 54), f"{largest:.0f}/255 and more", INK_SOFT, font(15), anchor="ra")


def put_low(
    paper: PILImage.Image,
    place: tuple[int, int],
    low: Image,
    crop: tuple[int, int, int],
    scale: tuple[float, float],
) -> None:
    """What the methods were given of the crop, its pixels as large as those of the truth."""
    top, left, side = crop
    rows = slice(int(top / scale[0]), math.ceil((top + side) / scale[0]))
    columns = slice(int(left / scale[1]), math.ceil((left + side) / scale[1]))
    part, pixel = low[rows, columns], max(1, TILE // side)
    image = enlarged(part, part.shape[0] * pixel, part.shape[1] * pixel)
    x, y = place
    text = f"LR, {part.shape[0]}x{part.shape[1]} of it"
    ImageDraw.Draw(paper).text((x, y), text, INK, font(16))
    room = TILE - KEY - 26
    paper.paste(image.crop((0, 0, min(image.width, TILE), min(image.height, room))), (x, y + 26))


def with_baselines(
    low: Image, truth: Image, methods: Sequence[Shown], kind: EvalType
) -> list[Shown]:
    """The methods, nearest and bicubic before all others, made where they are missing."""
    given = {shown.label: shown for shown in methods}
    first = []
    for name in ("nearest", "bicubic"):
        label = baselines.label(name)
        if label not in given:
            picture = baselines.enlarge(name, low, (truth.shape[0], truth.shape[1]))
            given[label] = Shown(label, picture, psnr_text(picture, truth, kind))
        first.append(given.pop(label))
    return [*first, *given.values()]


def psnr_text(picture: Image, truth: Image, kind: EvalType) -> str:
    """PSNR of a picture of 8 bits, for people."""
    return f"{psnr(from_uint8(picture), from_uint8(truth), kind):.2f} dB"


def training_panel(
    model: nn.Module,
    wrapper: Any,
    data_norm: DataNorm,
    *,
    device: torch.device,
    precision: str = "fp32",
    count: int = 2,
    side: int = 128,
) -> Image | None:
    """The same comparison of the first validation photographs at every call, for TensorBoard.

    Args:
        model: in any mode, on device; it comes back as it was.
        wrapper: validation items; its photographs are used, not its crops. Pairs are of one scale;
            single photographs are reduced by the largest scale of the wrapper.
        count: number of photographs, fewer where there are fewer.
        side: the middle of each photograph is used, at most this large, so that it costs little.

    Returns:
        uint8 (height, width, 3); None for wrappers that do not give their photographs.

    Raises:
        DataError: a photograph is broken.
    """
    if not (hasattr(wrapper, "fetch") and hasattr(wrapper, "name")):
        return None
    scale = max(getattr(wrapper, "scale_max", (4.0,)))
    seen: dict[str, int] = {}
    for index in range(len(wrapper)):
        seen.setdefault(wrapper.name(index), index)
        if len(seen) == count:
            break
    training = model.training
    model.eval()
    panels = []
    for name, index in seen.items():
        low, truth = middle_pair(wrapper.fetch(index), scale, side)
        size = (truth.shape[0], truth.shape[1])
        picture = to_uint8(
            render_once(low, model, size, device=device, data_norm=data_norm, precision=precision)
        )
        shown = Shown("model", picture, psnr_text(picture, truth, EvalType()))
        methods = with_baselines(low, truth, [shown], EvalType())
        panels.append(comparison_panel(Path(name).name, low, truth, methods))
    model.train(training)
    width = max(panel.shape[1] for panel in panels)
    wide = [
        np.pad(panel, ((0, 0), (0, width - panel.shape[1]), (0, 0)), constant_values=SURFACE[0])
        for panel in panels
    ]
    return np.concatenate(wide)


def middle_pair(pictures: Sequence[np.ndarray], scale: float, side: int) -> tuple[Image, Image]:
    """(low, high) resolution: the middle of a pair, or of one picture and its reduction."""
    truth = to_bytes(pictures[-1])
    if len(pictures) > 1:
        low = to_bytes(pictures[0])
        factor = max(1, truth.shape[0] // low.shape[0])
        rows, columns = (min(n, max(1, side // factor)) for n in low.shape[:2])
        top, left = (low.shape[0] - rows) // 2, (low.shape[1] - columns) // 2
        low = low[top : top + rows, left : left + columns]
        top, left, rows, columns = (n * factor for n in (top, left, rows, columns))
        return low, truth[top : top + rows, left : left + columns]
    rows, columns = (max(1, int(min(n, side) / scale)) for n in truth.shape[:2])
    height, width = round(rows * scale), round(columns * scale)
    top, left = (truth.shape[0] - height) // 2, (truth.shape[1] - width) // 2
    truth = np.ascontiguousarray(truth[top : top + height, left : left + width])
    return resize_pil(truth, (rows, columns)), truth
