"""Batches made on the device that trains; the loader's processes only make the random decisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datasets.device_batches import DeviceBatches
from datasets.transforms import Plan
from datasets.wrappers import Wrapper
from engine.loader import SIZES_DIFFER, BadBatch, Batches, Key, start_loader
from utils import DataError

Planned = tuple[Key, Plan | None, str | None]


class Plans(Dataset[Any]):
    """The random decisions of items by key, the same as for items that the loader makes."""

    def __init__(self, wrapper: Wrapper, *, seed: int, stream: int) -> None:
        self.wrapper, self.seed, self.stream = wrapper, seed, stream

    def __getitem__(self, key: Key) -> Planned:
        rng = np.random.default_rng([self.seed, self.stream, key.epoch, key.position])
        try:
            return key, self.wrapper.draw(key.item, rng), None
        except DataError as error:
            return key, None, str(error)


def collate_plans(items: Sequence[Planned]) -> Any:
    """The plans of a batch and the `indices` of its items."""
    messages = [message for _, _, message in items if message is not None]
    plans = [plan for _, plan, _ in items if plan is not None]
    if messages:
        return BadBatch(messages[0])
    if len({(plan.inp.size, queries(plan)) for plan in plans}) > 1:
        return BadBatch(SIZES_DIFFER)
    height, width = plans[0].inp.size
    if height != width and any(plan.flips.transpose for plan in plans):
        return BadBatch(f"device_data: {height}x{width} inputs with augment; allowed: square ones")
    return {"indices": [key.item for key, _, _ in items], "plans": plans}


def queries(plan: Plan) -> int:
    """How many pixels an item asks for."""
    return plan.gt_size[0] * plan.gt_size[1] if plan.samples is None else len(plan.samples)


class DeviceLoader:
    """Batches made on a device from pixels that are kept there.

    Raises:
        DataError: when made, a photograph that can't be read.
    """

    def __init__(
        self,
        wrapper: Wrapper,
        batches: Batches,
        device: torch.device,
        *,
        stream: int,
        num_workers: int | None,
    ) -> None:
        plans = Plans(wrapper, seed=batches.seed, stream=stream)
        self.plans: DataLoader[Any] = start_loader(
            plans, batches, collate_plans, num_workers, pin_memory=False
        )
        self.maker = DeviceBatches(wrapper, device)

    def __iter__(self) -> Iterator[Any]:
        for planned in self.plans:
            if isinstance(planned, BadBatch):
                yield planned
                return
            indices = planned["indices"]
            made: dict[str, Any] = {**self.maker.batch(indices, planned["plans"])}
            yield {**made, "indices": torch.tensor(indices), "skipped": []}
