"""A sitting of a training run: from a configuration and a folder to the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import datasets
from engine.config import DataConfig, TrainConfig, config_dict
from engine.distributed import Processes, parallel
from engine.loader import TRAIN_ITEMS, VAL_ITEMS, Batches, make_loader
from engine.runtime import say, settle_precision, usable_precision
from engine.train.device_loader import DeviceLoader
from engine.train.lr_schedule import learning_rate
from engine.train.monitor import Board, Profile
from engine.train.resume import Found, find_checkpoint, fingerprint, refuse_differences
from engine.train.run import Data, Outputs, Run
from engine.train.run_folder import LAST, LossLog, RunFolder
from engine.train.signals import StopRequest
from engine.train.state import make_state, plain_spec
from engine.weights.checkpoint import save_checkpoint, write_whole


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
    """Everything that a run needs, or None where the run in this folder is finished.

    Raises:
        ConfigError: settings that this machine or the folder's run do not allow.
        DataError: files that can't be read or written.
    """
    settle_precision(device, config.precision)
    folder = RunFolder(path) if processes.is_main else None

    def find() -> Found | None:
        assert folder is not None
        return find_checkpoint(folder, options.resume, config.resume, options.overwrite)

    found: Found | None = processes.broadcast_from_main(find)
    if found is not None and is_finished(found[1], config):
        if folder is not None:
            say(f"{found[0]}: finished, {found[1]['epoch']} epochs of {config.epoch_max}")
            automatic = (options.resume or config.resume) == "auto"
            if automatic and found[0].parent == path and found[0].name != LAST:
                # The last one is damaged or gone, and nothing will write it any more.
                write_whole(path / LAST, found[0].read_bytes())
                say(f"{path / LAST}: made again from {found[0].name}")
        return None
    train_data = make_data(config.train_dataset, config, processes, device, training=True)
    val_data = None
    if config.val_dataset is not None and config.epoch_val is not None:
        val_data = make_data(config.val_dataset, config, processes, device, training=False)

    def check() -> dict[str, str]:
        parts = {"train_dataset": train_data, "val_dataset": val_data}
        files = {name: fingerprint(part.wrapper.dataset) for name, part in parts.items() if part}
        if found is not None and not options.resume_anyway:
            refuse_differences(found, config, files)
        return files

    files = processes.broadcast_from_main(check)
    state = make_state(config if found is None else dataclasses.replace(config, init=None), device)
    state.data = files
    if found is not None:
        state.restore(found[1], found[0], len(train_data.batches))
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
        outputs=None,
        profile=Profile(path / "trace.json", options.profile if processes.is_main else 0),
    )
    if folder is not None:
        run.outputs = open_outputs(folder, run, found, options.overwrite)
        describe(run, found)
    return run


def is_finished(checkpoint: Mapping[str, Any], config: TrainConfig) -> bool:
    """Whether a checkpoint is the end of the configured run; not that of another model."""
    same = plain_spec(checkpoint["model"]) == plain_spec(config.model)
    return same and checkpoint.get("epoch", 0) >= config.epoch_max


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
    stream = TRAIN_ITEMS if training else VAL_ITEMS
    if training and config.device_data:
        loader = DeviceLoader(
            wrapper, batches, device, stream=stream, num_workers=config.num_workers
        )
    else:
        loader = make_loader(
            wrapper,
            batches,
            stream=stream,
            num_workers=config.num_workers,
            on_bad_image=config.on_bad_image,
            pin_memory=device.type == "cuda",
        )
    return Data(loader, batches, wrapper)


def open_outputs(folder: RunFolder, run: Run, found: Found | None, overwrite: bool) -> Outputs:
    """The files of a run; what a run that starts over or from elsewhere finds is removed first."""
    config, state = run.config, run.state
    if found is None or (overwrite and not folder.holds(found[0])):
        folder.clear(diagnoses=overwrite)
    folder.write_config(config_dict(config))
    if found is not None and found[0].resolve() != (folder.path / LAST).resolve():
        # Before the losses are cut: else a later checkpoint would be the newest, without them.
        save_checkpoint(folder.path / LAST, state.checkpoint(config))
    losses = LossLog(folder.path / "losses.csv", state.step)
    board = Board(folder.path / "tensorboard", state.epoch + 1)
    board.add_text(state.epoch, "config", yaml.safe_dump(config_dict(config), sort_keys=False))
    return Outputs(folder, losses, board)


def describe(run: Run, found: Found | None) -> None:
    """The first lines of a sitting's log."""
    config, state = run.config, run.state
    weights = sum(parameter.numel() for parameter in state.model.parameters())
    run.log(
        f"{run.path}: {config.model['name']} with {weights:,} weights, "
        f"{usable_precision(run.device, config.precision)} on {run.device}, "
        f"{run.processes.count} process(es)"
    )
    for name, data in (("train", run.train_data), ("val", run.val_data)):
        if data is not None:
            run.log(
                f"{name}: {len(data.wrapper)} items, {len(data.batches)} batches of "
                f"{data.batches.batch_size}"
            )
    if found is not None:
        run.log(
            f"going on from {found[0]}: {state.epoch} epochs finished, {state.position} of "
            f"{run.steps_per_epoch} steps of the next"
        )
