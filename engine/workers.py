"""Loader processes: how they start and end, and how their errors reach the main process."""

from __future__ import annotations

import atexit
import contextlib
import copy
import errno
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from multiprocessing.queues import Queue
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils import signal_handling

from engine.imports import no_silent_exit
from utils import DataError

GRACE = 1.0
"""Seconds that a loader process has to end by itself."""
END = object()
FULL_MEMORY = (
    "the shared memory (/dev/shm) is full; more of it (docker run --shm-size=8g) or fewer loader "
    "processes (num_workers) help"
)
OPEN_FILES = (
    "too many files are open; a higher limit (ulimit -n 4096) or fewer loader processes "
    "(num_workers) help"
)


class LostWorker(DataError):
    """Loader processes can't go on: one has ended, or shared memory or open files ran out."""


class Made(Dataset[Any]):
    """Batches by their keys; where a loader process makes one, an exception takes its place."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __getitem__(self, keys: Any) -> Any:
        try:
            with no_silent_exit():
                return self.make(keys)
        except BaseException as error:  # a SystemExit or KeyboardInterrupt of the user's as well
            if get_worker_info() is not None:
                return Failure.of(error)
            if isinstance(error, StopIteration):  # PyTorch would take it for the end of the data
                raise RuntimeError("StopIteration raised where an item is made") from error
            raise


class Failure(NamedTuple):
    """In place of a batch: what was raised in a loader process, and its traceback there."""

    error: BaseException
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        text = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # one whose constructor takes other arguments, or that holds an open file
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return cls(error, text)


def unchanged(batch: Any) -> Any:
    """Return the batch: PyTorch's default would convert its arrays."""
    return batch


class Worker(multiprocessing.Process):
    """A loader process. It ignores SIGTERM, which Python's exit relies on, so joining kills it."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for the process to end and kill it: at once, or with a timeout after a moment.

        PyTorch gives a timeout where it has told the process to end; Python's exit gives none.
        """
        super().join(0 if timeout is None else GRACE)
        if self.is_alive():
            self.kill()
            super().join(GRACE)


@atexit.register  # after that of multiprocessing, which is imported above, and so called before it
def kill_workers() -> None:
    """Kill loader processes before Python's exit handler removes the semaphores of their queues.

    One that is still starting would miss them, and print a traceback below the user's own.
    """
    for process in multiprocessing.active_children():
        if isinstance(process, Worker):
            process.kill()


class Loader(DataLoader[Any]):
    """Batches made in processes that live as long as the loader.

    What `make` raises is raised where its batch is asked for, whichever process it happened in.

    Args:
        make: gives the batch of what `batches` yields; must be picklable.
        num_workers: how many processes, 0 for none; None for `default_workers`.
        prefetch: how many batches each process makes ahead.

    Raises:
        LostWorker: while batches are asked for.
    """

    def __init__(
        self,
        make: Callable[[Any], Any],
        batches: Iterable[Any],
        num_workers: int | None,
        *,
        pin_memory: bool = False,
        prefetch: int = 4,
    ) -> None:
        workers = default_workers() if num_workers is None else num_workers
        context = copy.copy(multiprocessing.get_context())
        vars(context)["Process"] = Worker
        # PyTorch's handler of SIGCHLD raises wherever the program happens to be, also in the middle
        # of a step. Asking for a batch finds a dead process as well.
        signal_handling._SIGCHLD_handler_set = True
        # More workers than cores may be meant: photographs can take longer to arrive than to
        # decode.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        super().__init__(
            Made(make),
            sampler=batches,
            batch_size=None,
            num_workers=workers,
            collate_fn=unchanged,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=start_worker,
            multiprocessing_context=context if workers else None,
            # The loader seeds its workers from a generator: its own, so that the run's stays as
            # it is.
            generator=torch.Generator().manual_seed(0),
        )

    def __iter__(self) -> Any:
        if not self.num_workers:
            yield from super().__iter__()
            return
        with named_losses(self):
            batches = super().__iter__()
        while True:
            with named_losses(self):
                batch = next(batches, END)
            if batch is END:
                return
            if isinstance(batch, Failure):
                problem = shortage(batch.error)
                error = batch.error if problem is None else LostWorker(problem)
                raise error from Exception(f"in a loader process:\n{batch.traceback}")
            yield batch


@contextlib.contextmanager
def named_losses(loader: Loader) -> Iterator[None]:
    """Raise LostWorker for errors that a lost loader process or a full system has caused."""
    try:
        yield
    except Exception as error:
        workers = {worker.sentinel: worker for worker in getattr(loader._iterator, "_workers", [])}
        # A connection to a process breaks a moment before its end can be seen.
        ended = connection.wait(list(workers), GRACE)
        problem = how_it_ended(workers[ended[0]]) if ended else shortage(error)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            problem = FULL_MEMORY  # where the queues' locks are kept as well
        if problem is None:
            raise
        raise LostWorker(problem) from error


def how_it_ended(worker: multiprocessing.Process) -> str:
    """Describe the end of a process from its exit code."""
    worker.join(GRACE)  # its connections break a moment before its exit code can be read
    code = worker.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if code == errno.EMFILE:
        return OPEN_FILES
    if how == "SIGBUS":
        return f"a loader process was ended by a bus error (process {worker.pid}); {FULL_MEMORY}"
    if how == "SIGKILL":
        return f"a loader process was killed (process {worker.pid}; the memory may have been full)"
    return f"a loader process ended with {how} (process {worker.pid})"


def shortage(error: BaseException) -> str | None:
    """Return what the system has run out of if that is the cause of an error, else None."""
    text = str(error)
    if getattr(error, "errno", 0) in (errno.EMFILE, errno.ENFILE) or any(
        part in text for part in ("Too many open files", "items of ancdata")
    ):
        return OPEN_FILES
    return FULL_MEMORY if "</torch_" in text else None


def default_workers() -> int:
    """As many loader processes as this process may use cores, at most 8."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, count or 1)


def start_worker(_: int) -> None:
    """Prepare a loader process."""
    # A signal to the whole group of processes is for the main one, which stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    # A thread of the queue sends the batches; what it can't send would be missed for ever.
    Queue._on_queue_feeder_error = send_error  # type: ignore[attr-defined]
    # Another thread hands over shared memory by sockets; where no file can be opened any more, it
    # would try for ever.
    sys.excepthook = end_without_files


def end_without_files(kind: Any, error: BaseException, trace: Any) -> None:
    """End the process where a thread could not open a file; print other errors."""
    if shortage(error) == OPEN_FILES:
        os._exit(errno.EMFILE)
    sys.__excepthook__(kind, error, trace)


def end_with_parent() -> None:
    """End this process when its parent has ended, however long the batch in the making takes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def send_error(queue: Any, error: BaseException, item: Any) -> None:
    """Send what kept a batch from being sent in its place."""
    number, _ = item
    queue.put((number, Failure.of(error)))
