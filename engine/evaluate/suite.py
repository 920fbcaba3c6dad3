"""Models and plain resizers over the data sets of the paper's tables, in one process.

Every model is loaded once and every picture decoded once: pictures outside, scales inside them,
methods innermost. Results are kept as they come (`engine.evaluate.suite_results`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from engine.distributed import Processes
from engine.evaluate.evaluate import Picture, from_uint8
from engine.evaluate.metrics import make_measures, scale_text
from engine.evaluate.suite_data import Image, Pictures, Scale, SuiteData
from engine.evaluate.suite_results import ResultStore
from engine.evaluate.tables import paper_row
from engine.render import baselines, render_once
from engine.weights.checkpoint import load_checkpoint, model_of
from engine.weights.download import file_sha256
from engine.weights.pretrained import find_weights, is_safetensors, read_safetensors
from utils import DataError


@dataclass(frozen=True)
class Method:
    """What enlarges a picture: uint8 (h, w, 3) and (height, width) -> (3, height, width) in [0, 1].

    `key` tells two methods apart whatever they are called; `row` is that of the paper's tables.
    """

    label: str
    key: str
    row: str | None
    enlarge: Callable[[Image, tuple[int, int]], Picture]
    about: dict[str, Any]


def baseline_method(name: str, device: torch.device) -> Method:
    """A plain resizer, on 8-bit pictures."""

    def enlarge(image: Image, size: tuple[int, int]) -> Picture:
        return from_uint8(baselines.enlarge(name, image, size)).to(device)

    label = baselines.label(name)
    row = "bicubic" if name.startswith("bicubic") else None
    return Method(label, f"baseline:{name}", row, enlarge, {"label": label, "rounding": "8-bit"})


def model_method(
    name: str,
    device: torch.device,
    *,
    precision: str = "fp32",
    self_ensemble: bool = False,
    raw_weights: bool = False,
    eval_bsize: int | None = None,
) -> Method:
    """A model by file or name; loaded here, once.

    Raises:
        ConfigError, DataError: as `engine.weights.pretrained.load_model`.
    """
    path = find_weights(name)
    checkpoint = read_safetensors(path) if is_safetensors(path) else load_checkpoint(path)
    model = model_of(checkpoint, path, raw_weights).to(device).eval()
    spec = {key: checkpoint["model"][key] for key in ("name", "args")}

    def enlarge(image: Image, size: tuple[int, int]) -> Picture:
        how: dict[str, Any] = {"precision": precision, "eval_bsize": eval_bsize}
        return render_once(image, model, size, self_ensemble, **how).to(device)

    options = [precision if precision != "fp32" else "", "self-ensemble" if self_ensemble else ""]
    options += ["raw weights" if raw_weights else ""]
    chosen = [option for option in options if option]
    label = model_label(path) + (f" ({', '.join(chosen)})" if chosen else "")
    checksum = file_sha256(path)
    about = {
        "label": label,
        "file": str(name),
        "sha256": checksum,
        "parameters": parameter_count(model),
        "spec": spec,
        "precision": precision,
        "self_ensemble": self_ensemble,
        "raw_weights": raw_weights,
        "rounding": "clamped to [0, 1], not rounded",
    }
    key = " ".join([f"model:{checksum}", *chosen])
    return Method(label, key, paper_row(spec), enlarge, about)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def model_label(path: Path) -> str:
    """What tables call a checkpoint: its name, with the run's folder where the name says little."""
    return f"{path.parent.name}/{path.stem}" if path.stem.startswith("epoch-") else path.stem


def distinct_labels(methods: Sequence[Method]) -> list[Method]:
    """The methods, each once, numbered where two of them are called the same."""
    unique = list({method.key: method for method in methods}.values())
    result: list[Method] = []
    for method in unique:
        same = sum(other.label == method.label for other in unique[: len(result)])
        label = f"{method.label} [{same + 1}]" if same else method.label
        about = {**method.about, "label": label}
        result.append(Method(label, method.key, method.row, method.enlarge, about))
    return result


@dataclass(frozen=True)
class Comparison:
    """All methods' pictures of one photograph at one scale."""

    suite: SuiteData
    name: str
    scale: Scale
    low: Image
    truth: Image
    pictures: dict[str, Picture]
    records: dict[str, dict[str, Any]]


