"""Hundreds of damaged files through train, test and demo: no traceback, no hang, no code run.

Each case replaces one file of a working scene, runs a command, and looks at how it ended and at
every file that was there: a command either works, or is refused in one line with exit code 1 or
2, and in either case leaves what was good as it was.
"""

from __future__ import annotations

import collections
import copy
import io
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from engine.weights.checkpoint import serialise
from tests.commands import TIMED_OUT, Commands, Ended, contents, real_command
from tests.corrupt import WRONG_TYPES, Variant, corruptions
from tests.scene import SET, command_for, encoded, make_scene, picture, train_model

SECONDS = 60  # where a command takes fractions of one
JUNK: tuple[Any, ...] = (None, -1, 0, 3.5, 10**30, "x", [], {}, [[1]], {"a": 1}, True)
CALLS = (
    b"seed: !!python/object/apply:os.system ['touch executed']\n",
    b"!!python/object/new:subprocess.Popen [[touch, executed]]\n",
)


@dataclass(frozen=True)
class Target:
    """A kind of file, where it stands in the scene, and the commands that read it."""

    kind: str
    place: str
    commands: dict[str, list[str]]
    variants: Callable[[int, int], Iterable[Variant]]
    """Damaged contents, so many of them, by a seed."""


@dataclass(frozen=True)
class Case:
    target: Target
    command: str
    damage: str
    content: bytes

    def __str__(self) -> str:
        return f"{self.target.kind}, {self.command}, {self.damage}"


def damaged(content: bytes, wrong: Sequence[Variant] = WRONG_TYPES) -> Callable[..., Any]:
    """Variants of one good content, bytes damaged and wrong types in turn."""

    def variants(count: int, seed: int) -> Iterator[Variant]:
        rng = np.random.default_rng([seed, 1])
        others = [wrong[index] for index in rng.permutation(len(wrong))]
        broken = corruptions(content, count, seed)
        mixed = (variant for pair in itertools.zip_longest(broken, others) for variant in pair)
        return itertools.islice((variant for variant in mixed if variant is not None), count)

    return variants


def misshapen(good: Any, encode: Callable[[Any], bytes]) -> Callable[..., Any]:
    """Variants of nested dictionaries and lists, with junk in the place of a part of them."""

    def variants(count: int, seed: int) -> Iterator[Variant]:
        rng = np.random.default_rng([seed, 2])
        paths = list(paths_into(good))
        for _ in range(count):
            path = paths[rng.integers(len(paths))]
            junk = JUNK[rng.integers(len(JUNK))]
            changed = copy.deepcopy(good)
            place = changed
            for key in path[:-1]:
                place = place[key]
            name = "/".join(map(str, path))
            if isinstance(place, dict) and rng.integers(4) == 0:
                del place[path[-1]]
                yield f"without {name}", encode(changed)
            else:
                place[path[-1]] = junk
                yield f"{name} = {junk!r}", encode(changed)

    return variants


