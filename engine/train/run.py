"""What a training run is made of, and how it is saved."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.config import TrainConfig
from engine.distributed import Processes
from engine.loader import Batches
from engine.train.monitor import Board, Profile
from engine.train.run_folder import LAST, LossLog, RunFolder
from engine.train.signals import StopRequest
from engine.train.state import TrainState
from engine.weights.checkpoint import save_checkpoint, serialise, tensors, write_whole
from utils import DataError

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

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_data.batches)

    def log(self, message: str) -> None:
        if self.outputs is not None:
            self.outputs.folder.log(message)


def save_last(run: Run) -> None:
    save(run, [LAST])


def save(run: Run, names: list[str]) -> None:
    """Write the state under these names, after the losses that led to it.

    Raises:
        DataError: a weight is not finite, and a diagnosis is saved; or a file can't be written.
    """
    check_weights(run)
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


def check_weights(run: Run) -> None:
    """Keep the last good checkpoint from weights that a finite gradient has made useless.

    Raises:
        DataError: some weight, or its average, is not finite; a diagnosis is saved.
    """
    state = run.state
    averages = {} if state.ema is None else state.ema.state_dict()
    named = [*tensors({"model": state.model.state_dict(), "ema": averages})]
    bad = [name.lstrip("/") for name, tensor in named if not bool(tensor.isfinite().all())]
    if not bad:
        return
    path = save_diagnosis(run, state.step, {"not_finite": bad, "lr": state.lr})
    error = DataError(
        f"step {state.step}: weights are not finite ({bad[0]}, one of {len(bad)}) after a step at "
        f"learning rate {state.lr:g}; saved in {path}; the last checkpoint is untouched"
    )
    run.processes.raise_once(error)


def save_diagnosis(run: Run, step: int, diagnosis: dict[str, Any]) -> Path:
    """Save the state, and what made it useless, beside the checkpoints; returns where."""
    path = run.path / f"diagnosis-step-{step}.pth"
    if run.outputs is not None:
        run.outputs.losses.flush()
        save_checkpoint(path, {**run.state.checkpoint(run.config), "diagnosis": diagnosis})
    return path
