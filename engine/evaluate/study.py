"""A study: variants of a training run, each with every seed, compared picture by picture.

Every variant of a seed sees the same data in the same order with the same random draws, and where
the encoder is the same it begins with the same weights. What is left between two variants of a
seed is what the variants change; `engine.evaluate.statistics` says how sure that is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datasets.known import how_to_get
from engine.config import TrainConfig, config_dict, read_config, read_train_config
from engine.config_files import read_degrade
from engine.evaluate.metrics import check_metrics
from engine.evaluate.statistics import Interval, over_pictures, over_seeds
from engine.evaluate.suite_data import check_protocol, find_suite
from engine.weights import PUBLISHED, find_weights
from registry import show
from utils import ConfigError, DataError, did_you_mean, parse_scale

RESULT = "result.json"  # in a run's folder, once it is trained and tested
UNDAMAGED = "none"  # among files of damage


@dataclass(frozen=True, kw_only=True)
class StudyTest:
    """How the trained models are tested: the options of `test.py --suite`."""

    suites: list[str]
    scales: list[int | float | str] = field(default_factory=list)
    lr: Literal["paper", "supplied", "matlab", "pil"] = "paper"
    metrics: list[str] = field(default_factory=lambda: ["psnr"])
    protocol: Literal["paper", "ciaosr"] | None = None
    degrade: list[str] = field(default_factory=list)
    """Files of steps that damage low-resolution pictures, each a test of its own; `none` is one
    without."""

    def check_test(self) -> Iterator[str]:
        if not self.suites:
            yield "suites: none given; allowed: one or more"
        try:
            check_metrics(self.metrics)
            scales = [parse_scale(str(scale), "scales", smallest=1) for scale in self.scales]
            check_protocol(self.protocol or "paper", scales, self.lr)
            self.damages()
            for suite in self.suites:
                data = find_suite(suite, Path("load"))
                if not data.high.is_dir():
                    yield f"suites: no folder {data.high}{how_to_get(data.high)}"
        except ConfigError as error:
            yield str(error)

    def damages(self) -> dict[str, Any]:
        """The steps of each test by the name of their file; those of `none` are None.

        Raises:
            ConfigError: a file that can't be read, or two of one name.
        """
        steps: dict[str, Any] = {}
        for file in self.degrade or [UNDAMAGED]:
            name = Path(file).stem
            if name in steps:
                raise ConfigError(f"degrade: {file} given; allowed: files of different names")
            steps[name] = None if file == UNDAMAGED else read_degrade(Path(file)).document()
        return steps


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study as its file has it."""

    base: str
    """A training configuration."""
    variants: dict[str, Any]
    """By name: overrides as for `--set`, or {base: FILE, set: [...]}."""
    reference: str
    """The variant that the others are compared with."""
    seeds: list[int]
    test: StudyTest
    set: list[str] = field(default_factory=list)
    """Overrides of every variant."""

    def check_variants(self) -> Iterator[str]:
        if self.reference not in self.variants:
            hint = did_you_mean(self.reference, self.variants)
            allowed = ", ".join(self.variants)
            yield f"reference: {show(self.reference)} given; allowed: {allowed}{hint}"
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            yield f"seeds: {show(self.seeds)} given; allowed: different numbers, one or more"
        yield from own_problems("set", self.set)
        for name, variant in self.variants.items():
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", str(name)):
                yield f"variants: {show(name)} given; allowed: letters, digits, '.', '_' and '-'"
            known = isinstance(variant, dict) and set(variant) <= {"base", "set"}
            changes = variant.get("set", []) if known else variant
            yield from own_problems(f"variants.{name}", changes)
            if not isinstance(changes, list) or not all(isinstance(c, str) for c in changes):
                yield (
                    f"variants.{name}: {show(variant)} given; allowed: a list of KEY.PATH=VALUE, "
                    "or {base: FILE, set: [KEY.PATH=VALUE, ...]}"
                )


