"""What can be made to happen inside a training run; patched into a forked process before it starts.

Actions are names of signals that the run sends to itself at that moment.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def killed(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def signal_self(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


def at_rename(name: str, number: int, action: str = "SIGKILL") -> None:
    """At the number-th rename of a checkpoint to this name, its temporary file whole."""
    real, seen = os.replace, [0]

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == name:
            seen[0] += 1
            if seen[0] == number:
                signal_self(action)
        real(source, target)

    os.replace = replace  # type: ignore[assignment]


def in_write(name: str, number: int, action: str = "SIGKILL") -> None:
    """Half-way through the number-th write of a file of this name."""
    from datasets import files

    replacing, seen = files.replacing, [0]
    targets: dict[Path, str] = {}

    class HalfWriter:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> HalfWriter:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, content: memoryview) -> None:
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            signal_self(action)
            self.file.write(content[len(content) // 2 :])

        def flush(self) -> None:
            self.file.flush()

        def fileno(self) -> int:
            return self.file.fileno()

    def opened(path: Any, mode: str) -> Any:
        file = open(path, mode)  # noqa: SIM115
        if mode == "wb" and targets.get(path) == name:
            seen[0] += 1
            if seen[0] == number:
                return HalfWriter(file)
        return file

    @contextlib.contextmanager
    def noted(path: Any) -> Any:
        with replacing(path) as part:
            targets[part] = Path(path).name
            yield part

    files.replacing = noted
    files.open = opened  # type: ignore[attr-defined]


def in_validation(epoch: int, batch: int, action: str = "SIGKILL") -> None:
    """Before a batch of the validation of an epoch, both counted from 1."""
    from engine.train import loop

    real, seen = loop.evaluate, [0]

    def evaluate(model: Any, loader: Any, *rest: Any) -> Any:
        seen[0] += 1

        def batches() -> Any:
            for number, item in enumerate(loader, start=1):
                if seen[0] == epoch and number == batch:
                    signal_self(action)
                yield item

        return real(model, batches(), *rest)

    loop.evaluate = evaluate  # type: ignore[assignment]


def at_step(step: int, action: str = "SIGKILL", rank: int | None = None) -> None:
    """At the beginning of a step of this session, counted from 1; on one process or on all."""
    from engine.train import loop

    real, seen = loop.train_step, [0]

    def train_step(run: Any, batch: Any) -> None:
        seen[0] += 1
        if seen[0] == step and rank in (None, run.processes.rank):
            signal_self(action)
        real(run, batch)

    loop.train_step = train_step


def after_losses(number: int) -> None:
    """Killed after the number-th writing of losses, before the checkpoint that goes with them."""
    from engine.train import run

    real, seen = run.serialise, [0]

    def serialise(*arguments: Any) -> Any:
        seen[0] += 1
        if seen[0] == number:
            killed()
        return real(*arguments)

    run.serialise = serialise  # type: ignore[assignment]


def lost_worker(step: int) -> None:
    """A loader process is killed at the beginning of a step, as by a machine out of memory."""
    from engine.train import loop

    real, seen = loop.train_step, [0]

    def train_step(run: Any, batch: Any) -> None:
        seen[0] += 1
        if seen[0] == step:
            os.kill(run.train_data.loader._iterator._workers[0].pid, signal.SIGKILL)
            time.sleep(0.1)  # a handler of its end would come now, inside the step
        real(run, batch)

    loop.train_step = train_step


def stuck_after_signal() -> None:
    """SIGTERM in the first step, then a save that never ends."""
    from engine.train import run

    at_step(1, "SIGTERM")
    run.serialise = lambda _: time.sleep(1000)  # type: ignore[assignment,return-value]


def file_size_limit(size: int) -> None:
    """No file can grow beyond this: what a full disk does to large files."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def full_tensorboard() -> None:
    """No event can be written after the first epoch's, as on a full disk."""
    from engine.train import monitor

    real, seen = monitor.EventsWriter.write_event, [0]

    def write_event(self: Any, event: Any) -> Any:
        seen[0] += event.step > 1
        if seen[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, event)

    monitor.EventsWriter.write_event = write_event  # type: ignore[method-assign]


def non_finite(step: int, what: str) -> None:
    """The target ("loss") or the gradient alone ("gradient") is not finite at a step."""
    import torch

    from engine.train import loop

    real, seen = loop.train_step, [0]

    def train_step(run: Any, batch: Any) -> None:
        seen[0] += 1
        if seen[0] == step and what == "loss":
            batch["gt"][0, 0, 0] = float("inf")
        if seen[0] == step and what == "gradient":
            weight = list(run.state.model.parameters())[-1]
            weight.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
        real(run, batch)

    loop.train_step = train_step


def unused_parameter() -> None:
    """The encoder has a parameter that it never uses."""
    import torch

    from models import edsr

    real = edsr.EDSR.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        self.unused = torch.nn.Parameter(torch.ones(3))

    edsr.EDSR.__init__ = init  # type: ignore[method-assign]


def own_buffers() -> None:
    """The encoder's buffers differ between processes; those validated are written to `RANK.txt`."""
    import torch

    from models import edsr

    init, forward, rank = edsr.EDSR.__init__, edsr.EDSR.forward, int(os.environ["RANK"])
    values = [torch.tensor(value) for value in (0.5, 7, True, 1j, [])]
    values.append(torch.ones(2, 3).T)

    def made(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        for number, value in enumerate(values):
            self.register_buffer(f"own_{number}", value.clone())

    def passed(self: Any, inp: Any) -> Any:
        if self.training:
            for number in range(len(values)):
                self.get_buffer(f"own_{number}").mul_(rank == 0)
        else:
            shown = {name: tensor.tolist() for name, tensor in self.named_buffers()}
            Path(f"{rank}.txt").write_text(str(shown))
        return forward(self, inp)

    edsr.EDSR.__init__ = made  # type: ignore[method-assign]
    edsr.EDSR.forward = passed  # type: ignore[method-assign]


def user_code() -> None:
    """The user's encoder and data set are known; the variable USER_ERROR says what they raise."""
    importlib.import_module("tests.user_program")


FAULTS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        at_rename,
        in_write,
        in_validation,
        at_step,
        after_losses,
        lost_worker,
        stuck_after_signal,
        file_size_limit,
        full_tensorboard,
        non_finite,
        unused_parameter,
        own_buffers,
        user_code,
    )
}
