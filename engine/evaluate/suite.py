"""Models and interpolation baselines over the data sets of the paper's tables, in one process.

Every model is loaded once and every picture decoded once: pictures outside, scales inside them,
methods innermost. Results are kept as they come (`engine.evaluate.suite_results`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from datasets.transforms import to_picture
from engine.distributed import Processes
from engine.evaluate.evaluate import Picture, enlarge
from engine.evaluate.metrics import Measure, make_measures, scale_text
from engine.evaluate.predictions import Predictions
from engine.evaluate.suite_data import Image, Pictures, Scale
from engine.evaluate.suite_figures import SuiteFigures
from engine.evaluate.suite_results import ResultStore
from engine.evaluate.tables import paper_row
from engine.render import baselines
from engine.weights import find_weights, load_with_spec
from engine.weights.download import file_sha256
from utils import DataError


@dataclass(frozen=True)
class Method:
    """What enlarges a picture: uint8 (h, w, 3) and (height, width) -> (3, height, width) in [0, 1].

    `key` tells two methods apart whatever they are called; `row` is that of the paper's tables.
    Predictions are those that another program has made already, perhaps not of all scales.
    """

    label: str
    key: str
    row: str | None
    enlarge: Callable[[Image, tuple[int, int]], Picture] | Predictions
    about: dict[str, Any]

    def serves(self, pictures: Pictures, scale: Scale) -> bool:
        return not isinstance(self.enlarge, Predictions) or self.enlarge.has(pictures, scale)


def baseline_method(name: str, device: torch.device) -> Method:
    """An interpolation baseline, on 8-bit pictures."""
    label = baselines.label(name)
    row = "bicubic" if name.startswith("bicubic") else None
    about = {"label": label, "rounding": "8-bit"}
    return Method(label, f"baseline:{name}", row, partial(enlarge, name, device=device), about)


def model_method(
    name: str,
    device: torch.device,
    *,
    precision: str = "fp32",
    self_ensemble: bool = False,
    raw_weights: bool = False,
    eval_bsize: int | None = None,
    cell_max_scale: float | None = None,
    strips: int | None = None,
    protocol: str = "paper",
) -> Method:
    """A model by file or name; loaded here, once.

    Args:
        strips: a number that `ContinuousImage.represent` takes as `statistic`.
        protocol: one of `engine.evaluate.suite_data.PROTOCOLS`.

    Raises:
        ConfigError, DataError: as `engine.weights.pretrained.load_model`.
    """
    path = find_weights(name)
    model, spec = load_with_spec(path, device, raw_weights)
    how: dict[str, Any] = {"device": device, "precision": precision, "eval_bsize": eval_bsize}
    how |= {"cell_max_scale": cell_max_scale, "statistic": strips or "picture"}
    how |= {"self_ensemble": self_ensemble, "protocol": protocol}
    options = {precision: precision != "fp32", "self-ensemble": self_ensemble}
    options[f"cell at most x{cell_max_scale or 0:g}"] = cell_max_scale is not None
    options[f"strips of {strips}"] = strips is not None
    chosen = [name for name, on in {**options, "raw weights": raw_weights}.items() if on]
    label = model_label(path) + (f" ({', '.join(chosen)})" if chosen else "")
    checksum = file_sha256(path)
    about = {
        "label": label,
        "file": str(name),
        "sha256": checksum,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "spec": spec,
        "precision": precision,
        "self_ensemble": self_ensemble,
        "raw_weights": raw_weights,
        "cell_max_scale": cell_max_scale,
        "strips": strips,
        "protocol": protocol,
        "rounding": "clamped to [0, 1], not rounded" if protocol == "paper" else "8-bit",
    }
    own = [] if protocol == "paper" else [f"protocol {protocol}"]
    key = " ".join([f"model:{checksum}", *chosen, *own])
    return Method(label, key, paper_row(spec), partial(enlarge, model, **how), about)


def predictions_method(predictions: Predictions) -> Method:
    """Pictures of another program."""
    label, root = predictions.label, str(predictions.root)
    about = {"label": label, "folder": root, "rounding": "8-bit"}
    return Method(label, f"predictions:{os.path.abspath(root)}", None, predictions, about)


def model_label(path: Path) -> str:
    """What tables call a checkpoint: its name, with the run's folder where the name says little."""
    return f"{path.parent.name}/{path.stem}" if path.stem.startswith("epoch-") else path.stem


