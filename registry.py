"""Names for models and data sets, and the one reader of their settings.

What a setting may be is said once, where it is used: in the signature of the class or function
that takes it, or in the fields of a dataclass. `read_value` reads YAML values against such
annotations and collects every problem, so that the user hears of all of them at once.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

from utils import ConfigError, did_you_mean

LARGEST = 2**63 - 1  # of the integers that torch takes
Thing = TypeVar("Thing", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """`Annotated[int, AtLeast(1)]`: a number no smaller than this."""

    bound: float

    def allows(self, value: Any) -> bool:
        return value >= self.bound

    def __str__(self) -> str:
        return f"of at least {self.bound}"


@dataclasses.dataclass(frozen=True)
class AtMost:
    """`Annotated[float, AtMost(1)]`: a number no larger than this."""

    bound: float

    def allows(self, value: Any) -> bool:
        return value <= self.bound

    def __str__(self) -> str:
        return f"of at most {self.bound}"


@dataclasses.dataclass(frozen=True)
class Above:
    """`Annotated[float, Above(0)]`: a number larger than this."""

    bound: float

    def allows(self, value: Any) -> bool:
        return value > self.bound

    def __str__(self) -> str:
        return f"above {self.bound}"


@dataclasses.dataclass(frozen=True)
class SpecOf:
    """`Annotated[dict, SpecOf(registry)]`: a nested `{name, args}` of that registry.

    `supplied` names the arguments that code fills in: not to be given in the specification;
    `overridden` those that it sets whatever is given there.
    """

    registry: Registry
    supplied: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()

    def read(self, spec: Any, path: str, problems: list[str]) -> dict[str, Any]:
        """The specification checked by the registry; problems are appended."""
        if isinstance(spec, Mapping) and isinstance(spec.get("args"), Mapping):
            kept = {key: arg for key, arg in spec["args"].items() if key not in self.overridden}
            spec = {**spec, "args": kept}
        return self.registry.check(spec, path, problems, self.supplied + self.overridden)


class Registry:
    """Builds things by name from specifications `{name, args}`.

    Args:
        kind: what the names stand for, for messages: "model", "data set".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.makers: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Thing], Thing]:
        """Decorator that gives a class or function a name; a name can be taken only once."""

        def decorate(maker: Thing) -> Thing:
            if name in self.makers:
                raise ConfigError(f"{self.kind} {name!r} is registered already")
            self.makers[name] = maker
            return maker

        return decorate

    def make(self, spec: Mapping[str, Any], args: Mapping[str, Any] | None = None) -> Any:
        """Build what `spec` describes; `args` override its arguments. `spec` stays as it is.

        Raises:
            ConfigError: an unknown name or argument, a missing one, or a value it can't take.
        """
        given = dict(args or {})
        problems: list[str] = []
        if given and isinstance(spec, Mapping) and isinstance(spec.get("args"), Mapping):
            kept = {key: value for key, value in spec["args"].items() if key not in given}
            spec = {**spec, "args": kept}
        checked = self.check(spec, self.kind, problems, supplied=given)
        if checked["name"] in self.makers:
            parameters = inspect.signature(self.makers[checked["name"]]).parameters
            check_keys(given, parameters, f"{self.kind}.args", problems)
        if problems:
            raise ConfigError("; ".join(problems))
        return self.makers[checked["name"]](**{**checked["args"], **given})

    def check(
        self,
        spec: Any,
        path: str,
        problems: list[str],
        supplied: Collection[str] = (),
    ) -> dict[str, Any]:
        """A normalised copy of `spec`, its values read by the types of the maker's signature.

        Args:
            spec: `{name, args?, sd?}`.
            path: where the specification stands, for messages.
            problems: every problem found is appended here, one line each.
            supplied: arguments that code fills in, neither required nor allowed here.
        """
        if not isinstance(spec, Mapping):
            problems.append(f"{path}: {show(spec)} given; allowed: a {self.kind} as {{name, args}}")
            return {"name": "", "args": {}}
        check_keys(spec, ("name", "args", "sd"), path, problems)
        name, args = spec.get("name"), spec.get("args")
        if "name" not in spec:
            problems.append(f"{path}.name: missing; allowed: {listed(self.makers)}")
        elif not isinstance(name, str) or name not in self.makers:
            problems.append(unknown(f"{path}.name", f"{self.kind} ", name, self.makers))
        args = {} if args is None else args
        if not isinstance(args, Mapping):
            problems.append(f"{path}.args: {show(args)} given; allowed: names with values")
            return {"name": name, "args": {}}
        checked = {"sd": spec["sd"]} if "sd" in spec else {}
        if not isinstance(name, str) or name not in self.makers:
            return {"name": name, "args": dict(args), **checked}
        read = self.check_args(name, args, f"{path}.args", problems, supplied)
        return {"name": name, "args": read, **checked}

    def check_args(
        self,
        name: str,
        args: Mapping[str, Any],
        path: str,
        problems: list[str],
        supplied: Collection[str],
    ) -> dict[str, Any]:
        """The given arguments of one maker, read; problems are appended."""
        maker = self.makers[name]
        hints = parameter_hints(maker)
        before = len(problems)
        parameters = {
            key: parameter
            for key, parameter in inspect.signature(maker).parameters.items()
            if key not in supplied
        }
        check_keys(args, parameters, path, problems)
        read = {}
        for key, parameter in parameters.items():
            if key in args:
                hint = hints.get(key, Any)
                read[key] = read_value(hint, args[key], f"{path}.{key}", problems)
            elif parameter.default is inspect.Parameter.empty:
                problems.append(f"{path}.{key}: missing; allowed: {describe(hints.get(key, Any))}")
        check_together = getattr(maker, "check_args", None)
        if check_together is not None and len(problems) == before:
            defaults = {
                key: parameter.default
                for key, parameter in parameters.items()
                if parameter.default is not inspect.Parameter.empty
            }
            problems += [f"{path}.{text}" for text in check_together({**defaults, **read})]
        return read


