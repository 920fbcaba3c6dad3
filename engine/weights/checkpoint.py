"""Checkpoints: written so that no half file is ever left, read so that no file can run code.

A checkpoint holds the published `{"model": {name, args, sd}, "optimizer": {name, args, sd},
"epoch": int}`; what else a run needs to go on stands beside these keys, and the published code
reads such files too.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import shlex
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import models
from datasets.files import file_errors, write_whole
from engine.normalisation import recorded_norm
from utils import ConfigError, DataError, UserError

MAX_VALUES = 1_000_000  # a checkpoint of 22 million weights holds some thousand values
"""Tensors, numbers and texts in a checkpoint, which may name one of them many times."""
UNKNOWN_MODEL = ": unknown model "  # as registry.unknown words it
MAX_PATH = 10**4
"""Characters of the keys that lead to one of them."""
MODEST = 1000
"""What a specification may ask for whatever its weights, as the range of colours."""
KEEP_PLAIN = (
    "import sys, torch; old = torch.load(sys.argv[1], 'cpu', weights_only=False); "
    "kept = ('model', 'optimizer', 'ema', 'epoch', 'state_dict'); "
    "torch.save({key: old[key] for key in kept if key in old}, sys.argv[2])"
)


def save_checkpoint(path: str | Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint, a checksum of its tensors added, in one piece or not at all.

    Raises:
        DataError: the file can't be written; what was there under that name is untouched.
    """
    write_whole(path, serialise(checkpoint))


def serialise(checkpoint: Mapping[str, Any]) -> memoryview:
    """The bytes of a checkpoint file, a checksum of its tensors among them."""
    buffer = io.BytesIO()
    torch.save({**checkpoint, "checksum": checksum(checkpoint)}, buffer)
    return buffer.getbuffer()


def checksum(value: Any) -> str:
    """SHA-256 over the names, types, shapes and numbers of all tensors inside a checkpoint."""
    digest = hashlib.sha256()
    for path, tensor in tensors(value):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{path} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside nested dictionaries, lists and tuples, with its path."""
    return ((path, part) for path, part in parts(value) if isinstance(part, Tensor))


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """A value and all that it holds in nested dictionaries, lists and tuples, with the paths."""
    waiting = [("", value)]
    while waiting:
        path, part = waiting.pop()
        yield path, part
        if isinstance(part, (Mapping, list, tuple)):
            items = [*part.items()] if isinstance(part, Mapping) else [*enumerate(part)]
            waiting += [(f"{path}/{key}", item) for key, item in reversed(items)]


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, ours or a published one, onto the CPU.

    Nothing inside a file can run: only tensors, numbers, texts and their containers are accepted.
    NumPy's numbers become Python's.

    Raises:
        DataError: missing, truncated or damaged, holds code, or is no checkpoint.
    """
    path = Path(path)
    return as_checkpoint(read_tensors(path), path)


def as_checkpoint(checkpoint: Any, path: Path) -> dict[str, Any]:
    """What `read_tensors` found in a file, if it is a whole checkpoint; else DataError."""
    problem = layout_problem(checkpoint)
    if problem:
        raise DataError(f"{path}: no checkpoint ({problem})")
    recorded = checkpoint.get("checksum")
    rest = {key: value for key, value in checkpoint.items() if key != "checksum"}
    if recorded is not None and recorded != checksum(rest):
        raise DataError(f"{path}: damaged (its tensors do not match its checksum)")
    return checkpoint


class NumberKind:
    """Stands for `numpy.dtype` while a file is read: what a pickled number is."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code
        self.order: Any = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def number_of(kind: NumberKind, content: bytes) -> Any:
    """Stands for NumPy's function that makes a scalar of its bytes; gives a Python value."""
    dtype = np.dtype(kind.code)
    if dtype.kind not in "biufSU":
        raise ValueError(f"Unsupported GLOBAL numpy.{dtype.name}")  # as torch words it
    return np.frombuffer(content, dtype.newbyteorder(kind.order), count=1)[0].item()


STAND_INS: list[Any] = [
    (NumberKind, "numpy.dtype"),
    (number_of, "numpy.core.multiarray.scalar"),  # NumPy 1
    (number_of, "numpy._core.multiarray.scalar"),  # NumPy 2
]


