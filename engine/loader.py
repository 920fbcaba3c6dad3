"""Batches that are a function of seed, epoch and position alone.

Neither the number of loader processes nor that of training processes nor an interruption changes
what a run sees: each position of each epoch has its own generator of random draws.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler, default_collate

from utils import ConfigError, DataError

# First numbers after the seed, so that no two uses of a seed share their draws.
TRAIN_ITEMS, VAL_ITEMS, TRAIN_ORDER, REPLACEMENTS = 0, 1, 2, 3
REPLACEMENT_TRIES = 100
SIZES_DIFFER = (
    "the items of a batch differ in size; allowed: inp_size and sample_q in the wrapper's args, "
    "or a batch_size of 1"
)


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
