"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from engine.evaluate.evaluate import evaluate
from engine.evaluate.panels import training_panel
from engine.loader import share
from engine.normalisation import normalise
from engine.runtime import autocast, say
from engine.train.losses import training_loss
from engine.train.lr_schedule import learning_rate
from engine.train.monitor import Throughput, peak_memory
from engine.train.run import TENSORS, Outputs, Run, StepReport, refuse_step, save
from engine.train.run_folder import BEST, LAST
from engine.train.signals import Stopped
from engine.train.state import random_states, restore_random_states
from engine.workers import LostWorker
from utils import DataError, time_text

MOST_PANELS = 50  # pictures are large, and runs long
SMALLEST_SCALE = 2.0**-10


def train(run: Run) -> None:
    """Train to the end of the last epoch.

    Raises:
        Stopped: a signal asked for an end; the state is saved.
        DataError: a broken photograph, a number that is not finite, a file that can't be written.
    """
    config, state = run.config, run.state
    while state.epoch < config.epoch_max:
        throughput = Throughput()
        try:
            train_epoch(run, throughput)
            rates = throughput.scalars()
            psnr = validate(run)
        except LostWorker as error:  # between two steps, or after the last one
            save(run)
            if run.stop.signum:  # which may have ended the loader's processes as well
                raise Stopped(run.stop.reason) from error
            saved = "" if run.outputs is None else f"saved {run.path / LAST}; "
            raise DataError(f"{error}; {saved}go on with --resume auto") from error
        finish_epoch(run, psnr, rates)
        if run.processes.sum(torch.tensor(run.stop.signum, device=run.device)) > 0:
            raise Stopped(run.stop.reason)
    if run.profiler is not None:
        run.profiler.stop()


def train_epoch(run: Run, throughput: Throughput) -> None:
    """Take the steps that are left of the current epoch.

    Raises:
        Stopped: a signal asked for an end; the state is saved.
    """
    state, batches = run.state, run.train_data.batches
    batches.start(state.epoch, state.position)
    run.model.train()
    bar = progress_bar(
        run,
        throughput.timed(run.train_data.loader if state.position < len(batches) else ()),
        desc=f"epoch {state.epoch + 1}/{run.config.epoch_max}",
        total=len(batches),
        initial=state.position,
        unit="step",
    )
    with bar:
        try:
            for batch in bar:
                throughput.images += batches.items(state.position)
                train_step(run, batch)
                bar.set_postfix_str(f"loss {run.latest_loss:.4f}", refresh=False)
                if run.profiler is not None:
                    run.profiler.step()
                if run.stopping or run.save_due:
                    drain(run)
                    save(run)
                if run.stopping:
                    raise Stopped(run.stop.reason)
        except LostWorker:
            drain(run)
            raise
        drain(run)


