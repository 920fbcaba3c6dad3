"""What a training run is made of, how it is saved, and what it leaves where numbers break."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets.files import write_whole
from engine.config import TrainConfig
from engine.distributed import Processes
from engine.loader import Batches
from engine.train.monitor import TensorBoardWriter
from engine.train.run_folder import LAST, LossLog, RunFolder
from engine.train.signals import StopRequest
from engine.train.state import TrainState
from engine.weights.checkpoint import save_checkpoint, serialise, tensors
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
    tensorboard: TensorBoardWriter


@dataclass
class StepReport:
    """What a step computed, on its way from the device.

    Attributes:
        lr: its learning rate.
        items: of its batch, over all processes.
        batch: this process's part of it, as the loader gave it.
        loss: this process's part of the loss.
        numbers: loss, norm of the gradient, whether some process was asked to stop, whether a
            save is due, and the count of replaced items; (5,), added up over the processes.
    """

    step: int
    lr: float
    items: int
    batch: Mapping[str, Any]
    loss: Tensor
    numbers: Tensor

    def __post_init__(self) -> None:
        self.copied: torch.cuda.Event | None = None
        if self.numbers.is_cuda:
            self.numbers = self.numbers.to("cpu", non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def values(self) -> list[float]:
        """The numbers, as soon as the device has computed them."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.numbers.tolist()


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
    outputs: Outputs | None = None
    profiler: torch.profiler.profile | None = None
    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    unread: deque[StepReport] = field(default_factory=deque)
    """Reports of steps whose numbers nobody has looked at yet."""
    latest_loss: float = math.nan
    panel_problem: str = ""
    """Why TensorBoard got no panel, as it was said last."""
    stopping: bool = False
    save_due: bool = False

    def __post_init__(self) -> None:
        modules = {"model": self.state.model, "ema": self.state.ema}
        self.never_finite = {
            f"/{part}/{name}"
            for part, module in modules.items()
            for name, buffer in (
                [] if module is None else module.named_buffers(remove_duplicate=False)
            )
            if not buffer.isfinite().all()
        }
        """Buffers that hold infinity from the start, such as an attention's mask."""

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_data.batches)

    def log(self, message: str) -> None:
        if self.outputs is not None:
            self.outputs.folder.log(message)


def save(run: Run, *names: str) -> None:
    """Write the state under these names and as the last one, after the losses that led to it.

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
    # The last one last: whoever goes on from it finds the others written.
    for name in (*names, LAST):
        write_whole(run.path / name, content)


def check_weights(run: Run) -> None:
    """Keep the last good checkpoint from weights that a finite gradient has made useless.

    Raises:
        DataError: some weight, or its average, is not finite; a diagnosis is saved.
    """
    state = run.state
    averages = {} if state.ema is None else state.ema.state_dict()
    named = tensors({"model": state.model.state_dict(), "ema": averages})
    bad = [
        name.lstrip("/")
        for name, tensor in named
        if name not in run.never_finite and not tensor.isfinite().all()
    ]
    if not bad:
        return
    path = save_diagnosis(run, state.step, {"not_finite": bad, "lr": state.lr})
    error = DataError(
        f"step {state.step}: weights are not finite ({bad[0]}, one of {len(bad)}) after a step at "
        f"learning rate {state.lr:g}; saved in {path}; the last checkpoint is untouched"
    )
    run.processes.raise_once(error)


def refuse_step(run: Run, report: StepReport, loss: float, norm: float) -> None:
    """Save what led to a loss or gradient that is not finite, and end the run.

    Raises:
        DataError: always.
    """
    dataset = run.train_data.wrapper.dataset
    indices = report.batch["indices"].tolist()
    if hasattr(dataset, "names"):
        files = [str(name) for index in indices for name in dataset.names(index)]
    else:
        files = [f"item {index}" for index in indices]
    part = {name: report.batch[name].cpu() for name in TENSORS}
    parts = run.processes.gather({"files": files, "loss": float(report.loss), **part})
    diagnosis = {"loss": loss, "gradient_norm": norm, "lr": report.lr, "batch": parts}
    path = save_diagnosis(run, report.step, diagnosis)
    names = ", ".join(dict.fromkeys(name for part in parts for name in part["files"]))
    error = DataError(
        f"step {report.step}: loss {loss:g} and gradient norm {norm:g} are not both finite, at "
        f"learning rate {report.lr:g}; the batch's files: {names}; saved in {path}; "
        "the last checkpoint is untouched"
    )
    run.processes.raise_once(error)


def save_diagnosis(run: Run, step: int, diagnosis: dict[str, Any]) -> Path:
    """Save the state, and what made it useless, beside the checkpoints; returns where."""
    path = run.path / f"diagnosis-step-{step}.pth"
    if run.outputs is not None:
        run.outputs.losses.flush()
        save_checkpoint(path, {**run.state.checkpoint(run.config), "diagnosis": diagnosis})
    return path
