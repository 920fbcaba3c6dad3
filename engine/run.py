"""What a training run is made of, and how it is saved."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.checkpoint import serialise, write_whole
from engine.config import TrainConfig
from engine.distributed import Processes
from engine.loading import Batches
from engine.monitor import Board, Profile
from engine.run_folder import LAST, LossLog, RunFolder
from engine.signals import StopRequest
from engine.state import TrainState

TENSORS = ("inp", "coord", "cell", "gt")


@dataclass(frozen=True)
class Data:
    """A data set's loader, and the sampler that says what its next iteration gives."""

    loader: Iterable[Any]
    batches: Batches
    wrapper: Any


@dataclass(frozen=True)
class Outputs:
    """What the main process writes to; no other process has it."""

    folder: RunFolder
    losses: LossLog
    board: Board


@dataclass
class Run:
    """A training run, handed from function to function."""

    config: TrainConfig
    path: Path
    processes: Processes
    device: torch.device
    stop: StopRequest
    state: TrainState
    model: nn.Module
    """The state's model, as it is trained: perhaps compiled, perhaps parallel."""
    train_data: Data
    val_data: Data | None
    outputs: Outputs | None
    profile: Profile
    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    stopping: bool = False
    save_due: bool = False
    broken: dict[str, None] = field(default_factory=dict)
    """Messages of broken photographs that this epoch did without."""

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_data.batches)

    def log(self, message: str) -> None:
        if self.outputs is not None:
            self.outputs.folder.log(message)


def save_last(run: Run) -> None:
    save(run, [LAST])


def save(run: Run, names: list[str]) -> None:
    """Write the state under these names, after the losses that led to it."""
    state, now = run.state, time.monotonic()
    state.seconds += now - run.started
    run.started = run.saved = now
    run.save_due = False
    if run.outputs is None:
        return
    run.outputs.losses.flush()
    content = serialise(state.checkpoint(run.config))
    for name in names:
        write_whole(run.path / name, content)
