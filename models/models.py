"""The registry of models, and building one from its specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from registry import Registry, listed
from utils import DataError

models_registry = Registry("model")
register = models_registry.register
WRAPPERS = ("module", "_orig_mod")  # what DataParallel and torch.compile put into weights' names


def make(
    spec: Mapping[str, Any], args: Mapping[str, Any] | None = None, load_sd: bool = False
) -> nn.Module:
    """Build the model of a specification, on the default device, weights drawn from torch's RNG.

    Args:
        spec: `{name, args?, sd?}`; left as it is.
        args: override the arguments of the specification.
        load_sd: load the state dict `spec["sd"]` (`load_weights`).

    Raises:
        ConfigError: an unknown name or argument, a missing one, or an invalid value.
        DataError: there is no state dict, or it does not fit the model.
    """
    model = models_registry.make(spec, args)
    if load_sd:
        load_weights(model, spec.get("sd"), spec["name"])
    return model


def load_weights(model: nn.Module, state: Any, name: str) -> None:
    """Load a state dict that has to fit exactly, but for what wrappers add to its names.

    Raises:
        DataError: in one line, what does not fit.
    """
    model.load_state_dict(fitting_weights(model, state, name), strict=True)


def fitting_weights(model: nn.Module, state: Any, name: str) -> Mapping[str, Tensor]:
    """A state dict under the model's own names; errors as `load_weights`."""
    if not isinstance(state, Mapping):
        raise DataError(f"model {name!r}: the checkpoint holds no state dict ('sd')")
    expected = model.state_dict()
    plain = {key if key in expected else unwrapped(key): value for key, value in state.items()}
    state = plain if len(plain) == len(state) else state  # unless a weight is there twice
    strangers = [key for key in state if key not in expected]
    missing = [key for key in expected if key not in state]
    there = [key for key in expected if key in state]
    misfits = [
        f"{key} {given} instead of {tuple(expected[key].shape)}"
        for key in there
        if (given := shape_of(state[key])) != tuple(expected[key].shape)
    ]
    kinds = [
        f"{key} {state[key].dtype} instead of {expected[key].dtype}"
        for key in there
        if isinstance(state[key], Tensor)
        and state[key].is_floating_point() != expected[key].is_floating_point()
    ]
    weights = [] if misfits or kinds else [key for key, _ in model.named_parameters()]
    real = [key for key in weights if key in state and not state[key].is_meta]
    spoilt = [key for key in real if not bool(state[key].isfinite().all())]
    problems = {
        "missing": missing,
        "unknown": strangers,
        "shape of": misfits,
        "type of": kinds,
        "not finite:": spoilt,
    }
    complaints = [f"{words} {few(keys)}" for words, keys in problems.items() if keys]
    if complaints:
        raise DataError(f"the weights do not fit model {name!r}: {'; '.join(complaints)}")
    return state


def unwrapped(key: Any) -> str:
    """The name of a weight before DataParallel or torch.compile wrapped its module or a part."""
    return ".".join(part for part in str(key).split(".") if part not in WRAPPERS)


def shape_of(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else f"({type(value).__name__})"


def few(names: list[str], shown: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return listed(names[:shown]) + more