def parameter_hints(maker: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of what a maker is called with: a class's constructor, or the function."""
    target = maker.__init__ if inspect.isclass(maker) else maker
    return typing.get_type_hints(target, include_extras=True)


def read_value(annotation: Any, value: Any, path: str, problems: list[str]) -> Any:
    """`value`, as YAML gave it, read as `annotation` says; problems are appended, one line each.

    Understood are bool, int, float, str, dict, Any, None, Literal, unions, list[X], tuple[X, Y],
    tuple[X, ...], frozen dataclasses (from mappings), and Annotated with bounds or `SpecOf`. A
    float may be written as an integer or as text that reads as a number ("1e-4" is text to YAML).
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return copy.deepcopy(value)
    if origin is Annotated:
        return read_annotated(annotation, value, path, problems)
    if origin in (Union, types.UnionType):
        return read_union(annotation, parts, value, path, problems)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in parts):
            return value
        problems.append(refusal(path, value, annotation) + did_you_mean(value, parts))
        return value
    if origin in (list, tuple):
        return read_sequence(annotation, origin, parts, value, path, problems)
    if dataclasses.is_dataclass(annotation):
        return read_dataclass(annotation, value, path, problems)
    return read_scalar(annotation, value, path, problems)


def read_scalar(annotation: Any, value: Any, path: str, problems: list[str]) -> Any:
    if annotation in (None, type(None)) and value is None:
        return None
    if annotation is float:
        number = as_number(value)
        if number is not None:
            return number
    elif annotation is int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if abs(value) > LARGEST:
                problems.append(f"{path}: {show(value)} given; allowed: up to {LARGEST}")
            return value
    elif annotation is dict or typing.get_origin(annotation) is dict:
        if isinstance(value, Mapping):
            return copy.deepcopy(dict(value))
    elif isinstance(annotation, type) and isinstance(value, annotation):
        return value
    problems.append(refusal(path, value, annotation))
    return value


def as_number(value: Any) -> float | int | None:
    """A finite number, or text that reads as one; None for anything else. Integers stay so."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, (int, float)) and math.isfinite(value):
        return value
    return None


def read_annotated(annotation: Any, value: Any, path: str, problems: list[str]) -> Any:
    base, *extras = typing.get_args(annotation)
    for extra in extras:
        if isinstance(extra, SpecOf):
            return extra.read(value, path, problems)
    found: list[str] = []
    read = read_value(base, value, path, found)
    refused = any(not bound.allows(read) for bound in bounds_among(extras)) if not found else False
    too_large = isinstance(read, int) and abs(read) > LARGEST
    if refused or (found and base in (int, float) and not too_large):
        found = [refusal(path, value, annotation)]
    problems += found
    return read


def bounds_among(extras: Iterable[Any]) -> list[AtLeast | AtMost | Above]:
    return [extra for extra in extras if isinstance(extra, (AtLeast, AtMost, Above))]


def read_union(
    annotation: Any, parts: Iterable[Any], value: Any, path: str, problems: list[str]
) -> Any:
    """The first alternative that takes the value; where none does, the most telling complaint."""
    complaints: list[list[str]] = []
    for part in parts:
        found: list[str] = []
        read = read_value(part, value, path, found)
        if not found:
            return read
        complaints.append(found)
    inner = [found for found in complaints if not found[0].startswith(f"{path}: ")]
    if inner:
        problems += inner[0]
    else:
        problems.append(refusal(path, value, annotation))
    return value


def read_sequence(
    annotation: Any,
    origin: type,
    parts: tuple[Any, ...],
    value: Any,
    path: str,
    problems: list[str],
) -> Any:
    if not isinstance(value, (list, tuple)):
        problems.append(refusal(path, value, annotation))
        return value
    if origin is list or parts[-1] is Ellipsis:
        kinds = [parts[0]] * len(value)
    elif len(parts) == len(value):
        kinds = list(parts)
    else:
        problems.append(refusal(path, value, annotation))
        return value
    pairs = zip(kinds, value, strict=True)
    return origin(read_value(k, v, f"{path}[{i}]", problems) for i, (k, v) in enumerate(pairs))


def read_dataclass(cls: Any, value: Any, path: str, problems: list[str]) -> Any:
    """A dataclass from a mapping; None where there are problems."""
    prefix = f"{path}." if path else ""
    if not isinstance(value, Mapping):
        problems.append(
            f"{path or 'configuration'}: {show(value)} given; allowed: keys with values"
        )
        return None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls, include_extras=True)
    before = len(problems)
    check_keys(value, fields, path, problems)
    read = {}
    for key, field in fields.items():
        if key in value:
            found: list[str] = []
            given = read_value(hints[key], value[key], prefix + key, found)
            read[key] = None if found else given
            problems += found
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{prefix}{key}: missing; allowed: {describe(hints[key])}")
    sound = len(problems) == before
    # What could not be read is None: the checks of several values go as far as they can.
    made = cls(**{**dict.fromkeys(fields), **read}) if not sound else cls(**read)
    check_together = getattr(made, "problems", None)
    if check_together is not None:
        missing = () if sound else (AttributeError, LookupError, TypeError)
        with contextlib.suppress(*missing):
            for text in check_together():
                problems.append(prefix + text)
    return made if sound else None