def distinct_labels(methods: Sequence[Method]) -> list[Method]:
    """The methods, each once, numbered where two of them are called the same."""
    result: list[Method] = []
    for method in {method.key: method for method in methods}.values():
        taken, label, number = {other.label for other in result}, method.label, 1
        while label in taken:
            number += 1
            label = f"{method.label} [{number}]"
        result.append(replace(method, label=label, about={**method.about, "label": label}))
    return result


def run_suites(
    suites: Sequence[Pictures],
    methods: Sequence[Method],
    metrics: Sequence[str],
    store: ResultStore,
    figures: SuiteFigures,
    *,
    device: torch.device,
    processes: Processes | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Compute every result that is not in the store yet, and store it.

    Args:
        metrics: names of `engine.evaluate.metrics.METRICS`.
        figures: where predictions and comparisons are written.

    Returns:
        The records of everything asked for, in the order of suites, pictures, scales, methods;
        of all processes, on all of them.
    """
    processes = processes or Processes()
    measures = make_measures(metrics, device)
    photographs = [(pictures, index) for pictures in suites for index in range(len(pictures))]
    own = range(processes.rank, len(photographs), processes.count)
    found: dict[int, list[dict[str, Any]]] = {}
    bar = tqdm(own, unit="picture", leave=False, disable=not (progress and processes.is_main))
    try:
        for number in bar:
            pictures, index = photographs[number]
            bar.set_postfix_str(f"{pictures.data.name} {pictures.name(index)}")
            found[number] = measure_photograph(
                pictures, index, methods, measures, store, figures, device
            )
    finally:
        bar.close()
        store.save()
    everything = {n: records for part in processes.gather(found) for n, records in part.items()}
    return [record for number in sorted(everything) for record in everything[number]]


def measure_photograph(
    pictures: Pictures,
    index: int,
    methods: Sequence[Method],
    measures: dict[str, Measure],
    store: ResultStore,
    figures: SuiteFigures,
    device: torch.device,
) -> list[dict[str, Any]]:
    """The records of one photograph, by scale and method; those not in the store are computed."""
    records: list[dict[str, Any]] = []
    high = None
    for scale in pictures.scales:
        able = [method for method in methods if method.serves(pictures, scale)]
        keys = [record_key(method, pictures, index, scale) for method in able]
        known = [store.get(key, tuple(measures)) for key in keys]
        labels = [method.label for method in able]
        wanted = figures.wants(pictures, index, scale, labels, all(known))
        if wanted or not all(known):
            high = pictures.read(index) if high is None else high
            low, truth = pictures.pair(index, high, scale)
        predictions, found = [], []
        for method, key, record in zip(able, keys, known, strict=True):
            if wanted or record is None:
                started = time.perf_counter()
                if isinstance(method.enlarge, Predictions):
                    prediction = method.enlarge.read(pictures, index, scale).to(device)
                else:
                    prediction = method.enlarge(low, truth.shape[:2])
                seconds = time.perf_counter() - started
                predictions.append(prediction)
            if record is None:
                kind = pictures.data.eval_type(scale)
                target = to_picture(truth).to(prediction.device)
                try:
                    values = {name: get(prediction, target, kind) for name, get in measures.items()}
                except DataError as error:
                    raise DataError(f"{pictures.high.names(index)[0]}: {error}") from error
                record = {
                    "suite": pictures.data.name,
                    "image": pictures.name(index),
                    "scale": scale_text(scale),
                    "lr_source": pictures.sources[scale],
                    "protocol": pictures.data.protocol,
                    "method": method.label,
                    "values": values,
                    "lr_size": list(low.shape[:2]),
                    "size": list(truth.shape[:2]),
                    "key": key,
                    "seconds": round(seconds, 4),
                }
                store.add(record)
            found.append({**record, "method": method.label})
        if wanted:
            figures.write(pictures, index, scale, (low, truth), predictions, found)
        records += found
    return records


def record_key(method: Method, pictures: Pictures, index: int, scale: Scale) -> str:
    """Everything that decides a record."""
    place, name, kind = pictures.data.high, pictures.name(index), pictures.data.eval_type(scale)
    source, stamp = pictures.sources[scale], pictures.stamp(index, scale)
    if isinstance(method.enlarge, Predictions):
        stamp += f" {method.enlarge.stamp(pictures, index, scale)}"
    if pictures.data.protocol != "paper":
        source += f" {pictures.data.protocol}"
    if pictures.data.degrade is not None:
        source += f" degrade {pictures.data.degrade.key}"
    return f"{method.key} | {place} | {name} | {kind} | {source} | {stamp} | {torch.__version__}"