def own_problems(key: str, changes: Any) -> Iterator[str]:
    """What is wrong with overrides of a key that a study sets itself."""
    for change in changes if isinstance(changes, list) else ():
        if str(change).partition("=")[0] == "seed":
            yield f"{key}: {show(change)} given; allowed: seeds of all variants, by the key seeds"


def check_start(training: TrainConfig) -> None:
    """Check what a run would find out only when its turn comes.

    Raises:
        ConfigError: it would go on from a checkpoint that is not its own, or its `init` is not
            there.
    """
    if training.resume not in (None, "auto"):
        raise ConfigError(
            f"resume: {show(training.resume)} given; allowed: none, since each run goes on from "
            "its own checkpoints; or init, for weights to start from"
        )
    if training.init is not None and training.init not in PUBLISHED:  # those would be fetched
        find_weights(training.init, "init")


@dataclass(frozen=True)
class Run:
    """One training: a variant with a seed.

    Attributes:
        definition: all that decides its figures: its whole configuration, and how it is tested.
    """

    variant: str
    seed: int
    base: str
    overrides: tuple[str, ...]
    folder: Path
    definition: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.seed}"

    def result(self) -> dict[str, Any] | None:
        """What was found, if it is finished.

        Raises:
            DataError: the folder holds a run of another study.
        """
        try:
            result = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder / RESULT}: can't be read ({error})") from error
        if stated(result["definition"]) != stated(self.definition):
            raise DataError(
                f"{self.folder}: a run of another study, its settings differ; allowed: another "
                "name for this study's file, or that folder removed"
            )
        return result


def stated(value: Any) -> Any:
    """Nested values without keys of no value, which older versions may not have had."""
    if not isinstance(value, dict):
        return value
    return {key: stated(item) for key, item in value.items() if item is not None}


@dataclass(frozen=True)
class Study:
    """A study that is sound: every configuration was read."""

    name: str
    config: StudyConfig
    folder: Path
    runs: tuple[Run, ...]

    def of(self, variant: str) -> list[Run]:
        return [run for run in self.runs if run.variant == variant]


def read_study(path: Path, save: Path = Path("save")) -> Study:
    """A study's file, checked whole; its runs by seed, then variant.

    Raises:
        ConfigError: what can't be meant, in the file or in the configuration of a variant.
        DataError: a finished run in its folder has other settings.
    """
    config: StudyConfig = read_config(StudyConfig, path, ())
    folder = save / f"study-{path.stem}"
    test = {**config_dict(config.test), "degrade": config.test.damages()}
    runs = []
    for seed in config.seeds:
        for name, variant in config.variants.items():
            own = variant if isinstance(variant, dict) else {"set": variant}
            base = own.get("base", config.base)
            overrides = (*config.set, *own.get("set", []), f"seed={seed}")
            try:
                training = read_train_config(base, overrides)
            except ConfigError as error:
                raise ConfigError(f"{path}: variants.{name}: {error}") from error
            definition = {"training": config_dict(training), "test": test}
            # As JSON has it, in which it is compared.
            definition = json.loads(json.dumps(definition))
            run = Run(name, seed, base, overrides, folder / f"{name}-{seed}", definition)
            runs.append(run)
            if run.result() is None:
                try:
                    check_start(training)
                except ConfigError as error:
                    raise ConfigError(f"{path}: variants.{name}: {error}") from error
    return Study(path.stem, config, folder, tuple(runs))


Figures = dict[tuple[str, str, str], dict[str, float]]  # (suite, scale, metric) -> picture -> value


def figures_of(result: Mapping[str, Any]) -> Figures:
    """The figures of a run, without pictures that are too small for them."""
    figures: Figures = {}
    for record in result["results"]:
        for metric, value in record["values"].items():
            if value is not None:
                place = figures.setdefault((record["suite"], record["scale"], metric), {})
                place[record["image"]] = float(value)  # "inf": a picture without error
    return figures