def paths_into(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of nested dictionaries and lists, of the first 3 in long lists."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value[:3])
    for key, item in items:
        yield (*path, key)
        yield from paths_into(item, (*path, key))


def legacy(checkpoint: dict[str, Any]) -> bytes:
    """The format of torch before 1.6, without checksums; published files may have it."""
    rest = {key: value for key, value in checkpoint.items() if key != "checksum"}
    buffer = io.BytesIO()
    torch.save(rest, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def script(kind: str, *extra: str, **given: str) -> list[str]:
    return [*command_for(kind, **given), *extra]


def readers(place: str, **args: str) -> dict[str, list[str]]:
    """Training and testing with other arguments of the image folder."""
    made = {}
    for kind in ("train", "test"):
        values = [f"{SET[kind]}.dataset.args.{key}={value}" for key, value in args.items()]
        made[kind] = script(kind, "--set", *values)
    return made


def targets(scene: Path) -> list[Target]:
    """Every kind of file that users hand to the commands, and folders for them in the scene."""
    found = []
    for suffix in ("png", "jpg", "tif"):
        place = f"some-{suffix}/bad.{suffix}"
        (scene / place).parent.mkdir()
        picture().save(scene / f"some-{suffix}/0.png")
        ways = {**readers(place, root_path=Path(place).parent.name)}
        ways["demo"] = script("demo", input=place)
        found.append(Target(suffix, place, ways, damaged(encoded(scene, place[-7:]))))
    whole = (scene / "model.pth").read_bytes()
    checkpoint = torch.load(scene / "model.pth", weights_only=True)
    ways = {kind: script(kind, model="bad.pth") for kind in ("init", "resume", "test", "demo")}
    auto = {"auto": [*script("train"), "--name", "run", "--resume", "auto", "--set", "epoch_max=2"]}
    found += [
        Target("pth", "bad.pth", ways, damaged(whole)),
        Target("pth of a run", "save/run/epoch-last.pth", auto, damaged(whole)),
        Target("pth, old format", "bad.pth", ways, damaged(legacy(checkpoint))),
        Target("pth, misshapen", "bad.pth", ways, misshapen(checkpoint, pack)),
    ]
    for name, kind in (("tiny.yaml", "train"), ("test.yaml", "test")):
        good = (scene / name).read_bytes()
        calls = [*WRONG_TYPES, *((f"call {n}", good + call) for n, call in enumerate(CALLS))]
        way = {kind: script(kind, config="bad.yaml")}
        encode = lambda value: yaml.safe_dump(value).encode()  # noqa: E731
        found += [
            Target("yaml", "bad.yaml", way, damaged(good, calls)),
            Target("yaml, misshapen", "bad.yaml", way, misshapen(yaml.safe_load(good), encode)),
        ]
    found.append(
        Target("cache", "_bin_pictures/pixels.raw", readers("", cache="bin"), make_cache(scene))
    )
    split = damaged((scene / "split.json").read_bytes())
    ways = readers("", split_file="bad.json", split_key="train")
    return [*found, Target("split file", "bad.json", ways, split)]


def pack(checkpoint: dict[str, Any]) -> bytes:
    """A checkpoint file whose checksum is right, whatever it holds."""
    rest = {key: value for key, value in checkpoint.items() if key != "checksum"}
    return bytes(serialise(rest))


def make_cache(scene: Path) -> Callable[..., Any]:
    from datasets import make

    args = {"root_path": str(scene / "pictures"), "cache": "bin"}
    make({"name": "image-folder", "args": args})
    return damaged((scene / "_bin_pictures/pixels.raw").read_bytes())


def make_cases(scene: Path, count: int, seed: int) -> list[Case]:
    """`count` cases of each kind of file and command, in a shuffled order."""
    cases = [
        Case(target, command, damage, content)
        for number, target in enumerate(targets(scene))
        for index, command in enumerate(target.commands)
        for damage, content in target.variants(count, seed + 100 * number + index)
    ]
    order = np.random.default_rng(seed).permutation(len(cases))
    return [cases[index] for index in order]


class Arena:
    """A scene to run cases in, put right again before each."""

    def __init__(self, folder: Path, model: bytes) -> None:
        self.scene = make_scene(folder, model)
        Image.new("RGB", (5, 5)).save(folder / "out.png")
        self.model = model
        self.good: dict[str, bytes] = {}

    def prepare(self, case: Case) -> None:
        """The scene as it was, with the case's file in its place."""
        if not self.good:
            self.good = contents(self.scene)
        for name in ("save", "_bin_pictures"):
            shutil.rmtree(self.scene / name, ignore_errors=True)
        for name, content in self.good.items():
            path = self.scene / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name in set(contents(self.scene)) - set(self.good):
            (self.scene / name).unlink()
        place = self.scene / case.target.place
        if place.parent.parent.name == "save":
            place.parent.mkdir(parents=True)
            place.with_name("epoch-1.pth").write_bytes(self.model)
        place.write_bytes(case.content)

    def complaint(self, case: Case, ended: Ended) -> str | None:
        """What is wrong with how a command ended and what it left, if anything."""
        if ended.code == TIMED_OUT:
            return f"took more than {SECONDS} seconds"
        if ended.code not in (0, 1, 2) or "Traceback" in ended.out + ended.err:
            return f"exit code {ended.code}: {ended.err[-800:]}"
        if ended.code and not self.well_said(case, ended):
            return f"not one line: {ended.err}"
        after = contents(self.scene)
        if "executed" in after or Path("executed").exists():
            return "code in the file was run"
        own = {case.target.place: case.content}
        if case.target.place.startswith(("_bin", "save")):
            own = {}  # a cache is made anew, and a run goes on
        may_change = {"out.png"} if ended.code == 0 and case.command == "demo" else set()
        lost = [
            name
            for name, content in {**self.good, **own}.items()
            if after.get(name) != content
            and name not in {case.target.place, *may_change} - set(own)
        ]
        if lost:
            return f"changed {', '.join(lost)}"
        if may_change and Image.open(self.scene / "out.png").size[0] < 40:
            return "no picture was made"
        left = [name for name in after if name.endswith(".tmp")]
        return f"left {', '.join(left)}" if left else None

    def well_said(self, case: Case, ended: Ended) -> bool:
        message = ended.error
        several = case.target.kind.startswith("yaml") and " problems\n" in message
        return bool(message) and ("\n" not in message or several)


def outcome(ended: Ended) -> str:
    return {0: "worked", 1: "refused (1)", 2: "refused (2)"}.get(ended.code, "WRONG")


def table(results: Sequence[tuple[Case, Ended]]) -> str:
    """Counts of outcomes by kind of file."""
    columns = ("worked", "refused (1)", "refused (2)", "WRONG")
    counts: dict[str, collections.Counter[str]] = {}
    for case, ended in results:
        counts.setdefault(case.target.kind, collections.Counter())[outcome(ended)] += 1
    lines = [f"{'file':<16} {'cases':>6} " + " ".join(f"{name:>12}" for name in columns)]
    total = collections.Counter[str]()
    for kind, row in [*sorted(counts.items()), ("all", total)]:
        numbers = " ".join(f"{row[name]:>12}" for name in columns)
        lines.append(f"{kind:<16} {sum(row.values()):>6} {numbers}")
        total.update(row)
    return "\n".join(lines)


def run_cases(
    cases: Sequence[Case], arena: Arena, start: Callable[[list[str]], Ended]
) -> tuple[str, list[str]]:
    """The table of outcomes, and what was wrong."""
    results, complaints = [], []
    for case in cases:
        arena.prepare(case)
        ended = start(case.target.commands[case.command])
        complaint = arena.complaint(case, ended)
        results.append((case, ended))
        if complaint:
            complaints.append(f"{case}: {complaint}")
    return table(results), complaints


@pytest.fixture(scope="module")
def model(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return train_model(commands, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("count", "least"), [(2, 60), pytest.param(17, 500, marks=pytest.mark.slow)]
)
def test_damaged_files(
    commands: Commands,
    model: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count: int,
    least: int,
) -> None:
    arena = Arena(tmp_path, model)
    cases = make_cases(arena.scene, count, seed=count)
    assert len(cases) >= least

    def start(arguments: list[str]) -> Ended:
        return commands.run(*arguments, folder=arena.scene, seconds=SECONDS)

    outcomes, complaints = run_cases(cases, arena, start)
    with capsys.disabled():
        print(f"\n{len(cases)} damaged files:\n{outcomes}")
    assert not complaints, "\n".join(complaints)


@pytest.mark.slow
def test_damaged_files_and_real_commands(
    model: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sample of them, each in a process of its own."""
    arena = Arena(tmp_path, model)
    cases = make_cases(arena.scene, 3, seed=20)[:20]

    def start(arguments: list[str]) -> Ended:
        return real_command(*arguments, folder=arena.scene)

    outcomes, complaints = run_cases(cases, arena, start)
    with capsys.disabled():
        print(f"\n{len(cases)} damaged files, real commands:\n{outcomes}")
    assert not complaints, "\n".join(complaints)
