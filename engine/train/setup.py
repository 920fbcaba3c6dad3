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
from engine.loader import TRAIN_ITEMS, VAL_ITEMS, Batches, make_loader
from engine.runtime import say, settle_precision, usable_precision
from engine.train.device_loader import DeviceLoader
from engine.train.lr_schedule import learning_rate
from engine.train.monitor import TensorBoardWriter, start_profiler
from engine.train.resume import (
    ResumePoint,
    find_checkpoint,
    fingerprint,
    is_finished,
    refuse_differences,
)
from engine.train.run import Data, Outputs, Run
from engine.train.run_folder import LAST, LossLog, RunFolder
from engine.train.signals import StopRequest
from engine.train.state import make_state
from engine.weights.checkpoint import save_checkpoint


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
    run = None
    try:
        run = set_up(config, path, folder, options, processes, device, stop)
    finally:
        if folder is not None and run is None:
            folder.remove_if_unused()
    return run


def set_up(
    config: TrainConfig,
    path: Path,
    folder: RunFolder | None,
    options: Options,
    processes: Processes,
    device: torch.device,
    stop: StopRequest,
) -> Run | None:
    """As `prepare`, in a folder that is there; the main process alone is given it."""

    def find() -> ResumePoint | None:
        assert folder is not None
        return find_checkpoint(folder, options.resume, config.resume, options.overwrite)

    start: ResumePoint | None = processes.broadcast_from_main(find)
    if start is not None and is_finished(start.checkpoint, config):
        if folder is not None:
            say(f"{start.path}: finished, {start.checkpoint['epoch']} epochs of {config.epoch_max}")
            automatic = (options.resume or config.resume) == "auto"
            if automatic and start.path.parent == path and start.path.name != LAST:
                # The last one is damaged or gone, and nothing will write it any more.
                write_whole(path / LAST, start.path.read_bytes())
                say(f"{path / LAST}: made again from {start.path.name}")
        return None
    train_data = make_data(config.train_dataset, config, processes, device, training=True)
    val_data = None
    if config.val_dataset is not None and config.epoch_val is not None:
        val_data = make_data(config.val_dataset, config, processes, device, training=False)

    def check() -> dict[str, str]:
        parts = {"train_dataset": train_data, "val_dataset": val_data}
        files = {name: fingerprint(part.wrapper.dataset) for name, part in parts.items() if part}
        if start is not None and not options.resume_anyway:
            refuse_differences(start, config, files)
        return files

    files = processes.broadcast_from_main(check)
    state = make_state(config if start is None else dataclasses.replace(config, init=None), device)
    state.data = files
    if start is not None:
        state.restore(start.checkpoint, start.path, len(train_data.batches))
        state.set_lr(learning_rate(config, max(0, state.step - 1), len(train_data.batches)))
    model: nn.Module = state.model
    if config.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    run = Run(
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
    if folder is not None:
        if options.profile:
            run.profiler = start_profiler(path / "trace.json", options.profile)
        run.outputs = open_outputs(folder, run, start, options.overwrite)
        log_start(run, start)
    return run


def make_data(
    part: DataConfig,
    config: TrainConfig,
    processes: Processes,
    device: torch.device,
    *,
    training: bool,
) -> Data:
    """The data set of a part of the configuration, and this process's loader for it."""
    wrapper = datasets.make(part.wrapper, {"dataset": datasets.make(part.dataset)})
    batches = Batches(
        len(wrapper),
        part.batch_size,
        seed=config.seed,
        training=training,
        rank=processes.rank,
        processes=processes.count,
    )
    loader: Iterable[Any]
    if training and config.device_data:
        loader = DeviceLoader(
            wrapper, batches, device, stream=TRAIN_ITEMS, num_workers=config.num_workers
        )
    else:
        loader = make_loader(
            wrapper,
            batches,
            stream=TRAIN_ITEMS if training else VAL_ITEMS,
            num_workers=config.num_workers,
            on_bad_image=config.on_bad_image,
            pin_memory=device.type == "cuda",
        )
    return Data(loader, batches, wrapper)


def open_outputs(
    folder: RunFolder, run: Run, start: ResumePoint | None, overwrite: bool
) -> Outputs:
    """Open the files of a run; remove first what is there of a run that this one replaces."""
    config, state = run.config, run.state
    if start is None or (overwrite and not folder.holds(start.path)):
        folder.clear(diagnoses=overwrite)
    folder.write_config(config_dict(config))
    if start is not None and start.path.resolve() != (folder.path / LAST).resolve():
        # Before the losses are cut: else a later checkpoint would be the newest, without them.
        save_checkpoint(folder.path / LAST, state.checkpoint(config))
    losses = LossLog(folder.path / "losses.csv", state.step)
    tensorboard = TensorBoardWriter(folder.path / "tensorboard", state.epoch + 1)
    tensorboard.text(state.epoch, "config", yaml.safe_dump(config_dict(config), sort_keys=False))
    return Outputs(folder, losses, tensorboard)


def log_start(run: Run, start: ResumePoint | None) -> None:
    """Log what is trained on what, and from where."""
    config, state = run.config, run.state
    weights = sum(parameter.numel() for parameter in state.model.parameters())
    run.log(
        f"{run.path}: {config.model['name']} with {weights:,} weights, "
        f"{usable_precision(run.device, config.precision)} on {run.device}, "
        f"{run.processes.count} process(es)"
    )
    for name, data in (("train", run.train_data), ("val", run.val_data)):
        if data is not None:
            count, size = len(data.batches), data.batches.batch_size
            run.log(f"{name}: {len(data.wrapper)} items, {count} batches of {size}")
    if start is not None:
        run.log(
            f"going on from {start.path}: {state.epoch} epochs finished, {state.position} of "
            f"{run.steps_per_epoch} steps of the next"
        )
