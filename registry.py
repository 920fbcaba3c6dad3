"""Registries of models and data sets, and the reader of settings that they share.

What a setting may be is said once, where it is used: in the signature of the class or function
that takes it, or in the fields of a dataclass. `read_value` reads YAML values against such
annotations and collects every problem, so that the user hears of all of them at once.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import dataclasses
import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

from utils import ConfigError, did_you_mean

LARGEST = 2**63 - 1  # of the integers that torch takes
UNREAD = object()
"""In place of a value that could not be read; cross-checks leave it out."""
Thing = TypeVar("Thing", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Bound:
    """`Annotated[int, AtLeast(1)]`: a limit of a number."""

    words: str
    allows: Callable[[float, float], bool]
    limit: float

    def __str__(self) -> str:
        return f"{self.words} {self.limit}"


AtLeast = functools.partial(Bound, "of at least", operator.ge)
Above = functools.partial(Bound, "above", operator.gt)
AtMost = functools.partial(Bound, "of at most", operator.le)
Below = functools.partial(Bound, "below", operator.lt)


class Reader(abc.ABC):
    """`Annotated[dict, reader]`: a value that is read in a way of its own."""

    @abc.abstractmethod
    def read(self, value: Any, path: str, problems: list[str]) -> Any:
        """The value checked, UNREAD where it is another; problems are appended."""

    @abc.abstractmethod
    def __str__(self) -> str:
        """What is allowed, for messages."""


@dataclasses.dataclass(frozen=True)
class SpecOf(Reader):
    """`Annotated[dict, SpecOf(registry)]`: a nested `{name, args}` of that registry.

    `supplied` names the arguments that code fills in: not to be given in the specification;
    `overridden` those that it sets whatever is given there.
    """

    registry: Registry
    supplied: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()

    def read(self, spec: Any, path: str, problems: list[str]) -> Any:
        """The specification checked by the registry; problems are appended."""
        spec = without_args(spec, self.overridden)
        return self.registry.check(spec, path, problems, self.supplied + self.overridden)

    def __str__(self) -> str:
        return f"a {self.registry.kind} as {{name, args}}"


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
            ConfigError: an unknown name or argument, a missing one, or an invalid value.
        """
        given = dict(args or {})
        problems: list[str] = []
        checked = self.check(without_args(spec, given), self.kind, problems, supplied=given)
        if not problems:
            parameters = inspect.signature(self.makers[checked["name"]]).parameters
            check_keys(given, parameters, f"{self.kind}.args", problems)
        if problems:
            raise ConfigError("; ".join(problems))
        return self.makers[checked["name"]](**{**checked["args"], **given})

    def check(
        self, spec: Any, path: str, problems: list[str], supplied: Collection[str] = ()
    ) -> Any:
        """A normalised copy of `spec`, its values read by the types of the maker's signature.

        Args:
            spec: `{name, args?, sd?}`.
            path: where the specification stands, for messages.
            problems: every problem found is appended here, one line each; arguments that could
                not be read are left out of the copy.
            supplied: arguments that code fills in, neither required nor allowed here.
        """
        if not isinstance(spec, Mapping):
            problems.append(f"{path}: {show(spec)} given; allowed: {SpecOf(self)}")
            return UNREAD
        check_keys(spec, ("name", "args", "sd"), path, problems)
        name: Any = spec.get("name")
        args: Any = {} if spec.get("args") is None else spec["args"]
        known = isinstance(name, str) and name in self.makers
        if "name" not in spec:
            problems.append(f"{path}.name: missing; allowed: {listed(self.makers)}")
        elif not known:
            problems.append(unknown(f"{path}.name", self.kind, name, self.makers))
        if not isinstance(args, Mapping):
            problems.append(f"{path}.args: {show(args)} given; allowed: names with values")
            args = {}
        elif known:
            args = self.check_args(name, args, f"{path}.args", problems, supplied)
        kept = {"sd": spec["sd"]} if "sd" in spec else {}
        return {"name": name, "args": dict(args), **kept}

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
        before = len(problems)
        read, flawed = read_arguments(maker, args, path, problems, supplied)
        check_together = getattr(maker, "check_args", None)
        if check_together is not None:
            parameters = inspect.signature(maker).parameters
            values = {key: parameters[key].default for key in parameters if key not in supplied}
            values = {key: value for key, value in {**values, **read}.items() if key not in flawed}
            # A maker's own mistake is to be seen, unless it may come from what is left out.
            missing = (LookupError,) if len(problems) > before else ()
            with contextlib.suppress(*missing):
                for text in check_together(values):
                    problems.append(f"{path}.{text}")
        return {key: value for key, value in read.items() if value is not UNREAD}


