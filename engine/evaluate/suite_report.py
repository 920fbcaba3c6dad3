"""`test.py --suite`: what is asked for, run, and told as tables, JSON, pictures and charts."""

from __future__ import annotations

import argparse
import hashlib
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from datasets.degrade import Degrade
from datasets.files import write_whole
from datasets.known import how_to_get
from engine import distributed
from engine.config_files import read_degrade
from engine.evaluate.ciaosr_protocol import NOTE
from engine.evaluate.metrics import scale_text
from engine.evaluate.predictions import Predictions, find_predictions
from engine.evaluate.suite import (
    Method,
    baseline_method,
    distinct_labels,
    model_method,
    predictions_method,
    run_suites,
)
from engine.evaluate.suite_data import (
    LR_SOURCES,
    Pictures,
    SuiteData,
    check_protocol,
    find_suite,
)
from engine.evaluate.suite_figures import SuiteFigures
from engine.evaluate.suite_results import ResultStore
from engine.evaluate.tables import Series, Table, make_table
from engine.runtime import say, settle_precision, versions
from utils import BORDER_EXTRA, ConfigError, DataError, check_cell_max_scale, parse_scale, time_text

PROGRESS_FOLDER = Path("save") / "suites"
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Skipped:
    """A data set, or one of its scales, that could not be had."""

    title: str
    scale: str | None
    reason: str

    def line(self) -> str:
        at = f" x{self.scale}" if self.scale else ""
        return f"{self.title}{at}: skipped, {self.reason}"


def run_and_report(options: argparse.Namespace) -> None:
    """Run suites and report the results.

    Raises:
        ConfigError, DataError: options, data or models that are no good.
    """
    started = time.time()
    protocol = options.protocol or "paper"
    check_cell_max_scale(options.cell_max_scale)
    for name in ("eval_bsize", "strips"):
        given = getattr(options, name)
        if given is not None and given < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: {given} given; allowed: at least 1")
    suites, skipped = open_suites(options)
    processes, device = distributed.start(options.gpu)
    precision = settle_precision(device, options.precision or "fp32")
    predictions = [find_predictions(given, suites) for given in options.predictions or []]
    methods = make_methods(options, device, precision, predictions)
    degrade = suites[0].data.degrade
    skipped += [
        Skipped(pictures.data.title, scale_text(scale), reason)
        for found in predictions
        for pictures, scale, reason in found.missing
    ]
    metrics = tuple(dict.fromkeys(["psnr", *options.metrics]))
    path = options.json or progress_path(methods, options, degrade)
    store = ResultStore(path, processes.rank, processes.count)
    if store.found and processes.is_main:
        say(f"{path}: {store.found} results of an earlier run; those still valid are not redone")
    labels = [method.label for method in methods]
    figures = SuiteFigures(options.save_images, options.panels, suites, labels)
    shown = sys.stderr.isatty()
    how: dict[str, Any] = {"device": device, "processes": processes, "progress": shown}
    records = run_suites(suites, methods, metrics, store, figures, **how)
    if not processes.is_main:
        return
    tables = []
    models_first = sorted(methods, key=lambda method: method.key.startswith("baseline:"))
    for pictures in suites:
        tables += [suite_table(pictures, methods, records, metric) for metric in metrics]
        # Models have the first colours: a baseline added to the comparison changes none.
        series = suite_means(pictures, models_first, records, "psnr")
        figures.write_chart(pictures, measured(pictures.data, "psnr"), series)
    tell(tables, skipped, options)
    seconds = time.time() - started
    print(f"{len(records)} results in {time_text(seconds)}", flush=True)
    if not options.json:
        store.remove()
        return
    store.finish(
        {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(seconds, 1),
            "device": str(device),
            "protocol": protocol,
            "degrade": degrade and degrade.document(),
            "versions": {**versions(), "platform": platform.platform()},
            "methods": [method.about for method in methods],
            "skipped": [asdict(skip) for skip in skipped],
            "tables": [asdict(table) for table in tables],
            "results": records,
        }
    )


def open_suites(options: argparse.Namespace) -> tuple[list[Pictures], list[Skipped]]:
    """The data sets that are there, and what has to be left out.

    Raises:
        ConfigError, DataError: scales or names that are no good, or nothing is there.
    """
    scales = [parse_scale(text, "--scales", smallest=1) for text in options.scales or []]
    protocol = options.protocol or "paper"
    check_protocol(protocol, scales, options.lr or "paper", "--")
    found = [find_suite(name, options.data_root or Path("load")) for name in options.suite]
    degrade = None if options.degrade is None else read_degrade(options.degrade)
    found = [replace(data, protocol=protocol, degrade=degrade) for data in found]
    suites, skipped = [], []
    for data in {data.name: data for data in found}.values():
        if not data.high.is_dir():
            reason = f"no folder {data.high}{how_to_get(data.high)}"
            skipped.append(Skipped(data.title, None, reason))
            continue
        chosen = list(dict.fromkeys(scales or data.scales))
        pictures = Pictures(data, chosen, options.lr or "paper")
        skipped += [
            Skipped(data.title, scale_text(scale), reason)
            for scale, reason in pictures.missing.items()
        ]
        if pictures.scales:
            suites.append(pictures)
    if not suites:
        raise DataError("; ".join(skip.line() for skip in skipped))
    return suites, skipped