@dataclass(frozen=True)
class Row:
    """A variant at one scale of one suite, by one metric.

    Attributes:
        mean, std: over seeds, of the mean over pictures; std is None for one seed.
        difference: to the reference, over the seeds that both have; None for the reference.
        seeds, pictures: its intervals.
    """

    variant: str
    suite: str
    scale: str
    metric: str
    mean: float
    std: float | None
    difference: float | None = None
    seeds: Interval | None = None
    pictures: Interval | None = None


def summarise(study: Study, results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The rows of the table, of the runs that are finished.

    Args:
        results: by the runs' names.

    Raises:
        DataError: runs were tested on different pictures.
    """
    found = {run.name: figures_of(results[run.name]) for run in study.runs if run.name in results}
    check_pictures(found, study.folder)
    by_variant = {
        name: {run.seed: found[run.name] for run in study.of(name) if run.name in found}
        for name in study.config.variants
    }
    reference = by_variant[study.config.reference]
    rows = []
    for name, runs in by_variant.items():
        for place in dict.fromkeys(place for figures in runs.values() for place in figures):
            means = [np.mean([*figures[place].values()]) for figures in runs.values()]
            known = len(means) > 1 and np.isfinite(means).all()
            std = float(np.std(means, ddof=1)) if known else None
            row = Row(name, *place, float(np.mean(means)), std)
            both = [seed for seed in runs if seed in reference]
            if name != study.config.reference and both:
                differences = paired(runs, reference, both, place)
                row = replace(
                    row,
                    difference=float(differences.mean()),
                    seeds=over_seeds(differences),
                    pictures=over_pictures(differences),
                )
            rows.append(row)
    return rows


def check_pictures(runs: Mapping[str, Figures], folder: Path) -> None:
    """Check that all runs, by their names, have figures of the same pictures.

    Raises:
        DataError: a picture of one is missing in another.
    """
    pictures = {
        run: {(*place, name) for place, values in figures.items() for name in values}
        for run, figures in runs.items()
    }
    for run, own in pictures.items():
        for other, others in pictures.items():
            if not others <= own:
                suite, scale, metric, name = min(others - own)
                raise DataError(
                    f"{folder / run}: no {metric} of picture {name} of {suite} x{scale}, which "
                    f"{other} has; allowed: the same pictures in every run; remove {RESULT} of "
                    "each run that was tested on other pictures than there are now, and run the "
                    "study again"
                )


def paired(
    runs: Mapping[int, Figures],
    others: Mapping[int, Figures],
    seeds: Sequence[int],
    place: tuple[str, str, str],
) -> np.ndarray:
    """Differences picture by picture, (seeds, pictures); 0 where both are without error."""
    own, reference = (
        np.array([[part[seed][place][name] for name in runs[seeds[0]][place]] for seed in seeds])
        for part in (runs, others)
    )
    with np.errstate(invalid="ignore"):
        return np.where(own == reference, 0.0, own - reference)


def document(study: Study, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`study.json`: every picture's figure, the cost of every run, and the summary."""
    rows = summarise(study, results)
    variants: dict[str, Any] = {}
    for name in study.config.variants:
        runs = {}
        for run in study.of(name):
            if run.name not in results:
                continue
            figures: dict[str, Any] = {}
            for (suite, scale, metric), values in figures_of(results[run.name]).items():
                figures.setdefault(suite, {}).setdefault(scale, {})[metric] = values
            runs[str(run.seed)] = {"figures": figures, "cost": results[run.name]["cost"]}
        summary = [vars(row) for row in rows if row.variant == name]
        variants[name] = {"runs": runs, "summary": summary}
    return {
        "study": study.name,
        "config": config_dict(study.config),
        "finished": f"{len(results)} of {len(study.runs)} runs",
        "variants": variants,
    }
