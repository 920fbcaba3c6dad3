"""Models by file or by name: the bundled weights, published ones, safetensors."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.files import file_errors, write_whole
from engine.normalisation import norm_of
from engine.weights.checkpoint import layout_problem, load_checkpoint, model_of
from engine.weights.download import MIRROR, download, file_sha256, users_mirror
from utils import ConfigError, DataError, did_you_mean

ROOT = Path(__file__).resolve().parent.parent.parent

# The bundled weights (docs/model-card.md): what is used when no model is named.
DEFAULT = ROOT / "models" / "weights" / "compact-liif.pth"
# The same for photographs with JPEG's blocks, noise and light blur.
PHOTO = DEFAULT.with_name("compact-liif-photo.pth")
BUNDLED = {path.stem: path for path in (DEFAULT, PHOTO)}


@dataclass(frozen=True)
class Published:
    """Where a published checkpoint is, and how to know that it arrived whole."""

    url: str
    bytes: int
    sha256: str


PUBLISHED = {
    "edsr-baseline-liif": Published(
        url="https://www.dropbox.com/s/6f402wcn4v83w2v/edsr-baseline-liif.pth?dl=1",
        bytes=18890445,
        sha256="1cf77e16f33ee17bd04049f497eaea1e06f25585dbb1919e4c7cd1d9d4d23d57",
    ),
    "rdn-liif": Published(
        url="https://www.dropbox.com/s/mzha6ll9kb9bwy0/rdn-liif.pth?dl=1",
        bytes=268184311,
        sha256="7bf835bc969b85ead12ef3bd8e4bca7349777ae1fdbea6021f1b62608f4a323a",
    ),
}


def load_model(
    model: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    raw_weights: bool = False,
) -> nn.Module:
    """A model ready to predict, by file, by the name of published weights, or the default one.

    Args:
        model: path of a checkpoint (`.pth`) or of an export (`.safetensors`); or a name of
            PUBLISHED, fetched once into the cache folder, or of BUNDLED; None for DEFAULT.
        device: where it is put.
        raw_weights: the weights as trained, also where the file holds their average.

    Raises:
        ConfigError: no such file and no such name.
        DataError: a file that is no checkpoint, or weights that can't be fetched.
    """
    return load_with_spec(model, device, raw_weights)[0]


def load_with_spec(
    model: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    raw_weights: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """`load_model`, and the model's specification {name, args}; same errors."""
    path = find_weights(model)
    checkpoint = read_safetensors(path) if is_safetensors(path) else load_checkpoint(path)
    module = model_of(checkpoint, path, raw_weights).to(device).eval()
    return module, {key: checkpoint["model"][key] for key in ("name", "args")}


def find_weights(model: str | os.PathLike[str] | None = None, key: str = "model") -> Path:
    """The file of a model as `load_model` takes it, fetched where need be; same errors.

    Args:
        key: the setting that names the model, for messages.
    """
    if model is None:
        if not DEFAULT.is_file():
            raise ConfigError(
                f"no --model given, and the default weights are not at {DEFAULT}; "
                f"allowed: a checkpoint file, {', '.join(PUBLISHED)}"
            )
        return DEFAULT
    path = Path(model)
    if path.exists():
        return path
    name = os.fspath(model)
    if name in PUBLISHED:
        return fetch(name)
    if name in BUNDLED:
        return BUNDLED[name]
    names = [*BUNDLED, *PUBLISHED]
    raise ConfigError(
        f"{key}: {name!r} is neither a file nor a known name{did_you_mean(name, names)}; "
        f"allowed: a checkpoint file, {', '.join(names)}"
    )


def cache_folder() -> Path:
    """Where fetched weights are kept: $LIIF_CACHE, else `liif` in the user's cache folder."""
    chosen = os.environ.get("LIIF_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liif"


def fetch(name: str) -> Path:
    """Published weights from the cache, or from their address into the cache.

    Raises:
        DataError: they can't be had, or another file has their place; the line says what to do.
    """
    published = PUBLISHED[name]
    path = cache_folder() / f"{name}.pth"
    if path.is_file():
        found = file_sha256(path)
        if found != published.sha256:
            raise DataError(
                f"{path}: not {name}: SHA-256 {found}, {published.sha256} expected; delete it to "
                "have it fetched anew"
            )
        return path
    site = users_mirror()
    url = published.url if site is None else f"{site.rstrip('/')}/{path.name}"
    try:
        return download(url, path, published.bytes, published.sha256)
    except DataError as error:
        raise DataError(
            f"{error}; without a network, save the file as {path} "
            f"({published.bytes} bytes, SHA-256 {published.sha256}), or name a folder on the web "
            f"that has it by {MIRROR}"
        ) from error


def is_safetensors(path: Path) -> bool:
    """Whether a file starts as an export, or has its ending: a length in 8 bytes, then JSON."""
    with file_errors(path, "read"):
        if path.is_dir():
            return False
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{" or path.suffix.lower() == ".safetensors"


def read_safetensors(path: Path) -> dict[str, Any]:
    """An export as a checkpoint: `{"model": {name, args, sd}}`.

    Raises:
        ConfigError: the package safetensors is missing.
        DataError: no readable export of this project.
    """
    safetensors = import_optional("safetensors.torch", "to read .safetensors files")
    try:
        with file_errors(path, "read"), safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        spec = json.loads(metadata.get("model", "null"))
        norm = json.loads(metadata.get("data_norm", "null"))
    except DataError:
        raise
    except Exception as error:  # a damaged file raises the package's own errors, or json's
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: damaged, or no safetensors file ({reason})") from error
    if not isinstance(spec, dict):
        raise DataError(f"{path}: no model (its metadata has no specification)")
    checkpoint = {"model": {**spec, "sd": state}, "config": {"data_norm": norm}}
    problem = layout_problem(checkpoint)
    if problem:
        raise DataError(f"{path}: no model ({problem})")
    return checkpoint


def write_safetensors(path: Path, spec: Mapping[str, Any], model: nn.Module) -> None:
    """Write weights, with specification {name, args} and normalisation in the file's metadata.

    Raises:
        ConfigError: the package safetensors is missing.
        DataError: the file can't be written; what was there under that name is untouched.
    """
    safetensors = import_optional("safetensors.torch", "to write .safetensors files")
    metadata = {
        "format": "pt",
        "model": json.dumps({key: spec[key] for key in ("name", "args")}),
        "data_norm": json.dumps(dataclasses.asdict(norm_of(model))),
    }
    state = model.state_dict()
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write_whole(path, safetensors.save(tensors, metadata))


def import_optional(module: str, purpose: str) -> Any:
    """A module that is needed only for this purpose.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0].replace("_", "-")
        raise ConfigError(
            f"the package {package} is needed {purpose}; install it with: pip install {package}"
        ) from error
