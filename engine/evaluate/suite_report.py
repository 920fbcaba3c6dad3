"""`test.py --suite`: what is asked for, run, and told as tables, JSON, pictures and charts."""

from __future__ import annotations

import argparse
import hashlib
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datasets.files import write_whole
from engine import distributed
from engine.evaluate.metrics import scale_text
from engine.evaluate.suite import Method, baseline_method, distinct_labels, model_method, run_suites
from engine.evaluate.suite_data import LR_SOURCES, Pictures, Scale, SuiteData, find_suite
from engine.evaluate.suite_figures import SuitePictures
from engine.evaluate.suite_results import ResultStore
from engine.evaluate.tables import Series, Table, make_table
from engine.runtime import say, settle_precision, versions
from utils import ConfigError, DataError, parse_scale, time_text

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


class SuiteOptions:
    """The options of `test.py` that only `--suite` takes."""

    NAMES = ("--scales", "--lr", "--data-root", "--markdown", "--panels", "--eval-bsize")

    @staticmethod
    def add_arguments(group: Any) -> None:
        add = group.add_argument
        add("--scales", nargs="+", metavar="S", help="instead of the paper's; 2.5 and 2x3.5 too")
        add(
            "--lr",
            choices=["paper", *LR_SOURCES],
            help="low-resolution pictures: supplied, made by MATLAB's or PIL's bicubic, or as in "
            "the paper (default): supplied at x2 x3 x4, PIL beyond",
        )
        add("--data-root", metavar="DIR", type=Path, help="where the data are (default: ./load)")
        add("--markdown", metavar="FILE", type=Path, help="write the tables there")
        add("--panels", metavar="DIR", type=Path, help="comparisons and charts as PNG files")
        add("--eval-bsize", metavar="N", type=int, help="the most queries at once")

    @classmethod
    def given(cls, options: argparse.Namespace) -> Iterator[str]:
        """Those of them that the user has given."""
        for name in cls.NAMES:
            if getattr(options, name[2:].replace("-", "_")) is not None:
                yield name


def run_and_report(options: argparse.Namespace) -> int:
    """Run suites and say the results; gives the exit code.

    Raises:
        ConfigError, DataError: options, data or models that are no good.
    """
    started = time.time()
    if options.eval_bsize is not None and options.eval_bsize < 1:
        raise ConfigError(f"--eval-bsize: {options.eval_bsize} given; allowed: at least 1")
    scales = [parse_scale(text, "--scales", smallest=1) for text in options.scales or []]
    root = options.data_root or Path("load")
    found = [find_suite(name, root) for name in dict.fromkeys(options.suite)]
    processes, device = distributed.start(options.gpu)
    precision = settle_precision(device, options.precision or "fp32")
    suites, skipped = open_suites(found, scales, options.lr or "paper")
    if not suites:
        raise DataError("; ".join(skip.line() for skip in skipped))
    methods = make_methods(options, device, precision)
    path = options.json or progress_path(methods, options)
    store = ResultStore(path, processes.rank, processes.count)
    if store.found and processes.is_main:
        say(f"{path}: {store.found} results of an earlier run; those still valid are not redone")
    output = SuitePictures(options.save_images, options.panels, methods)
    hooks: dict[str, Any] = {}
    if options.save_images or options.panels:
        hooks = {"wants": output.wants, "on_comparison": output.add}
    records = run_suites(
        suites,
        methods,
        tuple(dict.fromkeys(["psnr", *options.metrics])),
        store,
        device=device,
        processes=processes,
        progress=sys.stderr.isatty(),
        **hooks,
    )
    if not processes.is_main:
        return 0
    tables = [
        table
        for data, pictures in suites
        for table in suite_tables(data, pictures, methods, records, options.metrics)
    ]
    if options.panels:
        output.charts([data for data, _ in suites], methods, records)
    report = Report(tables, skipped, methods, records, time.time() - started, str(device))
    tell(report, options)
    if options.json:
        store.finish(report.document())
    else:
        store.remove()
    return 0


def open_suites(
    found: Sequence[SuiteData], scales: Sequence[Scale], lr: str
) -> tuple[list[tuple[SuiteData, Pictures]], list[Skipped]]:
    """The data sets that are there, and what has to be left out."""
    suites, skipped = [], []
    for data in found:
        if not data.high.is_dir():
            reason = f"no folder {data.high}; get it with: {data.command}"
            skipped.append(Skipped(data.title, None, reason))
            continue
        pictures = Pictures(data, list(dict.fromkeys(scales or data.scales)), lr)
        skipped += [
            Skipped(data.title, scale_text(scale), reason)
            for scale, reason in pictures.missing.items()
        ]
        if pictures.scales:
            suites.append((data, pictures))
    return suites, skipped


