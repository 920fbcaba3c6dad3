"""Compare variants of a training run with error bars: train each with every seed, test, report.

    python scripts/study.py configs/studies/quick.yaml
    python scripts/study.py FILE --dry-run        what would run, and how long it would take
    python scripts/study.py FILE --only 2/8       part 2 of 8, for the jobs of an array
    python scripts/study.py FILE --report         gather what is there

Everything goes to save/study-NAME, NAME being the file's. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import datasets
import models
from datasets.files import make_folder, write_whole
from datasets.images import write_rgb
from engine.config import TrainConfig, read_train_config
from engine.evaluate.charts import figure_pixels
from engine.evaluate.study import (
    RESULT,
    UNDAMAGED,
    Run,
    Study,
    StudyTest,
    document,
    read_study,
    summarise,
)
from engine.evaluate.study_report import chart, markdown
from engine.evaluate.suite_results import write_json
from engine.normalisation import normalise
from engine.runtime import Parser, choose_device, parse_gpu, run_script, say
from engine.weights.checkpoint import load_checkpoint
from utils import ConfigError, time_text

ROOT = Path(__file__).resolve().parent.parent
LAST_WORDS = 300  # characters of a failed command's output that are repeated
MEASURED_STEPS = 3
PATIENCE = 30  # seconds that a command has to save its state when the study is ended


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("study", type=Path, metavar="FILE", help="a study (YAML)")
    add("--only", metavar="I/N", help="part I of N of the runs")
    add("--gpu", metavar="N[,N...]", help="GPUs, each for one run at a time")
    add("--report", action="store_true", help="gather what is there; run nothing")
    add("--dry-run", action="store_true", help="say what would run, and measure a few steps of it")
    return parser.parse_args()


def part(text: str) -> slice:
    """`I/N` as the runs of part I."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--only: {text!r} given; allowed: I/N, I from 1 to N")
    return slice(int(match[1]) - 1, None, int(match[2]))


