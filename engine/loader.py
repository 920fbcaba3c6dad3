"""Batches that are a function of seed, epoch and position alone.

Neither the number of loader processes nor that of training processes nor an interruption changes
what a run sees: each position of each epoch has its own generator of random draws.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from utils import ConfigError, DataError

# First numbers after the seed, so that no two uses of a seed share their draws.
TRAIN_ITEMS, VAL_ITEMS, TRAIN_ORDER, REPLACEMENTS = 0, 1, 2, 3
REPLACEMENT_TRIES = 100
SIZES_DIFFER = (
    "the items of a batch differ in size; allowed: inp_size and sample_q in the wrapper's args, "
    "or a batch_size of 1"
)


class LostWorker(DataError):
    """A loader process has ended on its own."""


class Wrapper(Protocol):
    """What the wrappers of `datasets` offer."""

    def __len__(self) -> int: ...
    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]: ...


class Key(NamedTuple):
    """Which item a worker makes: its number in the data set, and when in the run."""

    item: int
    epoch: int
    position: int


class BadBatch(NamedTuple):
    """In place of a batch: the one line that says which photograph is broken."""

    message: str


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


class Drawn(Dataset[Any]):
    """Items by key; a broken photograph becomes a message, or is replaced where that is asked."""

    def __init__(self, wrapper: Wrapper, *, seed: int, stream: int, on_bad_image: str) -> None:
        self.wrapper, self.seed, self.stream = wrapper, seed, stream
        self.on_bad_image = on_bad_image

    def __getitem__(self, key: Key) -> tuple[Key, dict[str, Tensor] | None, str | None]:
        try:
            return key, self.make(key.item, key), None
        except DataError as error:
            if self.on_bad_image == "stop":
                return key, None, str(error)
            return key, self.replacement(key), str(error)

    def make(self, index: int, key: Key) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, self.stream, key.epoch, key.position])
        return self.wrapper.sample(index, rng)

    def replacement(self, key: Key) -> dict[str, Tensor] | None:
        """The first unbroken of the photographs that the key draws, always the same ones."""
        entropy = [self.seed, REPLACEMENTS, self.stream, key.epoch, key.position]
        rng = np.random.default_rng(entropy)
        for _ in range(REPLACEMENT_TRIES):
            try:
                return self.make(int(rng.integers(len(self.wrapper))), key)
            except DataError:
                continue
        return None


def collate(items: Sequence[tuple[Key, dict[str, Tensor] | None, str | None]]) -> Any:
    """A batch: each item's tensors stacked, its `indices`, and the messages of those `skipped`."""
    messages = [message for _, _, message in items if message is not None]
    made = [item for _, item, _ in items if item is not None]
    if len(made) < len(items):
        return BadBatch(messages[0])
    shapes = {tuple(tuple(item[name].shape) for name in sorted(item)) for item in made}
    if len(shapes) > 1:
        return BadBatch(SIZES_DIFFER)
    batch = default_collate(made)
    batch["indices"] = torch.tensor([key.item for key, _, _ in items])
    batch["skipped"] = messages
    return batch


class Loader(DataLoader[Any]):
    """A loader whose dead processes are noticed between two batches, not in the middle of a step.

    Raises:
        LostWorker: while batches are asked for.
    """

    def __iter__(self) -> Any:
        handler = signal.getsignal(signal.SIGCHLD)
        with lost_worker():
            batches = super().__iter__()
        if threading.current_thread() is threading.main_thread():
            # PyTorch's own raises wherever the program happens to be; waiting for a batch finds a
            # dead process as well.
            signal.signal(signal.SIGCHLD, handler)
        return self.watched(batches)

    def watched(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                with lost_worker():
                    batch = next(batches)
            except StopIteration:
                return
            yield batch


@contextlib.contextmanager
def lost_worker() -> Iterator[None]:
    """Tells the loader's complaint about a dead process from other errors."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        pids = ", ".join(re.findall(r"[0-9]+", str(error))) or "unknown"
        raise LostWorker(
            f"a loader process was killed (process {pids}; the memory may have been full)"
        ) from error


def make_loader(
    wrapper: Wrapper,
    batches: Batches,
    *,
    stream: int,
    num_workers: int | None,
    on_bad_image: str,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """The loader of one process; `batches.start` says what its next iteration gives."""
    drawn = Drawn(wrapper, seed=batches.seed, stream=stream, on_bad_image=on_bad_image)
    return start_loader(drawn, batches, collate, num_workers, pin_memory)


def start_loader(
    dataset: Dataset[Any],
    batches: Batches,
    collate_fn: Callable[[Any], Any],
    num_workers: int | None,
    pin_memory: bool,
) -> DataLoader[Any]:
    """A loader whose processes live as long as the run."""
    workers = default_workers() if num_workers is None else num_workers
    # More workers than cores may be meant: photographs can take longer to arrive than to decode.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    return Loader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=ignore_signals,
        # The loader seeds its workers from a generator: its own, so that the run's stays as it is.
        generator=torch.Generator().manual_seed(0),
    )


def default_workers() -> int:
    """As many loader processes as this process may use cores, at most 8."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, count or 1)


def ignore_signals(_: int) -> None:
    """A signal to the whole group of processes is for the main one, which stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def checked(batch: Any) -> dict[str, Any]:
    """A batch, or DataError where it is the message that a photograph is broken."""
    if isinstance(batch, BadBatch):
        raise DataError(batch.message)
    return batch
