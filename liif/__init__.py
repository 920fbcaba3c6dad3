"""LIIF from other programs: models by name or file, photographs as functions.

    from liif import ContinuousImage
    photo = ContinuousImage.represent("photo.jpg")
    picture = photo.render(1000, 1500)

The project's packages have names that a caller may use, too (`utils`, `models`, `datasets`,
`engine`, `registry`). While something here is imported or an entry point runs, these names mean
ours; before and after, what they mean to the caller. What comes back works without the names, but
can't be pickled whole: keep `model.state_dict()`, or `ContinuousImage.save`.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from engine.render import ContinuousImage

__version__ = "0.2.0"
__all__ = ["ContinuousImage", "continuous_image", "load_model"]

_HERE = pathlib.Path(__file__).resolve().parent
# Scripts, packages, configurations and weights: inside this package where it was installed from a
# wheel, around it in a checkout.
TREE = _HERE / "tree" if (_HERE / "tree").is_dir() else _HERE.parent
_NAMES = ("utils", "registry", "models", "datasets", "engine")
# Where our modules stay between calls, which have to find the same classes and registries. Among
# Python's modules under a name of its own, because torch.hub may import this file anew.
_kept = sys.modules.setdefault(f"liif modules of {TREE}", types.ModuleType("liif modules"))


@contextlib.contextmanager
def _our_names() -> Iterator[None]:
    """Our modules under their names, and afterwards again the caller's."""
    theirs = _take_out()
    sys.modules.update(vars(_kept).get("modules", {}))
    sys.path.insert(0, str(TREE))
    try:
        yield
    finally:
        sys.path.remove(str(TREE))
        vars(_kept)["modules"] = _take_out()
        sys.modules.update(theirs)


def _take_out() -> dict[str, types.ModuleType]:
    """Remove and return what is now imported under the names of our packages."""
    found = [name for name in sys.modules if name.split(".")[0] in _NAMES]
    return {name: sys.modules.pop(name) for name in found}


def __getattr__(name: str) -> Any:
    """`ContinuousImage`, imported when it is first asked for."""
    if name != "ContinuousImage":
        raise AttributeError(f"module 'liif' has no attribute {name!r}")
    with _our_names():
        from engine.render import ContinuousImage

        return ContinuousImage


def load_model(
    model: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    raw_weights: bool = False,
) -> nn.Module:
    """A model ready to predict: `model(inp, coord, cell)`, inp in [-1, 1].

    Args:
        model: a checkpoint or .safetensors file, the name of published weights
            (`edsr-baseline-liif`, `rdn-liif`), or None for the bundled compact model.
        device: where it computes.
        raw_weights: not the EMA weights, where a checkpoint holds them.
    """
    with _our_names():
        from engine.weights.pretrained import load_model

        return load_model(model, device, raw_weights)


def continuous_image(
    photo: str | os.PathLike[str] | Image | np.ndarray | Tensor,
    model: str | os.PathLike[str] | nn.Module | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
) -> ContinuousImage:
    """A photograph, represented once, to be rendered at any size: see ContinuousImage.represent."""
    with _our_names():
        from engine.render import ContinuousImage

        return ContinuousImage.represent(photo, model, device=device, precision=precision)