def without_args(spec: Any, names: Collection[str]) -> Any:
    """A specification without the arguments of these names; what is none stays as it is."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("args"), Mapping):
        return spec
    return {**spec, "args": {key: arg for key, arg in spec["args"].items() if key not in names}}


def read_arguments(
    maker: Callable[..., Any],
    given: Mapping[Any, Any],
    path: str,
    problems: list[str],
    supplied: Collection[str] = (),
) -> tuple[dict[str, Any], set[str]]:
    """What a function or class, such as a dataclass, is called with, read from a mapping.

    Returns:
        The given and the missing arguments, UNREAD where there is no value; and the names of
        those that have problems.
    """
    hints = typing.get_type_hints(
        maker.__init__ if inspect.isclass(maker) else maker, include_extras=True
    )
    parameters = inspect.signature(maker).parameters
    allowed = {key: parameters[key].default for key in parameters if key not in supplied}
    check_keys(given, allowed, path, problems)
    read, flawed = {}, set()
    for key, default in allowed.items():
        place, hint = f"{path}.{key}" if path else key, hints.get(key, Any)
        before = len(problems)
        if key in given:
            read[key] = read_value(hint, given[key], place, problems)
        elif default is inspect.Parameter.empty:
            problems.append(f"{place}: missing; allowed: {describe(hint)}")
            read[key] = UNREAD
        if len(problems) > before:
            flawed.add(key)
    return read, flawed


def read_dataclass(cls: Any, value: Any, path: str, problems: list[str]) -> Any:
    """A dataclass from a mapping; problems are appended.

    Methods of the class named `check_...` check values together and yield a line a problem. Where
    something could not be read they are given what could, and are skipped if that isn't enough.

    Returns:
        The dataclass; with problems a namespace of what could be read, or UNREAD.
    """
    if not isinstance(value, Mapping):
        place = path or "configuration"
        problems.append(f"{place}: {show(value)} given; allowed: keys with values")
        return UNREAD
    before = len(problems)
    made = cls(**read_arguments(cls, value, path, problems)[0])
    missing: tuple[type[Exception], ...] = ()
    if len(problems) > before:
        read = {key: item for key, item in vars(made).items() if item is not UNREAD}
        made, missing = (
            types.SimpleNamespace(**read),
            (AttributeError, LookupError, ArithmeticError),
        )
    inherited = {
        name: check for base in reversed(cls.__mro__) for name, check in vars(base).items()
    }
    for name, check in inherited.items():
        if name.startswith("check_"):
            with contextlib.suppress(*missing):
                for text in check(made):
                    problems.append(f"{path}.{text}" if path else text)
    return made


def read_value(annotation: Any, value: Any, path: str, problems: list[str]) -> Any:
    """`value`, as YAML gave it, read as `annotation` says; problems are appended, one line each.

    Understood are bool, int, float, str, dict, Any, None, Literal, unions, list[X], tuple[X, Y],
    tuple[X, ...], dataclasses (from mappings), and Annotated with bounds or a `Reader`. A float may
    be written as an integer or as text that reads as a number ("1e-4" is text to YAML).

    Returns:
        The value; UNREAD where it is of another kind; the number where one is out of bounds.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return copy.deepcopy(value)
    if origin is Annotated:
        return read_annotated(annotation, value, path, problems)
    if origin in (Union, types.UnionType):
        return read_union(annotation, value, path, problems)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in parts):
            return value
        problems.append(refusal(path, value, annotation) + did_you_mean(value, parts))
        return UNREAD
    if origin in (list, tuple):
        return read_sequence(annotation, value, path, problems)
    if dataclasses.is_dataclass(annotation):
        return read_dataclass(annotation, value, path, problems)
    return read_scalar(origin or annotation, value, path, problems)


