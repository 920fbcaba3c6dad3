"""Entry points for `torch.hub.load`: models by name or file, photographs as functions.

    model = torch.hub.load("OWNER/REPOSITORY", "edsr_baseline_liif")
    image = torch.hub.load("OWNER/REPOSITORY", "continuous_image", "photo.jpg")

This project's packages have names that a caller may use, too (`utils`, `models`, `datasets`,
`engine`, `registry`). While an entry point runs, these names mean ours; before and after, what they
mean to the caller. What the entry points return works without the names, but can't be pickled
whole: keep `model.state_dict()`, or `ContinuousImage.save`.
"""

from __future__ import annotations

# Modules rather than names out of them: torch.hub lists every public name that can be called.
import contextlib
import os
import pathlib
import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch
    from torch import Tensor, nn

    from engine.render import ContinuousImage

dependencies = ["torch", "numpy", "PIL", "pyvips", "tqdm"]

_ROOT = str(pathlib.Path(__file__).resolve().parent)
_NAMES = ("utils", "registry", "models", "datasets", "engine")
# Where our modules stay between calls, which have to find the same classes and registries. Among
# Python's modules under a name of its own, because torch.hub runs this file anew for each call.
_kept = sys.modules.setdefault(f"liif modules of {_ROOT}", types.ModuleType("liif modules"))


@contextlib.contextmanager
def _our_names() -> Iterator[None]:
    """Our modules under their names, and afterwards again the caller's."""
    theirs = _take_out()
    sys.modules.update(vars(_kept).get("modules", {}))
    sys.path.insert(0, _ROOT)
    try:
        yield
    finally:
        sys.path.remove(_ROOT)
        vars(_kept)["modules"] = _take_out()
        sys.modules.update(theirs)


def _take_out() -> dict[str, types.ModuleType]:
    """Remove and return what is now imported under the names of our packages."""
    found = [name for name in sys.modules if name.split(".")[0] in _NAMES]
    return {name: sys.modules.pop(name) for name in found}


def liif(
    model: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    raw_weights: bool = False,
) -> nn.Module:
    """A model ready to predict: `model(inp, coord, cell)`, inp in [-1, 1].

    model: a checkpoint or .safetensors file, the name of published weights
        (`edsr-baseline-liif`, `rdn-liif`), or None for the weights that come along.
    raw_weights: not the weights' average, where a checkpoint holds one.
    """
    with _our_names():
        from engine.weights.pretrained import load_model

        return load_model(model, device, raw_weights)


def edsr_baseline_liif(device: str | torch.device = "cpu") -> nn.Module:
    """The published EDSR-baseline-LIIF (19 MB, fetched once)."""
    return liif("edsr-baseline-liif", device)


def rdn_liif(device: str | torch.device = "cpu") -> nn.Module:
    """The published RDN-LIIF (268 MB, fetched once)."""
    return liif("rdn-liif", device)


def continuous_image(
    photo: str | os.PathLike[str] | np.ndarray | Tensor,
    model: str | os.PathLike[str] | nn.Module | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
) -> ContinuousImage:
    """A photograph, represented once, to be rendered at any size: see ContinuousImage.represent."""
    with _our_names():
        from engine.render import ContinuousImage

        return ContinuousImage.represent(photo, model, device=device, precision=precision)
