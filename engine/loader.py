"""Batches that are a function of seed, epoch and position alone.

Neither the number of loader processes nor that of training processes nor an interruption changes
what a run sees: each position of each epoch has its own generator of random draws.
"""

from __future__ import annotations

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.queues import Queue
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from utils import ConfigError, DataError

# First numbers after the seed, so that no two uses of a seed share their draws.
TRAIN_ITEMS, VAL_ITEMS, TRAIN_ORDER, REPLACEMENTS = 0, 1, 2, 3
REPLACEMENT_TRIES = 100
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
SIZES_DIFFER = (
    "the items of a batch differ in size; allowed: inp_size and sample_q in the wrapper's args, "
    "or a batch_size of 1"
)


class LostWorker(DataError):
    """The loader's processes can't go on: one has ended, or the system gives them too little."""


class Wrapper(Protocol):
    """What the wrappers of `datasets` offer."""

    def __len__(self) -> int: ...
    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]: ...


class Key(NamedTuple):
    """Which item a worker makes: its number in the data set, and when in the run."""

    item: int
    epoch: int
    position: int


def share(count: int, processes: int, rank: int) -> slice:
    """The part of `count` items that a process takes; sizes differ by one at most."""
    small, extra = divmod(count, processes)
    start = rank * small + min(rank, extra)
    return slice(start, start + small + (rank < extra))


def per_process(batch_size: int, processes: int, accumulate: int = 1) -> int:
    """Items of a micro-batch on one process.

    Raises:
        ConfigError: the batch does not split evenly; names sizes that do.
    """
    parts = processes * accumulate
    if batch_size % parts:
        below = batch_size // parts * parts
        sizes = " or ".join(str(size) for size in (below, below + parts) if size)
        raise ConfigError(
            f"train_dataset.batch_size: {batch_size} given; allowed over {processes} processes "
            f"with accumulate {accumulate}: multiples of {parts}, such as {sizes}"
        )
    return batch_size // parts


class Batches(Sampler[list[Key]]):
    """The keys of one epoch's batches from a batch on, for one process of several.

    In training the order is drawn anew for each epoch, and every process takes its share of each
    batch. A process whose share of the last, smaller batch is empty still gets that batch's first
    item, so that all take the same number of steps; the training loop gives it no weight.

    In validation whole batches are dealt out in turn, since a batch has one pooled score.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        training: bool,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.length, self.batch_size = length, batch_size
        self.seed, self.training = seed, training
        self.rank, self.processes = rank, processes
        self.epoch, self.first = 0, 0

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)

    def start(self, epoch: int, first: int = 0) -> None:
        """Say which epoch (from 0) and which of its batches the next iteration begins with."""
        self.epoch, self.first = epoch, first

    def items(self, batch: int) -> int:
        """How many items a batch has, over all processes."""
        return min(self.batch_size, self.length - batch * self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Indices in the order in which an epoch shows them, int64 (length,)."""
        if not self.training:
            return np.arange(self.length)
        return np.random.default_rng([self.seed, TRAIN_ORDER, epoch]).permutation(self.length)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        order = self.order(epoch)
        for batch in range(self.first, len(self)):
            first, items = batch * self.batch_size, self.items(batch)
            if self.training:
                part = share(items, self.processes, self.rank)
                positions = range(first + part.start, first + part.stop) or range(first, first + 1)
            elif batch % self.processes == self.rank:
                positions = range(first, first + items)
            else:
                continue
            yield [Key(int(order[position]), epoch, position) for position in positions]


class Drawn:
    """Makes batches of a wrapper's items, each with its own random draws.

    Args:
        on_bad_image: whether a photograph that can't be read is replaced ("skip") or raised.
    """

    def __init__(self, wrapper: Wrapper, *, seed: int, stream: int, on_bad_image: str) -> None:
        self.wrapper, self.seed, self.stream = wrapper, seed, stream
        self.on_bad_image = on_bad_image

    def __call__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """A batch: the items' tensors stacked, their `indices`, and messages of those `skipped`.

        Raises:
            DataError: a photograph can't be read, or the items differ in size.
        """
        skipped: list[str] = []
        items = [self.item(key, skipped) for key in keys]
        if len({tuple(tuple(item[name].shape) for name in sorted(item)) for item in items}) > 1:
            raise DataError(SIZES_DIFFER)
        batch: dict[str, Any] = default_collate(items)
        return {**batch, "indices": torch.tensor([key.item for key in keys]), "skipped": skipped}

    def item(self, key: Key, skipped: list[str]) -> dict[str, Tensor]:
        """The item of a key, or the first unbroken one of those that the key draws."""
        try:
            return self.make(key.item, key)
        except DataError as error:
            if self.on_bad_image == "stop":
                raise
            skipped.append(str(error))
            entropy = [self.seed, REPLACEMENTS, self.stream, key.epoch, key.position]
            rng = np.random.default_rng(entropy)
            for _ in range(REPLACEMENT_TRIES):
                with contextlib.suppress(DataError):
                    return self.make(int(rng.integers(len(self.wrapper))), key)
            raise

    def make(self, index: int, key: Key) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, self.stream, key.epoch, key.position])
        return self.wrapper.sample(index, rng)


class Made(Dataset[Any]):
    """Batches by their keys; where a loader process makes one, an exception takes its place."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __getitem__(self, keys: Any) -> Any:
        if get_worker_info() is None:
            return self.make(keys)
        try:
            return self.make(keys)
        except BaseException as error:  # a SystemExit or KeyboardInterrupt of the user's as well
            return Failure.of(error)


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
    return batch


class Worker(multiprocessing.Process):
    """A loader process, killed by joining it: it ignores SIGTERM, which Python's exit relies on."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for the process to end, briefly if it was told to (then there is a timeout)."""
        super().join(0 if timeout is None else GRACE)
        if self.is_alive():
            self.kill()
            super().join(GRACE)


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
        with quiet_sigchld(), named_losses(self):
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
def quiet_sigchld() -> Iterator[None]:
    """Undo PyTorch's handler, which raises wherever the program happens to be.

    Waiting for a batch finds a dead process as well, between two steps.
    """
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    yield
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)


@contextlib.contextmanager
def named_losses(loader: Loader) -> Iterator[None]:
    """Say what became of the loader's processes where asking them for a batch fails."""
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
    """What the exit code of a process that nobody told to end says."""
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
    """What the system lacks where an error of handing over a batch comes from that."""
    text = str(error)
    if getattr(error, "errno", 0) in (errno.EMFILE, errno.ENFILE) or any(
        part in text for part in ("Too many open files", "items of ancdata")
    ):
        return OPEN_FILES
    return FULL_MEMORY if "</torch_" in text else None


def make_loader(
    wrapper: Wrapper,
    batches: Batches,
    *,
    stream: int,
    num_workers: int | None,
    on_bad_image: str,
    pin_memory: bool = False,
) -> Loader:
    """The loader of one process; `batches.start` says what its next iteration gives."""
    drawn = Drawn(wrapper, seed=batches.seed, stream=stream, on_bad_image=on_bad_image)
    return Loader(drawn, batches, num_workers, pin_memory=pin_memory)


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
    # Another hands over the files of shared memory; without one to do that in it tries for ever.
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