def read_scalar(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    if kind in (None, type(None)) and value is None:
        return None
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
            if math.isfinite(number):
                return number if isinstance(value, str) else value
    elif kind is int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if abs(value) > LARGEST:
                problems.append(f"{path}: {show(value)} given; allowed: up to {LARGEST}")
            return value
    elif kind is dict and isinstance(value, Mapping):
        return copy.deepcopy(dict(value))
    elif isinstance(kind, type) and isinstance(value, kind):
        return value
    problems.append(refusal(path, value, kind))
    return UNREAD


def read_annotated(annotation: Any, value: Any, path: str, problems: list[str]) -> Any:
    base, *extras = typing.get_args(annotation)
    for extra in extras:
        if isinstance(extra, Reader):
            return extra.read(value, path, problems)
    found: list[str] = []
    read = read_value(base, value, path, found)
    bounds = [extra for extra in extras if isinstance(extra, Bound)]
    if bounds and (
        read is UNREAD or not (found or all(bound.allows(read, bound.limit) for bound in bounds))
    ):
        found = [refusal(path, value, annotation)]
    problems += found
    return read


def read_union(annotation: Any, value: Any, path: str, problems: list[str]) -> Any:
    """The first alternative that takes the value; where none does, the most telling complaint."""
    inside = None
    for part in typing.get_args(annotation):
        found: list[str] = []
        read = read_value(part, value, path, found)
        if not found:
            return read
        if inside is None and not found[0].startswith(f"{path}: "):
            inside = found, read
    complaints, read = inside or ([refusal(path, value, annotation)], UNREAD)
    problems += complaints
    return read


def read_sequence(annotation: Any, value: Any, path: str, problems: list[str]) -> Any:
    kind, parts = typing.get_origin(annotation), typing.get_args(annotation)
    uniform = kind is list or parts[-1] is Ellipsis
    if not isinstance(value, (list, tuple)) or not (uniform or len(parts) == len(value)):
        problems.append(refusal(path, value, annotation))
        return UNREAD
    items = [
        read_value(parts[0 if uniform else index], item, f"{path}[{index}]", problems)
        for index, item in enumerate(value)
    ]
    return UNREAD if any(item is UNREAD for item in items) else kind(items)


def check_keys(
    mapping: Mapping[Any, Any], allowed: Collection[str], path: str, problems: list[str]
) -> None:
    """Append a problem for each key that is none of the allowed ones."""
    for key in mapping:
        if key not in allowed:
            shown = key if isinstance(key, str) and key.isprintable() else show(key)
            problems.append(unknown(f"{path}.{shown}" if path else shown, "key", key, allowed))


def unknown(path: str, kind: str, given: Any, choices: Collection[str]) -> str:
    hint = did_you_mean(given, choices)
    return f"{path}: unknown {kind} {show(given)}{hint}; allowed: {listed(choices)}"


def refusal(path: str, value: Any, annotation: Any) -> str:
    return f"{path}: {show(value)} given; allowed: {describe(annotation)}"


def listed(choices: Iterable[Any]) -> str:
    return ", ".join(str(choice) for choice in choices) or "nothing"


def show(value: Any, limit: int = 60) -> str:
    """A value for a one-line message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    dict: "keys with values",
    list: "a list",
    tuple: "a list",
    type(None): "none",
    None: "none",
    Any: "any value",
}


def describe(annotation: Any) -> str:
    """An annotation in words, for messages."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        for extra in parts[1:]:
            if isinstance(extra, Reader):
                return str(extra)
        bounds = " and ".join(str(extra) for extra in parts[1:] if isinstance(extra, Bound))
        return f"{describe(parts[0])} {bounds}".rstrip()
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
    kind = origin or annotation
    return WORDS.get(kind, f"a {getattr(kind, '__name__', kind)} made by code")
