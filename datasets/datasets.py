"""The registry of data sets and of the wrappers around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from registry import Registry, Thing

datasets_registry = Registry("data set")


def register(name: str) -> Callable[[Thing], Thing]:
    """Decorator that makes a class or function available to configurations under a name.

    A data set has a length, and item i is a picture (3, H, W), float32 in [0, 1], or a tuple of
    such pictures (low resolution, high resolution). Two optional methods make it faster and its
    errors clearer: `pixels(i)`, a tuple of uint8 arrays (H, W, 3), and `names(i)`, a tuple of
    file names.
    """
    return datasets_registry.register(name)


def make(spec: Mapping[str, Any], args: Mapping[str, Any] | None = None) -> Any:
    """Build the data set or wrapper that `spec` = `{name, args}` describes.

    Args:
        spec: left as it is.
        args: override the arguments of `spec`; a wrapper gets its data set so: `{"dataset": ...}`.

    Raises:
        ConfigError: an unknown name or argument, or a value that it can't take.
        DataError: files that are missing or broken.
    """
    return datasets_registry.make(spec, args)
