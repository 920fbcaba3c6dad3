"""The training loop."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from engine.config import Norm
from engine.evaluate.evaluate import evaluate
from engine.evaluate.panels import training_panel
from engine.loader import LostWorker, share
from engine.normalisation import normalise
from engine.runtime import autocast, say
from engine.train.lr_schedule import learning_rate
from engine.train.monitor import Board, StepReport, Throughput, first_lines, peak_memory
from engine.train.records import report_step, settle
from engine.train.run import TENSORS, Run, save, save_last
from engine.train.run_folder import BEST, LAST
from engine.train.signals import Stopped
from utils import DataError, time_text

MOST_PANELS = 50  # pictures are large, and runs long


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
            figures = throughput.figures()
            psnr = validate(run)
        except LostWorker as error:  # between two steps, or after the last one
            save_last(run)
            if run.stop.signum:  # which may have ended the loader's processes as well
                raise Stopped(run.stop.reason) from error
            saved = "" if run.outputs is None else f"saved {run.path / LAST}; "
            raise DataError(f"{error}; {saved}go on with --resume auto") from error
        finish_epoch(run, psnr, figures)
        if run.processes.sum(torch.tensor(run.stop.signum, device=run.device)) > 0:
            raise Stopped(run.stop.reason)
    run.profile.close()


def train_epoch(run: Run, throughput: Throughput) -> None:
    """The steps that are left of the current epoch; leaves when asked to stop, state saved."""
    config, state, batches = run.config, run.state, run.train_data.batches
    batches.start(state.epoch, state.position)
    run.model.train()
    reports: deque[StepReport] = deque()
    # A GPU works on while the numbers of the step before are looked at; a CPU has them at once,
    # and so its weights never take a step that is not finite.
    most_waiting = 1 if run.device.type == "cuda" else 0
    bar = tqdm(
        throughput.timed(run.train_data.loader if state.position < len(batches) else ()),
        desc=f"epoch {state.epoch + 1}/{config.epoch_max}",
        total=len(batches),
        initial=state.position,
        unit="step",
        leave=False,
        dynamic_ncols=True,
        disable=None if run.processes.is_main else True,
    )
    with bar, settled(run, reports, bar):
        for batch in bar:
            items = batches.items(state.position)
            lr = learning_rate(config, state.step, len(batches))
            state.set_lr(lr)
            state.optimizer.zero_grad(set_to_none=True)
            loss = backward(run, batch, items)
            reports.append(report_step(run, batch, items, lr, loss))
            while len(reports) > most_waiting:
                settle(run, reports.popleft(), bar)

            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.step += 1
            state.position += 1
            if config.ema_decay is not None:
                state.average(config.ema_decay)
            throughput.images += items
            run.profile.step()

            if run.stopping or run.save_due:
                while reports:
                    settle(run, reports.popleft(), bar)
                save_last(run)
            if run.stopping:
                raise Stopped(run.stop.reason)


@contextlib.contextmanager
def settled(run: Run, reports: deque[StepReport], bar: Any) -> Iterator[None]:
    """Leaves no report waiting, also where a loader process is lost."""
    lost = None
    try:
        yield
    except LostWorker as error:
        lost = error
    while reports:
        settle(run, reports.popleft(), bar)
    if lost is not None:
        raise lost


def backward(run: Run, batch: Mapping[str, Any], items: int) -> Tensor:
    """Gradients of the mean loss over a batch's items, micro-batch by micro-batch.

    Args:
        batch: this process's part.
        items: of the whole batch, over all processes.

    Returns:
        This process's part of the mean loss, 0-d.
    """
    config, count = run.config, run.processes.count
    part = share(items, count, run.processes.rank)
    counts = part.stop > part.start  # an empty share is filled with an item of no weight
    micro = -(-config.train_dataset.batch_size // (count * config.accumulate))
    pieces = list(zip(*(batch[name].split(micro) for name in TENSORS), strict=True))
    total = torch.zeros((), device=run.device)
    for number, piece in enumerate(pieces):
        inp, coord, cell, gt = (value.to(run.device, non_blocking=True) for value in piece)
        weight = len(inp) / items if counts else 0.0
        waits = isinstance(run.model, DistributedDataParallel) and number + 1 < len(pieces)
        with run.model.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
            with autocast(run.device, config.precision):
                colours = run.model(normalise(inp, config.data_norm.inp, 1), coord, cell)
            loss = mean_error(colours, gt, config.data_norm.gt) * weight
            run.state.scaler.scale(loss * count).backward()
        total = total + loss.detach()
    return total


def mean_error(colours: Tensor, gt: Tensor, norm: Norm) -> Tensor:
    """L1 between predictions (B, Q, 3), normalised and of any precision, and gt in [0, 1]; 0-d."""
    return F.l1_loss(colours.float(), normalise(gt, norm, -1))


def validate(run: Run) -> float | None:
    """PSNR over the validation set, each item counted once; None in epochs without.

    Raises:
        Stopped: a signal came; the state before the validation is saved.
    """
    config, state = run.config, run.state
    every = config.epoch_val
    if run.val_data is None or every is None or (state.epoch + 1) % every:
        return None
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
    sums = [result.psnr_sum, result.count, float(run.stop.signum > 0)]
    total, count, stopping = run.processes.sum(
        torch.tensor(sums, dtype=wide, device=run.device)
    ).tolist()
    if stopping:
        save_last(run)
        raise Stopped(run.stop.reason)
    messages = [message for part in run.processes.gather(replaced) for message in part]
    report_replaced(run, state.epoch + 1, "validation", len(messages), messages)
    return total / count


def report_replaced(run: Run, epoch: int, what: str, count: int, messages: Iterable[str]) -> None:
    """The log line of the items of an epoch that broken photographs were replaced in."""
    if count:
        told = first_lines([*dict.fromkeys(messages)])
        run.log(f"epoch {epoch}: {count} {what} items replaced for broken photographs: {told}")


def until_stopped(
    run: Run, loader: Iterable[Any], replaced: list[str]
) -> Iterator[dict[str, Tensor]]:
    """The tensors of each batch, until a signal comes; messages of replaced items to `replaced`."""
    bar = tqdm(
        loader, desc="validation", unit="batch", leave=False, dynamic_ncols=True,
        disable=None if run.processes.is_main else True,
    )  # fmt: skip
    with bar:
        for batch in bar:
            if run.stop.signum:
                return
            replaced += batch["skipped"]
            yield {name: batch[name] for name in TENSORS}


def finish_epoch(run: Run, psnr: float | None, figures: dict[str, float]) -> None:
    """Count the epoch as finished, log it and save it."""
    config, state = run.config, run.state
    scalars = {"train/loss": state.loss_sum / state.items, "train/lr": state.lr, **figures}
    scalars["peak_memory_gib"] = peak_memory(run.device)
    if psnr is not None:
        scalars["val/psnr"] = psnr
    broken = [message for part in run.processes.gather([*state.broken]) for message in part]
    skipped, state.skipped = state.skipped, 0
    state.broken.clear()
    improved = psnr is not None and (state.best is None or psnr > state.best)
    state.best = psnr if improved else state.best
    state.epoch, state.position, state.loss_sum, state.items = state.epoch + 1, 0, 0.0, 0

    now = time.monotonic()
    elapsed = state.seconds + now - run.started
    run.log(epoch_line(run, scalars, elapsed))
    report_replaced(run, state.epoch, "training", skipped, broken)
    if run.outputs is not None:
        run.outputs.board.add(state.epoch, scalars)
        if psnr is not None:
            show_panel(run, run.outputs.board)
    names = [BEST] if improved else []
    if config.epoch_save is not None and state.epoch % config.epoch_save == 0:
        names.append(f"epoch-{state.epoch}.pth")
    # The last one last: whoever goes on from it finds the others written.
    save(run, [*names, LAST])


def show_panel(run: Run, board: Board) -> None:
    """The first validation photographs as the model enlarges them now, to TensorBoard."""
    config, state = run.config, run.state
    assert config.epoch_val is not None
    assert run.val_data is not None
    number, count = state.epoch // config.epoch_val, config.epoch_max // config.epoch_val
    if number > 1 and number % max(1, count // MOST_PANELS):
        return
    try:
        panel = training_panel(
            state.evaluated,
            run.val_data.wrapper,
            config.data_norm,
            device=run.device,
            precision=config.precision,
        )
    except DataError as error:  # a broken photograph is no reason to end here
        say(f"no panel: {error}")
        return
    if panel is not None:
        board.add_picture(state.epoch, "val/panel", panel)


def epoch_line(run: Run, scalars: Mapping[str, float], elapsed: float) -> str:
    """The log line of an epoch."""
    epoch, last = run.state.epoch, run.config.epoch_max
    parts = [f"epoch {epoch}/{last}", f"train: loss={scalars['train/loss']:.4f}"]
    if "val/psnr" in scalars:
        parts.append(f"val: psnr={scalars['val/psnr']:.4f}")
    parts += [
        f"lr={scalars['train/lr']:.2e}",
        f"{scalars['images_per_second']:.1f} images/s",
        f"{100 * scalars['waiting']:.0f}% waiting for data",
        f"peak memory {scalars['peak_memory_gib']:.2f} GiB",
        f"{time_text(elapsed)}/{time_text(elapsed / epoch * last)}",
    ]
    return ", ".join(parts)