def read_tensors(path: Path) -> Any:
    """What `torch.load` reads when it accepts tensors and plain values only."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; allowed: a checkpoint file")
    try:
        with file_errors(path, "read"), open(path, "rb") as file:
            first = file.read(1)
    except ValueError as error:  # a name that no file can have
        raise DataError(f"{str(path)!r}: can't be read ({error})") from error
    try:
        check_archive(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(STAND_INS):
            warnings.simplefilter("ignore")  # about formats that torch.load tells apart itself
            content = torch.load(path, map_location="cpu", weights_only=True)
        for number, (name, part) in enumerate(parts(content)):
            # A few bytes can stand for any number of values, or for a value inside itself ...
            if number > MAX_VALUES or len(name) > MAX_PATH:
                raise DataError(f"{path}: no checkpoint (it holds more than {MAX_VALUES} values)")
            # ... and, by strides of 0, for a tensor of any size.
            if isinstance(part, Tensor) and (
                part.layout != torch.strided or part.nbytes > part.untyped_storage().nbytes()
            ):
                raise DataError(f"{path}: damaged (the tensor {name} is larger than its data)")
    except DataError:
        raise
    except Exception as error:  # a damaged file makes torch.load raise anything
        raise DataError(f"{path}: {load_reason(path, error, first)}") from error
    return content


def check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than its size, or whose parts have changed.

    `torch.load` looks at neither.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            start = file.read(4)
        if start and b"PK\3\4".startswith(start):
            raise DataError(f"{path}: damaged (an archive without its end)")
        return
    with zipfile.ZipFile(path) as archive:
        inside = sum(entry.file_size for entry in archive.infolist())
        if inside > path.stat().st_size:
            raise DataError(
                f"{path}: no checkpoint (a compressed archive of {inside} bytes; "
                f"allowed: stored ones, here at most {path.stat().st_size})"
            )
        changed = archive.testzip()
    if changed is not None:
        raise DataError(f"{path}: damaged (its part {changed} does not match its checksum)")


def load_reason(path: Path, error: Exception, first: bytes) -> str:
    """Why a file whose first byte is given could not be loaded, and what helps."""
    text = " ".join(str(error).split())
    if " GLOBAL " in text:
        name = text.split(" GLOBAL ", 1)[1].split()[0]
        files = shlex.join([str(path), str(path.with_name(f"{path.stem}-plain.pth"))])
        return (
            f"refused (it holds code, {name}, instead of tensors alone; if you trust who made it, "
            f'save it again without: python -c "{KEEP_PLAIN}" {files})'
        )
    if first == b"\x80":
        return "refused (a pickle that is damaged, or holds code instead of tensors)"
    if first == b"P":
        return f"damaged ({type(error).__name__}: {text[:80]})"
    return "no checkpoint"


def layout_problem(checkpoint: Any) -> str | None:
    """What keeps a value from being a checkpoint in the published layout, if anything."""
    if not isinstance(checkpoint, dict):
        return f"it holds {type(checkpoint).__name__}; allowed: keys with values"
    spec = checkpoint.get("model")
    if not isinstance(spec, dict):
        return "it has no key `model`"
    for key, kind in (("name", str), ("args", dict), ("sd", dict)):
        if not isinstance(spec.get(key), kind):
            return f"its model has no {key}"
    if not all(isinstance(value, Tensor) for value in spec["sd"].values()):
        return "its model's sd holds something else than tensors"
    epoch = checkpoint.get("epoch", 0)
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        return f"its epoch is {str(epoch)[:40]}"
    for key in ("optimizer", "ema", "config", "scaler", "rng"):
        if not isinstance(checkpoint.get(key, {}), (dict, type(None))):
            return f"its {key} holds no keys with values"
    return None


def model_of(
    checkpoint: Mapping[str, Any], path: str | Path, raw_weights: bool = False
) -> nn.Module:
    """The model that a loaded checkpoint describes, with its weights, on the CPU.

    It carries the normalisation that it was trained with (`engine.normalisation.norm_of`).

    Args:
        path: the file it was read from, for messages.
        raw_weights: the weights as trained, also where the checkpoint holds their average, `ema`.

    Raises:
        DataError: weights that do not fit the specification beside them.
    """
    use_ema = checkpoint.get("ema") is not None and not raw_weights
    weights = checkpoint["ema"] if use_ema else checkpoint["model"]["sd"]
    numbers = sum(value.numel() for value in weights.values() if isinstance(value, Tensor))
    for _, size in parts(checkpoint["model"]["args"]):
        # Before so much is built: every layer, channel and block has weights of its own.
        if isinstance(size, (int, float)) and size > max(numbers, MODEST):
            raise DataError(f"{path}: the weights do not fit its model: {size} is asked for there")
    try:
        model = models.make({**checkpoint["model"], "sd": weights}, load_sd=True)
        check_answers(model, checkpoint["model"]["name"])
        model.data_norm = recorded_norm(checkpoint)  # type: ignore[assignment]
        model.trained_scale = trained_scale(checkpoint)  # type: ignore[assignment]
        return model
    except (UserError, ValueError) as error:
        note = own_code_note(checkpoint) if UNKNOWN_MODEL in str(error) else ""
        raise DataError(f"{path}: {' '.join(str(error).split())}{note}") from error


def trained_scale(checkpoint: Mapping[str, Any]) -> float | None:
    """The largest enlargement that a checkpoint's run trained for, where its settings tell."""
    value: Any = checkpoint.get("config")
    for key in ("train_dataset", "wrapper", "args"):
        value = value.get(key) if isinstance(value, Mapping) else None
    args = value if isinstance(value, Mapping) else {}
    value = args.get("scale_max") or args.get("scale_min")
    values = value if isinstance(value, (list, tuple)) else [value]
    return max((float(one) for one in values if type(one) in (int, float)), default=None)


def own_code_note(checkpoint: Mapping[str, Any]) -> str:
    """What to do about a model of the user's own, whose code a checkpoint never imports."""
    recorded = (checkpoint.get("config") or {}).get("imports")
    names = recorded if isinstance(recorded, list) else ["MODULE"]
    options = " ".join(f"--import {shlex.quote(str(name))}" for name in names)
    return f"; a model of your own: import its code first ({options})"


def check_answers(model: nn.Module, name: str) -> None:
    """Raises ConfigError where a model gives no colours for (inp, coord, cell), or only at once."""
    try:
        inspect.signature(model.forward).bind("inp", "coord", "cell")
    except TypeError:
        raise ConfigError(
            f"model.name: {name!r} given; allowed: models of (inp, coord, cell), such as liif"
        ) from None
    if not all(hasattr(model, method) for method in ("gen_feat", "query_rgb")):
        raise ConfigError(
            f"model.name: {name!r} given; allowed: models with gen_feat(inp) and "
            "query_rgb(feat, coord, cell), by which they are tested and rendered"
        )
