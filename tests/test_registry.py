"""registry: names, arguments read by signature, and messages that help."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import Above, AtLeast, Below, Registry, SpecOf, read_value
from utils import ConfigError

shapes = Registry("shape")
Size = Annotated[float, Above(0)]


@shapes.register("disc")
def disc(
    *, radius: Size, colour: Literal["red", "green"] = "red", dots: list[int] | None = None
) -> Any:
    return ("disc", radius, colour, dots)


@shapes.register("ring")
class Ring:
    def __init__(
        self,
        *,
        inner: Size,
        outer: Size = 2.0,
        around: Annotated[dict, SpecOf(shapes, ("radius",))],
    ) -> None:
        self.made = (inner, outer, shapes.make(around, {"radius": inner}))

    @staticmethod
    def check_args(args: dict[str, Any]) -> Iterator[str]:
        if args["inner"] >= args["outer"]:
            yield f"inner: {args['inner']} given; allowed: below outer ({args['outer']})"


def problems_of(spec: Any) -> list[str]:
    problems: list[str] = []
    shapes.check(spec, "shape", problems)
    return problems


def test_make_leaves_the_spec_alone_and_lets_code_override() -> None:
    spec = {"name": "disc", "args": {"radius": "1e-4"}}
    assert shapes.make(spec) == ("disc", 1e-4, "red", None)
    assert shapes.make(spec, {"radius": 3, "dots": [1]}) == ("disc", 3, "red", [1])
    assert spec == {"name": "disc", "args": {"radius": "1e-4"}}


def test_nested_spec_takes_supplied_arguments() -> None:
    made = shapes.make({"name": "ring", "args": {"inner": 1, "around": {"name": "disc"}}}).made
    assert made == (1, 2.0, ("disc", 1, "red", None))


def test_names_are_taken_once() -> None:
    with pytest.raises(ConfigError, match="'disc' is registered already"):
        shapes.register("disc")(Ring)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (3, "shape: 3 given; allowed: a shape as {name, args}"),
        ({}, "shape.name: missing; allowed: disc, ring"),
        (
            {"name": "disk"},
            "shape.name: unknown shape 'disk' (did you mean 'disc'?); allowed: disc, ring",
        ),
        ({"name": ["disc"]}, "shape.name: unknown shape ['disc']; allowed: disc, ring"),
        ({"name": "disc"}, "shape.args.radius: missing; allowed: a number above 0"),
        ({"name": "disc", "args": 1}, "shape.args: 1 given; allowed: names with values"),
        (
            {"name": "disc", "args": {"radius": 1, "color": "red"}},
            "shape.args.color: unknown key 'color' (did you mean 'colour'?); "
            "allowed: radius, colour, dots",
        ),
        (
            {"name": "disc", "args": {"radius": 0}},
            "shape.args.radius: 0 given; allowed: a number above 0",
        ),
        (
            {"name": "disc", "args": {"radius": True}},
            "shape.args.radius: True given; allowed: a number above 0",
        ),
        (
            {"name": "disc", "args": {"radius": "nan"}},
            "shape.args.radius: 'nan' given; allowed: a number above 0",
        ),
        (
            {"name": "disc", "args": {"radius": 1, "colour": "gren"}},
            "shape.args.colour: 'gren' given; allowed: 'red', 'green' (did you mean 'green'?)",
        ),
        (
            {"name": "disc", "args": {"radius": 1, "dots": [1, 2.5]}},
            "shape.args.dots[1]: 2.5 given; allowed: an integer",
        ),
        (
            {"name": "ring", "args": {"inner": 3, "around": {"name": "disc"}}},
            "shape.args.inner: 3 given; allowed: below outer (2.0)",
        ),
        (
            {"name": "ring", "args": {"inner": 1, "around": {"name": "dsc"}}},
            "shape.args.around.name: unknown shape 'dsc' (did you mean 'disc'?); "
            "allowed: disc, ring",
        ),
    ],
)
def test_each_problem_has_path_given_and_allowed(spec: Any, expected: str) -> None:
    assert problems_of(spec) == [expected]


def test_all_problems_at_once() -> None:
    spec = {"name": "disc", "args": {"radius": -1, "colour": 7, "wings": 2}, "sdd": 1}
    assert len(problems_of(spec)) == 4
    with pytest.raises(ConfigError, match=r"sdd.*wings.*radius.*colour"):
        shapes.make(spec)


def test_code_cannot_pass_an_unknown_argument() -> None:
    with pytest.raises(ConfigError, match="unknown key 'radios'"):
        shapes.make({"name": "disc", "args": {"radius": 1}}, {"radios": 1})


@dataclasses.dataclass(frozen=True)
class Table:
    legs: Annotated[int, AtLeast(3)]
    top: tuple[float, float] = (1.0, 2.0)


def test_read_dataclass_and_tuple() -> None:
    problems: list[str] = []
    assert read_value(Table, {"legs": 4, "top": [1, "2"]}, "table", problems) == Table(4, (1, 2.0))
    assert not problems
    read_value(Table, {"legs": 2, "top": [1], "lid": 0}, "table", problems)
    assert problems == [
        "table.lid: unknown key 'lid'; allowed: legs, top",
        "table.legs: 2 given; allowed: an integer of at least 3",
        "table.top: [1] given; allowed: a list of 2, each a number",
    ]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (dict, "keys with values"),
        (dict[str, Any], "keys with values"),
        (list, "a list"),
        (list[float], "a list, each a number"),
        (tuple[int, ...] | None, "a list, each an integer or none"),
        (Annotated[float, Above(0), Below(1)], "a number above 0 and below 1"),
        (Annotated[int, "a comment"], "an integer"),
        (Registry, "a Registry made by code"),
    ],
)
def test_annotations_in_words(annotation: Any, words: str) -> None:
    problems: list[str] = []
    read_value(annotation, "x", "key", problems)
    assert problems == [f"key: 'x' given; allowed: {words}"]


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(value=json_like)
def test_any_value_is_read_or_refused_in_lines(value: Any) -> None:
    for spec in (
        value,
        {"name": "disc", "args": value},
        {"name": "ring", "args": {"inner": 1, "around": value}},
    ):
        problems = problems_of(spec)
        assert all("\n" not in problem and ":" in problem for problem in problems)
        if not problems:
            shapes.make(spec)