class Commands:
    """Runs the project's scripts, and ends those that run when the study is ended."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[str]] = set()
        self.ended = False
        self.lock = threading.Lock()

    def run(self, script: str, arguments: Sequence[object], log: Path) -> None:
        """Run a script, its output to a file.

        Raises:
            RuntimeError: it failed; says how its output ended.
        """
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        with open(log, "a", encoding="utf-8") as output:
            output.write(f"$ {shlex.join(command)}\n")
            output.flush()
            with self.lock:
                if self.ended:
                    raise RuntimeError("the study was ended")
                process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
                self.running.add(process)
            code = process.wait()
        with self.lock:
            self.running.discard(process)
        if code:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "")
            raise RuntimeError(f"{script}: exit code {code}: {last[-LAST_WORDS:]}")

    def end(self) -> None:
        """End what runs; training saves its state first."""
        with self.lock:
            self.ended = True
            running = [*self.running]
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()


def carry_out(run: Run, study: Study, commands: Commands, gpu: str | None) -> None:
    """Train and test one run, and keep what was found.

    Raises:
        RuntimeError: a command failed.
    """
    make_folder(run.folder)
    log = run.folder / "study.log"
    device = [] if gpu is None else ["--gpu", gpu]
    place = run.folder.relative_to("save")
    train = ["--config", run.base, "--name", place, "--resume", "auto", *device]
    commands.run("train_liif.py", [*train, "--set", *run.overrides], log)
    records: list[dict[str, Any]] = []
    for file in study.config.test.degrade or [UNDAMAGED]:
        tested = test_once(run, study.config.test, commands, file, device)
        records += tested["results"]
    results = [
        {key: record[key] for key in ("suite", "scale", "image", "values")} for record in records
    ]
    trained = load_checkpoint(run.folder / "epoch-last.pth")
    megapixels = sum(np.prod(record["size"]) for record in records) / 1e6
    cost = {
        "weights": tested["methods"][0]["parameters"],
        "seconds_per_step": trained["seconds"] / max(1, trained["step"]),
        "milliseconds_per_megapixel": 1000
        * sum(record["seconds"] for record in records)
        / megapixels,
    }
    content = {"definition": run.definition, "results": results, "cost": cost}
    write_json(run.folder / RESULT, content)


def test_once(
    run: Run, test: StudyTest, commands: Commands, file: str, device: Sequence[str]
) -> dict[str, Any]:
    """Test a trained run on pictures damaged by the steps of a file; its name follows the suites'.

    Raises:
        RuntimeError: a command failed, or left pictures out.
    """
    name, damaged = Path(file).stem, file != UNDAMAGED
    found = run.folder / (f"test-{name}.json" if damaged else "test.json")
    options = ["--suite", *test.suites, "--lr", test.lr, "--metrics", *test.metrics, *device]
    for module in run.definition["training"]["imports"] or ():
        options += ["--import", module]
    options += ["--protocol", test.protocol] if test.protocol else []
    options += ["--degrade", file] if damaged else []
    options += ["--scales", *map(str, test.scales)] if test.scales else []
    model = run.folder / "epoch-last.pth"
    commands.run("test.py", [*options, "--model", model, "--json", found], run.folder / "study.log")
    tested = json.loads(found.read_text(encoding="utf-8"))
    if tested["skipped"]:
        first = tested["skipped"][0]
        raise RuntimeError(f"test.py: {first['title']} x{first['scale']}: {first['reason']}")
    for record in tested["results"]:
        record["suite"] += f", {name}" if damaged else ""
    return tested


def run_all(study: Study, runs: Sequence[Run], gpus: Sequence[str | None]) -> list[str]:
    """Carry out what is not finished, one run at a time on each GPU; gives the failures."""
    waiting = [run for run in runs if run.result() is None]
    if len(waiting) < len(runs):
        say(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    free: queue.Queue[str | None] = queue.Queue()
    for gpu in gpus:
        free.put(gpu)
    commands, failures = Commands(), []

    def one(run: Run) -> None:
        gpu, started = free.get(), time.monotonic()
        try:
            carry_out(run, study, commands, gpu)
            say(f"{run.name}: finished in {time_text(time.monotonic() - started)}")
        except Exception as error:  # the other runs can still be done
            if not commands.ended:
                failures.append(run.name)
                say(f"{run.name}: failed, {error}; see {run.folder / 'study.log'}")
        finally:
            free.put(gpu)

    pool = ThreadPoolExecutor(len(gpus))
    try:
        for _ in pool.map(one, waiting):
            pass
    except BaseException:
        commands.end()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def report(study: Study) -> None:
    """Write `study.json`, `study.md` and `study.png` of the runs that are finished."""
    found = {run.name: run.result() for run in study.runs}
    results = {name: result for name, result in found.items() if result is not None}
    make_folder(study.folder)
    write_json(study.folder / "study.json", document(study, results))
    rows = summarise(study, results)
    text = markdown(study, rows, results)
    write_whole(study.folder / "study.md", text.encode())
    figure = chart(study, rows)
    if figure is not None:
        write_rgb(study.folder / "study.png", figure_pixels(figure))
    print(text)
    say(f"{len(results)} of {len(study.runs)} runs; written to {study.folder}")


def tell_plan(study: Study, runs: Sequence[Run], gpu: str | None) -> None:
    """Every run with its overrides, and the training time by a few measured steps."""
    total, known = 0.0, dict[str, float]()
    for run in runs:
        if run.variant not in known:
            known[run.variant] = training_seconds(read_train_config(run.base, run.overrides), gpu)
        finished = run.result() is not None
        total += 0 if finished else known[run.variant]
        state = "finished" if finished else f"about {time_text(known[run.variant])}"
        print(f"{run.name}: {run.base} {shlex.join(run.overrides)} ({state})")
    print(f"{len(runs)} runs, training about {time_text(total)}; validation and tests come on top")


def training_seconds(config: TrainConfig, gpu: str | None) -> float:
    """How long a training will take, by the median of a few of its steps."""
    part = config.train_dataset
    wrapper: Any = datasets.make(part.wrapper, {"dataset": datasets.make(part.dataset)})
    device = choose_device(gpu)
    model = models.make(config.model).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    seconds = []
    for number in range(MEASURED_STEPS + 1):
        started = time.perf_counter()
        rng = np.random.default_rng(number)
        items = [wrapper.sample(index % len(wrapper), rng) for index in range(part.batch_size)]
        batch = {key: torch.stack([item[key] for item in items]).to(device) for key in items[0]}
        inp, gt = (
            normalise(batch[key], getattr(config.data_norm, key), axis)
            for key, axis in (("inp", 1), ("gt", -1))
        )
        loss = (model(inp, batch["coord"], batch["cell"]) - gt).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - started)
    steps = config.epoch_max * -(-len(wrapper) // part.batch_size)
    return float(np.median(seconds[1:])) * steps


@contextlib.contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """SIGTERM takes the way of an exception, on which what runs is ended."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    options = parse_arguments()
    study = read_study(options.study)
    runs = study.runs[part(options.only)] if options.only else study.runs
    gpus: list[str | None] = [*map(str, parse_gpu(options.gpu))] or [None]
    if options.dry_run:
        tell_plan(study, runs, gpus[0])
        return 0
    failures: list[str] = []
    if not options.report:
        with ends_on_sigterm():
            failures = run_all(study, runs, gpus)
    report(study)
    return 1 if failures else 0


if __name__ == "__main__":
    run_script(main)
