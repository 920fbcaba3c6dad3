"""Comparisons that one can look at: every method's crop beside the truth, with its errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageDraw
from torch import nn

from datasets.resize import resize_pil
from datasets.transforms import to_bytes, to_picture
from engine.config import DataNorm
from engine.evaluate.evaluate import evaluating, to_uint8
from engine.evaluate.metrics import EvalType, psnr
from engine.render import baselines, render_once
from engine.render.baselines import Image
from engine.render.labels import fitted, font

SURFACE, INK, SOFT, MARK = (252, 252, 252), (11, 11, 11), (82, 82, 82), (227, 73, 72)
# Colours of errors, from none to the largest.
ERROR_STOPS = np.array(
    [[252, 252, 252], [253, 219, 176], [243, 151, 92], [205, 72, 60], [122, 17, 58], [43, 5, 42]]
)
TILE = 256  # side of a crop as it is shown, in pixels
GAP = 16
HEAD = 64  # height of the title
LABEL = 54  # height of the two lines above a crop
KEY = 120  # width of the key of the errors
OVERVIEW = 2 * TILE + LABEL  # largest height of the whole picture as it is shown


@dataclass(frozen=True)
class PanelColumn:
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


def comparison_panel(title: str, low: Image, truth: Image, methods: Sequence[PanelColumn]) -> Image:
    """One picture of them all.

    Left: the whole truth, the crop marked. Then a column per method, its crop above its error
    (mean of the three channels' absolute differences, one colour scale for all); last the truth,
    and below it the same part of the low-resolution picture.

    Args:
        low: uint8 (h, w, 3).
        truth: uint8 (H, W, 3).
        methods: at least one, with pictures of the truth's size.

    Returns:
        uint8 (height, width, 3).
    """
    size = truth.shape[:2]
    scale = (size[0] / low.shape[0], size[1] / low.shape[1])
    side = min(64 if max(scale) <= 4 else 128, *size)  # larger crops show more at large scales
    # Nearest differs from everything everywhere, and would decide alone.
    judged = [shown for shown in methods if shown.label != baselines.label("nearest")]
    top, left = most_different_crop([shown.picture for shown in judged or methods], side)
    window = (slice(top, top + side), slice(left, left + side))
    crops = [shown.picture[window] for shown in methods]
    errors = [np.abs(crop.astype(float) - truth[window]).mean(-1) for crop in crops]
    largest = max(8.0, float(np.percentile(np.stack(errors), 99.5)))
    sizes = f"{low.shape[0]}x{low.shape[1]} to {size[0]}x{size[1]}"
    columns = [captioned(overview(truth, (top, left, side)), "whole picture", sizes)]
    for shown, crop, error in zip(methods, crops, errors, strict=True):
        tile = enlarged(error_colours(error, largest))
        below = captioned(tile, "", f"error, mean {error.mean():.1f}/255")
        columns.append(
            np.concatenate([captioned(enlarged(crop), shown.label, shown.figure), below])
        )
    part = low[
        int(top / scale[0]) : math.ceil((top + side) / scale[0]),
        int(left / scale[1]) : math.ceil((left + side) / scale[1]),
    ]
    original = captioned(enlarged(truth[window]), "ground truth", f"crop {side}x{side}")
    given = captioned(enlarged(part), "", f"low resolution, {part.shape[0]}x{part.shape[1]}")
    columns.append(np.concatenate([original, given]))
    body = np.concatenate(
        [padded(column, OVERVIEW + LABEL + GAP, GAP) for column in columns], axis=1
    )
    body = np.pad(body, ((0, 0), (GAP, 0), (0, 0)), constant_values=SURFACE[0])
    return np.concatenate([head(title, body.shape[1], largest), body])


def padded(pixels: Image, height: int, gap: int) -> Image:
    """Pixels with paper below them, up to a height, and to their right."""
    below = height - pixels.shape[0]
    return np.pad(pixels, ((0, below), (0, gap), (0, 0)), constant_values=SURFACE[0])


def head(title: str, width: int, largest: float) -> Image:
    """The title of a panel, and which colour is how large an error."""
    paper = PILImage.new("RGB", (width, HEAD), SURFACE)
    draw, x = ImageDraw.Draw(paper), width - GAP - TILE
    title = fitted(title, 26, x - 2 * GAP - TILE / 2)
    draw.text((GAP, HEAD / 2), title, INK, font(26), anchor="lm")
    ramp = error_colours(np.linspace(0, largest, KEY)[None].repeat(18, axis=0), largest)
    paper.paste(PILImage.fromarray(ramp), (x, HEAD // 2 - 9))
    draw.rectangle((x, HEAD // 2 - 9, x + KEY - 1, HEAD // 2 + 8), outline=SOFT)
    draw.text((x - 8, HEAD / 2), "error: 0", SOFT, font(16), anchor="rm")
    draw.text((x + KEY + 8, HEAD / 2), f"{largest:.0f}/255 and more", SOFT, font(16), anchor="lm")
    return np.asarray(paper)


def error_colours(error: np.ndarray, largest: float) -> np.ndarray:
    """Errors (H, W) from 0 to largest, and beyond, as colours: uint8 (H, W, 3)."""
    stops = np.linspace(0, largest, len(ERROR_STOPS))
    channels = [np.interp(error, stops, channel) for channel in ERROR_STOPS.T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def overview(truth: Image, crop: tuple[int, int, int]) -> Image:
    """The whole picture, fitted into its place, the crop (top, left, side) marked."""
    height, width = truth.shape[:2]
    factor = min(OVERVIEW / height, 1.5 * OVERVIEW / width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    kind = PILImage.Resampling.LANCZOS if factor < 1 else PILImage.Resampling.BICUBIC
    image = PILImage.fromarray(truth).resize(size, kind)
    top, left, side = (round(value * factor) for value in crop)
    for distance, colour, line in ((4, SURFACE, 2), (2, MARK, 3)):
        start, end = (
            (left - distance, top - distance),
            (left + side + distance, top + side + distance),
        )
        ImageDraw.Draw(image).rectangle((start, end), outline=colour, width=line)
    return np.asarray(image)


def enlarged(pixels: Image) -> Image:
    """A crop in its place, its pixels as squares."""
    image = PILImage.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((TILE, TILE), PILImage.Resampling.NEAREST))


def captioned(pixels: Image, label: str, figure: str) -> Image:
    """A picture below two lines of text."""
    height, width = pixels.shape[0], max(TILE, pixels.shape[1])
    paper = PILImage.new("RGB", (width, LABEL + height), SURFACE)
    draw = ImageDraw.Draw(paper)
    draw.text((0, 0), fitted(label, 19, width), INK, font(19))
    draw.text((0, LABEL - 8), fitted(figure, 16, width), SOFT, font(16), anchor="ls")
    paper.paste(PILImage.fromarray(pixels), (0, LABEL))
    return np.asarray(paper)


def with_baselines(
    low: Image, truth: Image, methods: Sequence[PanelColumn], kind: EvalType
) -> list[PanelColumn]:
    """The methods, nearest and bicubic before all others, made where they are missing."""
    given = {shown.label: shown for shown in methods}
    first = []
    for name in ("nearest", "bicubic"):
        label = baselines.label(name)
        if label not in given:
            picture = baselines.enlarge(name, low, (truth.shape[0], truth.shape[1]))
            given[label] = PanelColumn(label, picture, psnr_text(picture, truth, kind))
        first.append(given.pop(label))
    return [*first, *given.values()]


def psnr_text(picture: Image, truth: Image, kind: EvalType) -> str:
    """PSNR of a picture of 8 bits, for people."""
    return f"{psnr(to_picture(picture), to_picture(truth), kind):.2f} dB"


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
    how: dict[str, Any] = {"device": device, "data_norm": data_norm, "precision": precision}
    panels = []
    for name, index in seen.items():
        low, truth = middle_pair(wrapper.fetch(index), scale, side)
        with evaluating(model):
            picture = to_uint8(render_once(low, model, truth.shape[:2], **how))
        shown = PanelColumn("model", picture, psnr_text(picture, truth, EvalType()))
        methods = with_baselines(low, truth, [shown], EvalType())
        panels.append(comparison_panel(Path(name).name, low, truth, methods))
    width = max(panel.shape[1] for panel in panels)
    return np.concatenate([padded(panel, len(panel), width - panel.shape[1]) for panel in panels])


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