def run_suites(
    suites: Sequence[tuple[SuiteData, Pictures]],
    methods: Sequence[Method],
    metrics: Sequence[str],
    store: ResultStore,
    *,
    device: torch.device,
    processes: Processes | None = None,
    progress: bool = True,
    wants: Callable[[SuiteData, str, Scale, bool], bool] = lambda suite, name, scale, known: False,
    on_comparison: Callable[[Comparison], None] = lambda comparison: None,
) -> list[dict[str, Any]]:
    """Every figure that is not in the store yet, into the store.

    Args:
        metrics: names of `engine.evaluate.metrics.METRICS`.
        wants: whether the pictures of a photograph at a scale are wanted, given whether all its
            figures are known; they then come to `on_comparison`, all methods together.
        on_comparison: gets every set of pictures that was computed whole.

    Returns:
        The records of everything asked for, in the order of suites, pictures, scales, methods;
        of all processes, on all of them.
    """
    processes = processes or Processes()
    makers = make_measures(metrics, device)
    units = [(data, pictures, i) for data, pictures in suites for i in range(len(pictures))]
    mine = [(n, unit) for n, unit in enumerate(units) if n % processes.count == processes.rank]
    found: list[tuple[int, list[dict[str, Any]]]] = []
    bar = tqdm(mine, unit="picture", leave=False, disable=not (progress and processes.is_main))
    try:
        for number, (data, pictures, index) in bar:
            bar.set_postfix_str(f"{data.name} {pictures.name(index)}")
            worker = Worker(data, pictures, index, methods, makers, store, wants, on_comparison)
            found.append((number, worker.run()))
    finally:
        bar.close()
        store.save()
    parts = processes.gather(found)
    everything = sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])
    return [record for _, records in everything for record in records]


@dataclass
class Worker:
    """One photograph, at all its scales, by all methods."""

    data: SuiteData
    pictures: Pictures
    index: int
    methods: Sequence[Method]
    makers: dict[str, Callable[..., Any]]
    store: ResultStore
    wants: Callable[[SuiteData, str, Scale, bool], bool]
    on_comparison: Callable[[Comparison], None]
    high: Image | None = None

    def run(self) -> list[dict[str, Any]]:
        """The photograph's records, by scale and method."""
        return [record for scale in self.pictures.scales for record in self.at_scale(scale)]

    def at_scale(self, scale: Scale) -> list[dict[str, Any]]:
        name, metrics = self.pictures.name(self.index), tuple(self.makers)
        keys = {method.label: self.key(method, scale) for method in self.methods}
        known = {label: self.store.get(key, metrics) for label, key in keys.items()}
        wanted = self.wants(self.data, name, scale, all(known.values()))
        if all(known.values()) and not wanted:
            return [{**record, "method": label} for label, record in known.items() if record]
        if self.high is None:
            self.high = self.pictures.read(self.index)
        low, truth = self.pictures.pair(self.index, self.high, scale)
        records, shown = {}, {}
        for method in self.methods:
            record = known[method.label]
            if record is None or wanted:
                started = time.perf_counter()
                picture = method.enlarge(low, truth.shape[:2])
                seconds = time.perf_counter() - started
                shown[method.label] = picture
                if record is None:
                    record = self.measure(method, scale, picture, low, truth)
                    record |= {"key": keys[method.label], "seconds": round(seconds, 4)}
                    self.store.add(record)
            records[method.label] = {**record, "method": method.label}
        if len(shown) == len(self.methods):
            self.on_comparison(Comparison(self.data, name, scale, low, truth, shown, records))
        return list(records.values())

    def key(self, method: Method, scale: Scale) -> str:
        """Everything that decides a record."""
        source, stamp = self.pictures.sources[scale], self.pictures.stamp(self.index, scale)
        kind = str(self.data.eval_type(scale))
        place = str(self.pictures.data.high)
        name = self.pictures.name(self.index)
        return " | ".join([method.key, place, name, kind, source, stamp, torch.__version__])

    def measure(
        self, method: Method, scale: Scale, picture: Picture, low: Image, truth: Image
    ) -> dict[str, Any]:
        kind = self.data.eval_type(scale)
        target = from_uint8(truth).to(picture.device)
        try:
            values = {name: make(kind)(picture, target) for name, make in self.makers.items()}
        except DataError as error:
            raise DataError(f"{self.pictures.high.names(self.index)[0]}: {error}") from error
        return {
            "suite": self.data.name,
            "image": self.pictures.name(self.index),
            "scale": scale_text(scale),
            "lr_source": self.pictures.sources[scale],
            "method": method.label,
            "values": values,
            "lr_size": list(low.shape[:2]),
            "size": list(truth.shape[:2]),
        }
