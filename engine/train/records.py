"""The numbers of each step: collected over the processes, checked, and written down."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engine.runtime import say
from engine.train.monitor import StepReport
from engine.train.run import TENSORS, Run, save_diagnosis
from utils import DataError

SMALLEST_SCALE = 2.0**-10


def report_step(
    run: Run, batch: Mapping[str, Any], items: int, lr: float, loss: Tensor
) -> StepReport:
    """Start the numbers of a step on their way; a collective operation of all processes."""
    for message in batch["skipped"]:
        if message not in run.state.broken:
            say(f"replaced: {message}")
        run.state.broken[message] = None
    gradients = [p.grad for p in run.state.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    due = run.processes.is_main and (time.monotonic() - run.saved > run.config.save_minutes * 60)
    flags = [loss.new_full((), float(flag)) for flag in (run.stop.signum, due)]
    skipped = loss.new_full((), float(len(batch["skipped"])))
    numbers = run.processes.sum(torch.stack([loss, norm, *flags, skipped]))
    return StepReport(run.state.step + 1, lr, items, batch, loss, numbers)


def settle(run: Run, report: StepReport, bar: Any) -> None:
    """Take the numbers of a step into the records.

    Raises:
        DataError: the loss or the gradient is not finite; a diagnosis is saved.
    """
    state = run.state
    loss, norm, stop, due, skipped = report.values()
    # A scaler skips steps whose scaled gradient is too large, and then scales less.
    scaled = state.scaler.is_enabled()
    excused = not math.isfinite(norm) and scaled and state.scaler.get_scale() > SMALLEST_SCALE
    if not math.isfinite(loss) or not (math.isfinite(norm) or excused):
        diagnose(run, report, loss, norm / run.processes.count)
    state.loss_sum += loss * report.items
    state.items += report.items
    state.skipped += int(skipped)
    run.stopping = run.stopping or stop > 0
    run.save_due = run.save_due or due > 0
    if run.outputs is not None:
        run.outputs.losses.add(report.step, state.epoch + 1, loss)
    bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)


def diagnose(run: Run, report: StepReport, loss: float, norm: float) -> None:
    """Save what led to a number that is not finite, beside the checkpoints, and stop."""
    files = [name for index in report.batch["indices"].tolist() for name in file_names(run, index)]
    parts = run.processes.gather(
        {
            "files": files,
            "loss": float(report.loss),
            **{name: report.batch[name].cpu() for name in TENSORS},
        }
    )
    names = list(dict.fromkeys(name for part in parts for name in part["files"]))
    diagnosis = {"loss": loss, "gradient_norm": norm, "lr": report.lr, "batch": parts}
    path = save_diagnosis(run, report.step, diagnosis)
    error = DataError(
        f"step {report.step}: loss {loss:g} and gradient norm {norm:g} are not both finite, at "
        f"learning rate {report.lr:g}; the batch's files: {', '.join(names)}; saved in {path}; "
        "the last checkpoint is untouched"
    )
    run.processes.raise_once(error)


def file_names(run: Run, index: int) -> tuple[str, ...]:
    """The files of a training item."""
    dataset = run.train_data.wrapper.dataset
    if hasattr(dataset, "names"):
        return tuple(str(name) for name in dataset.names(index))
    return (f"item {index}",)
