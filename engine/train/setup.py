"""Set up a session of a training run: from a configuration and a folder to the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import datasets
from datasets.files import write_whole
from engine.config import DataConfig, TrainConfig, config_dict
from engine.distributed import Processes, parallel
from engine.loader import TRAIN_ITEMS, VAL_ITEMS, Batches, Drawn
from engine.runtime import say, settle_precision, usable_precision
from engine.train.device_loader import DeviceLoader
from engine.train.lr_schedule import learning_rate
from engine.train.monitor import TensorBoardWriter, start_profiler
from engine.train.resume import (
    ResumePoint,
    find_checkpoint,
    fingerprint,
    is_finished,
    lies_in,
    refuse_differences,
)
from engine.train.run import Data, Outputs, Run
from engine.train.run_folder import LAST, LossLog, RunFolder
from engine.train.signals import StopRequest
from engine.train.state import make_state
from engine.weights.checkpoint import save_checkpoint
from engine.workers import Loader
from utils import DataError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says beyond the configuration."""

    resume: str | None = None
    """A checkpoint to go on from, or "auto" for the newest whole one of the folder."""
    resume_anyway: bool = False
    overwrite: bool = False
    profile: int = 0


def prepare(
    config: TrainConfig,
    path: Path,
    options: Options,
    processes: Processes,
    device: torch.device,
    stop: StopRequest,
) -> Run | None:
    """Set up everything that a run needs, or give None where the run in this folder is finished.

    Raises:
        ConfigError: settings that this machine or the folder's run do not allow.
        DataError: files that can't be read or written.
    """
    settle_precision(device, config.precision)
    folder = RunFolder(path) if processes.is_main else None
    try:
        start: ResumePoint | None = processes.broadcast_from_main(
            lambda: find_checkpoint(path, options.resume, config.resume, options.overwrite)
        )
        if start is not None and is_finished(start.checkpoint, config):
            if processes.is_main:
                restore_last(start, config, path, (options.resume or config.resume) == "auto")
            return None
        run = make_run(config, path, start, options.resume_anyway, processes, device, stop)
        if folder is not None:
            run.outputs = open_outputs(folder, run, start, options)
        return run
    finally:
        if folder is not None:
            folder.remove_if_unused()


def restore_last(start: ResumePoint, config: TrainConfig, path: Path, automatic: bool) -> None:
    """Say that the run is finished, and mend a last checkpoint that nothing will write any more."""
    say(f"{start.path}: finished, {start.checkpoint['epoch']} epochs of {config.epoch_max}")
    if automatic and start.path.parent == path and start.path.name != LAST:
        write_whole(path / LAST, start.path.read_bytes())
        say(f"{path / LAST}: made again from {start.path.name}")


def make_run(
    config: TrainConfig,
    path: Path,
    start: ResumePoint | None,
    resume_anyway: bool,
    processes: Processes,
    device: torch.device,
    stop: StopRequest,
) -> Run:
    """The data and the state of a run; nothing is written.

    Raises:
        ConfigError: the checkpoint to go on from is of another run.
        DataError: files that can't be read.
    """
    train_data = make_data(config.train_dataset, config, processes, device, training=True)
    parts, val_data = {"train_dataset": train_data}, None
    if config.val_dataset is not None and config.epoch_val is not None:
        val_data = make_data(config.val_dataset, config, processes, device, training=False)
        parts["val_dataset"] = val_data

    def check() -> dict[str, str]:
        files = {name: fingerprint(part.wrapper.dataset) for name, part in parts.items()}
        if start is not None and not resume_anyway:
            refuse_differences(start, config, files)
        return files

    files = processes.broadcast_from_main(check)
    state = make_state(config if start is None else dataclasses.replace(config, init=None), device)
    state.data = files
    if start is not None:
        steps = len(train_data.batches)
        state.restore(start.checkpoint, start.path, steps)
        state.set_lr(learning_rate(config, max(0, state.progress(steps) - 1), steps))
    model: nn.Module = state.model
    if config.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    return Run(
        config=config,
        path=path,
        processes=processes,
        device=device,
        stop=stop,
        state=state,
        model=parallel(model, device, processes.count, config.accumulate),
        train_data=train_data,
        val_data=val_data,
    )


def make_data(
    part: DataConfig,
    config: TrainConfig,
    processes: Processes,
    device: torch.device,
    *,
    training: bool,
) -> Data:
    """The data set of a part of the configuration, and this process's loader for it.

    Raises:
        DataError: files that can't be read, or a data set without items.
    """
    wrapper = datasets.make(part.wrapper, {"dataset": datasets.make(part.dataset)})
    if len(wrapper) == 0:
        name = "train_dataset" if training else "val_dataset"
        raise DataError(f"{name}: {part.dataset['name']!r} of 0 items given; allowed: 1 or more")
    batches = Batches(
        len(wrapper),
        part.batch_size,
        seed=config.seed,
        training=training,
        rank=processes.rank,
        processes=processes.count,
    )
    stream, workers = TRAIN_ITEMS if training else VAL_ITEMS, config.num_workers
    loader: Iterable[Any]
    if training and config.device_data:
        loader = DeviceLoader(wrapper, batches, device, stream=stream, num_workers=workers)
    else:
        drawn = Drawn(wrapper, seed=config.seed, stream=stream, on_bad_image=config.on_bad_image)
        loader = Loader(drawn, batches, workers, pin_memory=device.type == "cuda")
    return Data(loader, batches, wrapper)


def open_outputs(
    folder: RunFolder, run: Run, start: ResumePoint | None, options: Options
) -> Outputs:
    """Open a run's files, without what is there of a run that it replaces, and log its start."""
    config, state, path = run.config, run.state, folder.path
    if start is None or (options.overwrite and not lies_in(start.path, path)):
        folder.clear(diagnoses=options.overwrite)
    folder.write_config(config_dict(config))
    if start is not None and start.path.resolve() != (path / LAST).resolve():
        # Before the losses are cut: else a later checkpoint would be the newest, without them.
        save_checkpoint(path / LAST, state.checkpoint(config))
    losses = LossLog(path / "losses.csv", state.step)
    tensorboard = TensorBoardWriter(path / "tensorboard", state.epoch + 1)
    tensorboard.text(state.epoch, "config", yaml.safe_dump(config_dict(config), sort_keys=False))
    if options.profile:
        run.profiler = start_profiler(path / "trace.json", options.profile)

    weights = sum(parameter.numel() for parameter in state.model.parameters())
    folder.log(
        f"{path}: {config.model['name']} with {weights:,} weights, "
        f"{usable_precision(run.device, config.precision)} on {run.device}, "
        f"{run.processes.count} process(es)"
    )
    for name, data in (("train", run.train_data), ("val", run.val_data)):
        if data is not None:
            count, size = len(data.batches), data.batches.batch_size
            folder.log(f"{name}: {len(data.wrapper)} items, {count} batches of {size}")
    if start is not None:
        folder.log(
            f"going on from {start.path}: {state.epoch} epochs finished, {state.position} of "
            f"{run.steps_per_epoch} steps of the next"
        )
    return Outputs(folder, losses, tensorboard)
