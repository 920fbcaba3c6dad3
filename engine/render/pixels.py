"""Photographs as arrays, and between their pixels and what a network takes and gives."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datasets.decoding import pillow_pixels
from datasets.images import Photo, read_photo
from datasets.transforms import to_bytes
from datasets.transparency import fill_hidden
from engine.config import DataNorm
from engine.normalisation import PAPER, normalise
from utils import ConfigError, DataError

PathLike = str | os.PathLike[str]
Photograph = PathLike | Image.Image | np.ndarray | Tensor
Report = Callable[[int], object]  # told how many pixels are done since the last time


def as_photo(photo: Photograph) -> Photo:
    """A photograph as `ContinuousImage.represent` takes it, no colours hidden under its alpha.

    Raises:
        ConfigError, DataError: in one line, what can't be used and why.
    """
    if isinstance(photo, (str, os.PathLike)):
        read = read_photo(photo)
        return replace(read, pixels=fill_hidden(read.pixels))
    if isinstance(photo, Image.Image):
        try:
            icc = None if photo.mode in ("CMYK", "LAB") else photo.info.get("icc_profile")
            return Photo(fill_hidden(as_pixels(pillow_pixels(ImageOps.exif_transpose(photo)))), icc)
        except (OSError, ValueError) as error:  # of a file that is read only now
            raise DataError(f"photo: a picture that can't be read ({error})") from None
    if isinstance(photo, Tensor):
        if photo.dim() != 3:
            raise ConfigError(f"photo: a tensor of shape {tuple(photo.shape)}; allowed: (3, H, W)")
        photo = photo.detach().cpu().permute(1, 2, 0).numpy()
    if not isinstance(photo, np.ndarray):
        allowed = "a file's name, a PIL.Image, an array or a tensor"
        raise ConfigError(f"photo: a {type(photo).__name__} given; allowed: {allowed}")
    return Photo(fill_hidden(as_pixels(photo)))


def as_pixels(photo: np.ndarray) -> np.ndarray:
    """An array (H, W) or (H, W, 1 to 4) as the latter, its type and values checked."""
    pixels = photo[..., None] if photo.ndim == 2 else photo
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or 0 in pixels.shape:
        raise ConfigError(f"photo: of shape {photo.shape}; allowed: (H, W, 1 to 4)")
    if pixels.dtype not in (np.uint8, np.uint16) and pixels.dtype.kind != "f":
        raise ConfigError(f"photo: {pixels.dtype}; allowed: uint8, uint16, or float in [0, 1]")
    if pixels.dtype.kind == "f" and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ConfigError("photo: float values outside [0, 1] given; allowed: 0 to 1")
    return pixels


def whole_numbers(pixels: np.ndarray) -> np.ndarray:
    """Pixels of 8 or 16 bits as they are; floats in [0, 1] rounded to 8 bits."""
    return to_bytes(pixels) if pixels.dtype.kind == "f" else pixels


def extended(length: int, window: int) -> int:
    """A side of a picture with what its mirror image adds: see `ImplicitModel.window`."""
    return (length // window + 1) * window if window else length


def mirrored(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels (h, w, C) and their mirror image, the edge repeated, at the bottom and right."""
    height, width = pixels.shape[:2]
    if size == (height, width):
        return pixels
    added = (0, size[0] - height), (0, size[1] - width), (0, 0)
    return np.pad(pixels, added, mode="symmetric")


def to_network(pixels: np.ndarray, norm: DataNorm = PAPER) -> Tensor:
    """Pixels (h, w, 1 to 4), as Source takes them, as the network does: (1, 3, h, w)."""
    whole = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    values = torch.from_numpy(np.ascontiguousarray(rgb(pixels).transpose(2, 0, 1), np.float32))
    return normalise(values.div_(whole).unsqueeze(0), norm.inp, 1)


def rgb(pixels: np.ndarray) -> np.ndarray:
    """The colours of pixels (h, w, 1 to 4) as (h, w, 3)."""
    return pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., [0, 0, 0]]


def to_pixels(colours: Tensor, dtype: np.dtype) -> np.ndarray:
    """Colours in [0, 1] as pixels, rounded where these are whole numbers."""
    if dtype.kind == "f":
        return colours.cpu().numpy()
    return colours.clamp_(0, 1).mul_(np.iinfo(dtype).max).round_().cpu().numpy().astype(dtype)
