"""The file of a represented photograph: features, and the weights that decode them."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import models
from datasets.files import write_whole
from engine.config import DataNorm
from engine.normalisation import PAPER, recorded_norm
from engine.render.pixels import extended
from engine.runtime import PRECISIONS
from engine.weights.checkpoint import read_tensors
from models.protocol import Features, ImplicitModel, each_map, implicit, maps_of
from utils import ConfigError, DataError

FORMAT = "liif continuous image 1"
WIDEST = 1024  # pixels that a picture may be continued to multiples of
ENCODER = "encoder."  # prefix of the weights that a representation has no use for


def write(
    path: Path,
    spec: Mapping[str, Any],
    model: ImplicitModel,
    features: Features,
    size: tuple[int, int],
    precision: str,
    data_norm: DataNorm,
    window: int,
) -> None:
    """Write a represented photograph of this size, whose model is {name, args}.

    Args:
        features: of the picture that `window` makes of it (`ImplicitModel.window`).

    Raises:
        DataError: the file can't be written.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "model": {"name": spec["name"], "args": spec["args"]},
            "sd": {key: value.cpu() for key, value in decoder_weights(model).items()},
            "features": each_map(features, Tensor.cpu),
            "size": list(size),
            "precision": precision,
            "window": window,
            "config": {"data_norm": dataclasses.asdict(data_norm)},
        },
        buffer,
    )
    write_whole(path, buffer.getbuffer())


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote, by the names of its arguments; all on the CPU.

    Raises:
        DataError: not readable, damaged, or something else.
    """
    content = read_tensors(path)
    problem = layout_problem(content)
    if problem:
        raise DataError(f"{path}: no represented photograph ({problem})")
    spec, given, features = content["model"], content["sd"], content["features"]
    size, window = (content["size"][0], content["size"][1]), content.get("window", 0)
    try:
        model = implicit(models.make(spec))
        norm = recorded_norm(content) or PAPER
    except (ConfigError, ValueError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from error
    own = decoder_weights(model)
    fits = own.keys() == given.keys() and all(own[k].shape == given[k].shape for k in own)
    if fits and model.reach is not None:  # else its features are of no known shape
        fits = [one.shape for one in maps_of(features)] == map_shapes(spec, size, window)
    if not fits:
        raise DataError(f"{path}: damaged (weights or features do not fit the model)")
    model.load_state_dict(given, strict=False)
    return {
        "model": model,
        "size": size,
        "features": features,
        "precision": content["precision"],
        "spec": spec,
        "data_norm": norm,
        "window": window,
    }


def layout_problem(content: Any) -> str | None:
    """What keeps a value read from a file from being a representation, if anything."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return f"its format is not {FORMAT!r}"
    spec, state, size = (content.get(key) for key in ("model", "sd", "size"))
    if not isinstance(spec, dict) or not isinstance(spec.get("args"), dict):
        return "it has no model specification"
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        return "it has no weights"
    features = content.get("features")
    maps = features if isinstance(features, tuple) else (features,)
    if not all(isinstance(one, Tensor) for one in maps):
        return "it has no features"
    if content.get("precision") not in PRECISIONS:
        return "it has no precision"
    window = content.get("window", 0)  # earlier versions recorded none
    if type(window) is not int or not 0 <= window <= WIDEST:
        return "its window is no number of pixels"
    if not isinstance(size, list) or [type(length) for length in size] != [int, int]:
        return "it has no size"
    return None if min(size) > 0 else "it has no pixels"


def decoder_weights(model: ImplicitModel) -> dict[str, Tensor]:
    state = model.state_dict()
    return {key: value for key, value in state.items() if not key.startswith(ENCODER)}


def map_shapes(spec: Mapping[str, Any], size: tuple[int, int], window: int) -> list[torch.Size]:
    """The shapes of the maps that a model makes of a photograph of this size."""
    size = extended(size[0], window), extended(size[1], window)
    with torch.device("meta"):
        model = implicit(models.make(spec))
        return [one.shape for one in maps_of(model.encode(torch.empty(1, 3, *size)))]