def make_methods(
    options: argparse.Namespace,
    device: torch.device,
    precision: str,
    predictions: Sequence[Predictions],
) -> list[Method]:
    """Interpolation baselines first, as in the paper's tables; other programs; then models."""
    methods = [baseline_method(name, device) for name in options.baseline]
    methods += [predictions_method(found) for found in predictions]
    methods += [
        model_method(
            name,
            device,
            precision=precision,
            self_ensemble=options.self_ensemble,
            raw_weights=options.raw_weights,
            eval_bsize=options.eval_bsize,
            cell_max_scale=options.cell_max_scale,
            strips=options.strips,
            protocol=options.protocol or "paper",
        )
        for name in options.model
    ]
    return distinct_labels(methods)


def progress_path(
    methods: Sequence[Method], options: argparse.Namespace, degrade: Degrade | None = None
) -> Path:
    """Where results are kept until the end when `--json` names no file: one per question."""
    asked = [*(method.key for method in methods), *options.suite, *options.metrics]
    asked += [str(options.scales), str(options.lr), str(options.data_root), str(options.protocol)]
    asked += [] if degrade is None else [degrade.key]
    return PROGRESS_FOLDER / f"{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}.json"


def suite_table(
    pictures: Pictures, methods: Sequence[Method], records: Records, metric: str
) -> Table:
    """The table of one data set in one metric."""
    sources: dict[str, list[str]] = {}
    for scale, source in pictures.sources.items():
        sources.setdefault(source, []).append(f"x{scale_text(scale)}")
    made = "; ".join(f"{' '.join(at)} {LR_SOURCES[source]}" for source, at in sources.items())
    how = measured(pictures.data, metric)
    ciaosr = pictures.data.protocol == "ciaosr"
    rounding = [] if ciaosr else ["predictions of models not rounded"]
    notes = ["; ".join([f"{len(pictures)} pictures", how, *rounding]), f"LR: {made}"]
    degrade = pictures.data.degrade
    notes += [] if degrade is None else [f"LR damaged, each picture by draws of its own: {degrade}"]
    notes += [NOTE] if ciaosr else []
    notes += [
        f"{method.label}: pictures of 8 bits in {method.about['folder']}"
        for method in methods
        if isinstance(method.enlarge, Predictions)
    ]
    scales = [scale_text(scale) for scale in pictures.scales]
    means = suite_means(pictures, methods, records, metric)
    data = pictures.data
    return make_table(data.published, metric, data.title, notes, scales, means, data.protocol)


def measured(data: SuiteData, metric: str) -> str:
    """What a metric looks at, for people."""
    kind = data.eval_type((1, 1))
    extra = BORDER_EXTRA[kind.dataset or ""]
    colour = {"psnr": kind.colour, "ssim": "Y"}.get(metric, "RGB")
    return f"{colour}, border of S{f' + {extra}' if extra else ''} pixels cut"


def suite_means(
    pictures: Pictures, methods: Sequence[Method], records: Records, metric: str
) -> list[Series]:
    """Each method's mean over the pictures at each scale."""
    values: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record["suite"] == pictures.data.name and record["values"][metric] is not None:
            key = (record["method"], record["scale"])
            values.setdefault(key, []).append(record["values"][metric])
    means = {key: sum(found) / len(found) for key, found in values.items()}
    scales = [scale_text(scale) for scale in pictures.scales]
    return [
        Series(method.label, method.row, tuple(means.get((method.label, at)) for at in scales))
        for method in methods
    ]


def tell(tables: Sequence[Table], skipped: Sequence[Skipped], options: argparse.Namespace) -> None:
    """Print tables; write them as Markdown to a file where one is named, else print that too."""
    lines = [skip.line() for skip in skipped]
    texts, items = [table.text() for table in tables], [f"- {line}" for line in lines]
    markdowns = [table.markdown() for table in tables]
    print("\n\n".join([*texts, "\n".join(lines)] if lines else texts))
    markdown = "\n\n".join([*markdowns, "\n".join(items)] if lines else markdowns) + "\n"
    if options.markdown:
        write_whole(options.markdown, markdown.encode(errors="surrogateescape"))
        print(f"\nMarkdown: {options.markdown}")
    else:
        print(f"\nMarkdown:\n\n{markdown}")