def make_methods(options: argparse.Namespace, device: torch.device, precision: str) -> list[Method]:
    """Plain resizers first, as in the paper's tables; then models."""
    methods = [baseline_method(name, device) for name in options.baseline]
    methods += [
        model_method(
            name,
            device,
            precision=precision,
            self_ensemble=options.self_ensemble,
            raw_weights=options.raw_weights,
            eval_bsize=options.eval_bsize,
        )
        for name in options.model
    ]
    return distinct_labels(methods)


def progress_path(methods: Sequence[Method], options: argparse.Namespace) -> Path:
    """Where results are kept until the end when `--json` names no file: one per question."""
    asked = [*(method.key for method in methods), *options.suite, *options.metrics]
    asked += [str(options.scales), str(options.lr), str(options.data_root)]
    return PROGRESS_FOLDER / f"{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}.json"


def suite_tables(
    data: SuiteData,
    pictures: Pictures,
    methods: Sequence[Method],
    records: Records,
    metrics: Sequence[str],
) -> list[Table]:
    """One table per metric."""
    scales = [scale_text(scale) for scale in pictures.scales]
    extra = " + 6" if data.kind == "div2k" else ""
    colour = data.eval_type((1, 1)).colour
    sources: dict[str, list[str]] = {}
    for scale, source in pictures.sources.items():
        sources.setdefault(source, []).append(f"x{scale_text(scale)}")
    made = "; ".join(f"{' '.join(at)} {LR_SOURCES[source]}" for source, at in sources.items())
    cut = f"border of S{extra} pixels cut"
    tables = []
    for metric in dict.fromkeys(["psnr", *metrics]):
        shown = {"psnr": colour, "ssim": "Y"}.get(metric, "RGB")
        notes = [
            f"{len(pictures)} pictures; {shown}, {cut}; predictions of models not rounded",
            f"LR: {made}",
        ]
        series = [
            Series(method.label, method.row, means(data, method.label, metric, scales, records))
            for method in methods
        ]
        tables.append(make_table(data.name, metric, data.title, notes, scales, series))
    return tables


def means(
    data: SuiteData, label: str, metric: str, scales: Sequence[str], records: Records
) -> tuple[float | None, ...]:
    """Mean over the pictures at each scale."""
    result: list[float | None] = []
    for scale in scales:
        values = [
            record["values"][metric]
            for record in records
            if (record["suite"], record["method"], record["scale"]) == (data.name, label, scale)
            and record["values"][metric] is not None
        ]
        result.append(sum(values) / len(values) if values else None)
    return tuple(result)


@dataclass(frozen=True)
class Report:
    """Everything a suite has found."""

    tables: list[Table]
    skipped: list[Skipped]
    methods: list[Method]
    records: Records
    seconds: float
    device: str

    def text(self) -> str:
        parts = [table.text() for table in self.tables]
        parts += ["\n".join(skip.line() for skip in self.skipped)] if self.skipped else []
        return "\n\n".join(parts)

    def markdown(self) -> str:
        parts = [table.markdown() for table in self.tables]
        parts += ["\n".join(f"- {skip.line()}" for skip in self.skipped)] if self.skipped else []
        return "\n\n".join(parts) + "\n"

    def document(self) -> dict[str, Any]:
        return {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(self.seconds, 1),
            "device": self.device,
            "versions": {**versions(), "platform": platform.platform()},
            "methods": [method.about for method in self.methods],
            "skipped": [vars(skip) for skip in self.skipped],
            "tables": [
                {
                    "title": table.title,
                    "notes": table.notes,
                    "columns": table.columns,
                    "rows": [vars(row) for row in table.rows],
                }
                for table in self.tables
            ],
            "results": self.records,
        }


def tell(report: Report, options: argparse.Namespace) -> None:
    """Tables to the terminal; Markdown to a file where one is named, else after them."""
    print(report.text())
    place = options.markdown or (options.json and options.json.with_suffix(".md"))
    if place:
        write_whole(place, report.markdown().encode(errors="surrogateescape"))
        print(f"\nMarkdown: {place}")
    else:
        print(f"\nMarkdown:\n\n{report.markdown()}")
    print(f"{len(report.records)} results in {time_text(report.seconds)}", flush=True)