def check_keys(
    mapping: Mapping[Any, Any], allowed: Collection[str], path: str, problems: list[str]
) -> None:
    """A problem for each key that is none of the allowed ones."""
    for key in mapping:
        if key not in allowed:
            shown = key if isinstance(key, str) and key.isprintable() else show(key)
            where = f"{path}.{shown}" if path else shown
            problems.append(unknown(where, "", key, allowed))


def unknown(path: str, kind: str, given: Any, choices: Collection[str]) -> str:
    hint = did_you_mean(given, choices)
    return f"{path}: unknown {kind or 'key '}{show(given)}{hint}; allowed: {listed(choices)}"


def refusal(path: str, value: Any, annotation: Any) -> str:
    return f"{path}: {show(value)} given; allowed: {describe(annotation)}"


def listed(choices: Iterable[Any]) -> str:
    return ", ".join(str(choice) for choice in choices) or "nothing"


def show(value: Any, limit: int = 60) -> str:
    """A value for a one-line message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def describe(annotation: Any) -> str:
    """An annotation in words, for messages."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        for extra in parts[1:]:
            if isinstance(extra, SpecOf):
                return f"a {extra.registry.kind} as {{name, args}}"
        return " and ".join([describe(parts[0]), *map(str, bounds_among(parts[1:]))]).replace(
            " and ", " ", 1
        )
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in parts)
    if origin is Literal:
        return listed(repr(part) for part in parts)
    if origin is list or (origin is tuple and parts[-1] is Ellipsis):
        return f"a list, each {describe(parts[0])}"
    if origin is tuple:
        return f"a list of {len(parts)}, each {describe(parts[0])}"
    if dataclasses.is_dataclass(annotation):
        return f"keys {listed(field.name for field in dataclasses.fields(annotation))}"
    words = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "text",
        dict: "keys with values",
    }
    return words.get(annotation, "none" if annotation in (None, type(None)) else str(annotation))