def train_step(run: Run, batch: Mapping[str, Any]) -> None:
    """Take one optimiser step; a collective operation of all processes.

    Args:
        batch: this process's part of the batch.

    Raises:
        DataError: a loss or a gradient is not finite; a diagnosis is saved.
    """
    config, state, processes = run.config, run.state, run.processes
    items = run.train_data.batches.items(state.position)  # over all processes
    lr = learning_rate(config, state.progress(run.steps_per_epoch), run.steps_per_epoch)
    state.set_lr(lr)
    state.optimizer.zero_grad(set_to_none=True)

    # The mean over the items of all processes, micro-batch by micro-batch.
    part = share(items, processes.count, processes.rank)
    has_share = part.stop > part.start  # an empty share is filled with an item of no weight
    size = -(-config.train_dataset.batch_size // (processes.count * config.accumulate))
    micro_batches = list(zip(*(batch[name].split(size) for name in TENSORS), strict=True))
    loss = torch.zeros((), device=run.device)
    for number, micro_batch in enumerate(micro_batches, start=1):
        inp, coord, cell, gt = (value.to(run.device, non_blocking=True) for value in micro_batch)
        if isinstance(run.model, DistributedDataParallel):  # gradients are exchanged once a step
            run.model.require_backward_grad_sync = number == len(micro_batches)
        with autocast(run.device, config.precision):
            prediction = run.model(normalise(inp, config.data_norm.inp, 1), coord, cell)
        weight = len(inp) / items if has_share else 0.0
        error = training_loss(prediction, gt, config.data_norm.gt, config.loss, coord)
        micro_loss = error * weight
        state.scaler.scale(micro_loss * processes.count).backward()
        loss = loss + micro_loss.detach()

    norm = torch.nn.utils.get_total_norm(
        [weight.grad for weight in state.model.parameters() if weight.grad is not None]
    )
    save_due = processes.is_main and time.monotonic() - run.saved > config.save_minutes * 60
    flags = [run.stop.signum, save_due, len(batch["skipped"])]
    numbers = torch.stack([loss, norm, *(loss.new_full((), float(flag)) for flag in flags)])
    report = StepReport(state.step + 1, lr, items, batch, loss, processes.sum(numbers))
    run.unread.append(report)
    # A GPU works on while the numbers of the step before are looked at; a CPU has them at once,
    # and so its weights never take a step that is not finite.
    drain(run, keep=1 if run.device.type == "cuda" else 0)

    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    state.position += 1
    if config.ema_decay is not None:
        state.average(config.ema_decay)


def drain(run: Run, keep: int = 0) -> None:
    """Record the steps whose numbers nobody has looked at yet, but the last `keep`."""
    while len(run.unread) > keep:
        record_step(run, run.unread.popleft())


def record_step(run: Run, report: StepReport) -> None:
    """Take the numbers of a step into the records.

    Raises:
        DataError: the loss or the gradient is not finite; a diagnosis is saved.
    """
    state = run.state
    loss, norm, stop, save_due, skipped = report.values()
    # A scaler skips steps whose scaled gradient is too large, and then scales less.
    scaled = state.scaler.is_enabled()
    excused = not math.isfinite(norm) and scaled and state.scaler.get_scale() > SMALLEST_SCALE
    if not math.isfinite(loss) or not (math.isfinite(norm) or excused):
        refuse_step(run, report, loss, norm / run.processes.count)
    for message in report.batch["skipped"]:
        if message not in state.broken:
            say(f"replaced: {message}")
        state.broken[message] = None
    run.latest_loss = loss
    state.loss_sum += loss * report.items
    state.items += report.items
    state.skipped += int(skipped)
    run.stopping = run.stopping or stop > 0
    run.save_due = run.save_due or save_due > 0
    if run.outputs is not None:
        run.outputs.losses.add(report.step, state.epoch + 1, loss)


def validate(run: Run) -> float | None:
    """PSNR over the validation set, each item counted once; None in epochs without.

    Raises:
        Stopped: a signal came; the state before the validation is saved.
    """
    config, state = run.config, run.state
    every = config.epoch_val
    if run.val_data is None or every is None or (state.epoch + 1) % every:
        return None
    # Statistics such as those of batch normalisation are each process's own since the last step.
    for model in (state.model, state.ema):
        run.processes.copy_from_main(() if model is None else model.buffers())
    # The same crops each time: scores of different epochs compare.
    run.val_data.batches.start(epoch=0)
    replaced: list[str] = []
    result = evaluate(
        state.evaluated,
        until_stopped(run, run.val_data.loader, replaced),
        run.device,
        config.data_norm,
        config.eval_type,
        config.eval_bsize,
        config.precision,
    )
    wide = torch.float32 if run.device.type == "mps" else torch.float64
    sums = torch.tensor(
        [result.psnr_sum, result.count, run.stop.signum], dtype=wide, device=run.device
    )
    total, count, stopping = run.processes.sum(sums).tolist()
    if stopping:
        save(run)
        raise Stopped(run.stop.reason)
    messages = [message for part in run.processes.gather(replaced) for message in part]
    log_replaced(run, state.epoch + 1, "validation", len(messages), messages)
    return total / count


def until_stopped(
    run: Run, loader: Iterable[Any], replaced: list[str]
) -> Iterator[dict[str, Tensor]]:
    """The tensors of each batch, until a signal comes; messages of replaced items to `replaced`."""
    with progress_bar(run, loader, desc="validation", unit="batch") as bar:
        for batch in bar:
            if run.stop.signum:
                return
            replaced += batch["skipped"]
            yield {name: batch[name] for name in TENSORS}


def progress_bar(run: Run, batches: Iterable[Any], **options: Any) -> Any:
    """A progress bar over batches, on the terminal of the main process only."""
    disable = None if run.processes.is_main else True
    return tqdm(batches, leave=False, dynamic_ncols=True, disable=disable, **options)


def finish_epoch(run: Run, psnr: float | None, rates: Mapping[str, float]) -> None:
    """Count the epoch as finished, log it and save it."""
    config, state = run.config, run.state
    known = {
        "train/loss": state.loss_sum / state.items,
        "train/lr": state.lr,
        **rates,
        "peak_memory_gib": peak_memory(run.device),
        "val/psnr": psnr,
    }
    scalars = {name: value for name, value in known.items() if value is not None}
    broken = [message for part in run.processes.gather([*state.broken]) for message in part]
    skipped, state.skipped = state.skipped, 0
    state.broken.clear()
    improved = psnr is not None and (state.best is None or psnr > state.best)
    state.best = psnr if improved else state.best
    state.epoch, state.position, state.loss_sum, state.items = state.epoch + 1, 0, 0.0, 0

    run.log(epoch_line(run, scalars))
    log_replaced(run, state.epoch, "training", skipped, broken)
    if run.outputs is not None:
        run.outputs.tensorboard.scalars(state.epoch, scalars)
    names = [BEST] if improved else []
    if config.epoch_save is not None and state.epoch % config.epoch_save == 0:
        names.append(f"epoch-{state.epoch}.pth")
    save(run, *names)
    if run.outputs is not None and psnr is not None:
        show_panel(run, run.outputs)


def epoch_line(run: Run, scalars: Mapping[str, float]) -> str:
    """The log line of an epoch."""
    epoch, last = run.state.epoch, run.config.epoch_max
    elapsed = run.state.seconds + time.monotonic() - run.started
    formats = {
        "train/loss": "train: loss={:.4f}",
        "val/psnr": "val: psnr={:.4f}",
        "train/lr": "lr={:.2e}",
        "images_per_second": "{:.1f} images/s",
        "waiting": "{:.0%} waiting for data",
        "peak_memory_gib": "peak memory {:.2f} GiB",
    }
    told = [text.format(scalars[name]) for name, text in formats.items() if name in scalars]
    times = f"{time_text(elapsed)} of {time_text(elapsed / epoch * last)}"
    return ", ".join([f"epoch {epoch}/{last}", *told, times])


def log_replaced(run: Run, epoch: int, what: str, count: int, messages: Iterable[str]) -> None:
    """Log how many items of an epoch were replaced for broken photographs, and the first few."""
    if count:
        told = [*dict.fromkeys(messages)]
        shown = told[:3] + [f"and {len(told) - 3} more"] * (len(told) > 3)
        run.log(
            f"epoch {epoch}: {count} {what} items replaced for broken photographs: "
            f"{'; '.join(shown)}"
        )


def show_panel(run: Run, outputs: Outputs) -> None:
    """Show in TensorBoard how the model enlarges the first validation photographs now.

    Whatever fails here costs the panel alone, and the saved generators are not drawn from.
    """
    config, state = run.config, run.state
    assert config.epoch_val is not None
    assert run.val_data is not None
    number, count = state.epoch // config.epoch_val, config.epoch_max // config.epoch_val
    if number > 1 and number % max(1, -(-count // MOST_PANELS)):
        return
    saved = random_states()
    try:
        panel = training_panel(
            state.evaluated,
            run.val_data.wrapper,
            config.data_norm,
            device=run.device,
            precision=config.precision,
        )
    except Exception as error:  # a broken photograph, an encoder that takes crops of one size only
        problem = f"no panel: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if problem != run.panel_problem:
            say(problem)
            run.panel_problem = problem
        return
    finally:
        restore_random_states(saved)
    if panel is not None:
        outputs.tensorboard.picture(state.epoch, "val/panel", panel)
