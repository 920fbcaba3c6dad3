"""Configuration files as nested dictionaries: read, inherited from each other, overridden."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from datasets.degrade import Degrade
from datasets.files import PROJECT, file_errors, found_path
from engine.imports import found_imports
from registry import show
from utils import ConfigError

BASE = "base"
"""The key that names the file which a configuration inherits from."""


class Layer(NamedTuple):
    """What one file says by itself, and its name for messages."""

    name: str
    values: dict[str, Any]


def read_layers(path: Path, *, inherit: bool = True) -> list[Layer]:
    """A configuration file and those it inherits from by `base`, the one named first in front.

    Args:
        inherit: whether `base` is taken so, and not as one of the values.

    Raises:
        ConfigError: a file that can't be read, no YAML, or a file that inherits from itself.
    """
    layers: list[Layer] = []
    seen: list[Path] = []
    named: Path | None = path
    while named is not None:
        found = found_path(named)
        if found.resolve() in seen:
            chain = " -> ".join([*(layer.name for layer in layers), str(named)])
            raise ConfigError(f"{path}: base: inherits from itself ({chain})")
        seen.append(found.resolve())
        values = load_yaml(named)
        if "imports" in values:
            values["imports"] = found_imports(values["imports"], found.parent)
        base = values.pop(BASE, None) if inherit else None
        layers.append(Layer(str(named), values))
        if base is not None and not (isinstance(base, str) and base):
            raise ConfigError(f"{named}: base: {show(base)} given; allowed: a configuration file")
        named = None if base is None else base_path(found, base)
    return layers


def base_path(file: Path, base: str) -> Path:
    """The file that `base` names in a file: from its folder, else from the project's own."""
    beside, own = file.parent / base, PROJECT / base
    return own if own.is_file() and not beside.exists() else beside


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """The values of a file over those that it inherits; their `imports` add up."""
    whole: dict[str, Any] = {}
    for layer in reversed(layers):
        before = whole.get("imports")
        whole = over(layer.values, whole)
        if isinstance(before, list) and isinstance(whole["imports"], list):
            whole["imports"] = before + [name for name in whole["imports"] if name not in before]
    return whole


def over(new: Any, old: Any) -> Any:
    """`new` where it says something, else `old`.

    Keys of mappings are merged, one by one. What is no mapping is replaced whole, and so is a
    specification {name, args} by one of another name, whose arguments are others.
    """
    if not isinstance(new, Mapping) or not isinstance(old, Mapping):
        return new
    if "name" in new and "name" in old and new["name"] != old["name"]:
        return new
    return {**old, **{key: over(new[key], old.get(key)) for key in new}}


def with_origin(problem: str, layers: Sequence[Layer], overrides: Sequence[str]) -> str:
    """A problem `KEY.PATH: ...`, and the file that its value is inherited from, if it is."""
    keys = re.split(r"\.|\[|\]\.?", problem.split(": ", 1)[0].removesuffix("]"))
    changes: dict[str, Any] = {}
    apply_overrides(changes, overrides)
    for number, values in enumerate([changes, *(layer.values for layer in layers)]):
        if holds(values, keys):
            return f"{problem} (from {layers[number - 1].name})" if number > 1 else problem
    return problem


def holds(values: Any, keys: Sequence[str]) -> bool:
    """Whether nested values say something under a path of keys."""
    for key in keys:
        if isinstance(values, Mapping) and key in values:
            values = values[key]
        elif isinstance(values, list) and key.isdecimal() and int(key) < len(values):
            values = values[int(key)]
        else:
            return False
    return True


def load_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file holds, read without building any Python object.

    Raises:
        ConfigError: no such file, not YAML, or not keys with values.
    """
    raw = parse_yaml(read_text(path), str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: {show(raw)} given; allowed: keys with values")
    return raw


def read_degrade(path: Path) -> Degrade:
    """The steps of damage that a YAML file lists (docs/degradations.md).

    Raises:
        ConfigError: no such file, not YAML, or steps that are no good, all told at once.
    """
    steps = parse_yaml(read_text(path), str(path))
    if steps == []:
        raise ConfigError(f"{path}: no steps given; allowed: a list of one or more")
    return Degrade(steps, str(path))


def read_text(path: Path) -> str:
    """A text file, from here or of the project. Raises ConfigError where there is none."""
    try:
        with file_errors(path, "read", kind=ConfigError):
            return found_path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no YAML (not UTF-8 text)") from error


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML without Python objects, and with every key once; PyYAML would keep the last of two.

    Raises:
        ConfigError: a key given twice in one mapping. One that is merged by `<<` doesn't count.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"{key.value!r} given again in line {line}; allowed: once")
            seen.add((key.tag, key.value))
        return node


def parse_yaml(text: str, where: str) -> Any:
    """A text as YAML; ConfigError, in one line that starts with `where`, if it is none."""
    try:
        return yaml.load(text, UniqueKeyLoader)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1} column {mark.column + 1}" if mark is not None else ""
        reason = " ".join(str(problem).split()) + place
        raise ConfigError(f"{where}: no YAML ({reason})") from error


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set values by their dotted paths: `optimizer.args.lr=1e-3`, `train_dataset.batch_size=8`.

    Steps of a path that do not exist are made; a step into a list is its index.

    Raises:
        ConfigError: no `=`, a path that leads through a value, or a value that is no YAML.
    """
    for override in overrides:
        path, separator, text = override.partition("=")
        keys = path.split(".")
        if not separator or not all(keys):
            raise ConfigError(f"--set: {override!r} given; allowed: KEY.PATH=VALUE")
        value = parse_yaml(text, f"--set {path}")
        place: Any = raw
        for position, key in enumerate(keys, 1):
            step: Any = key
            if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
                step = int(key)
            elif not isinstance(place, dict):
                raise ConfigError(
                    f"--set {path}: {key!r} leads nowhere; allowed: keys of the configuration"
                )
            if position == len(keys):
                place[step] = value
            elif isinstance(place, dict) and place.get(step) is None:
                place[step] = {}
            place = place[step]
