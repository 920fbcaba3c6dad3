"""Batches made on the device that trains; the loader's processes only make the random decisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from datasets.device_batches import DeviceBatches
from datasets.transforms import Plan
from datasets.wrappers import Wrapper
from engine.loader import SIZES_DIFFER, Batches, Key
from engine.workers import Loader
from utils import DataError


class Plans:
    """Makes the random decisions of batches, the same as for those that the loader makes."""

    def __init__(self, wrapper: Wrapper, *, seed: int, stream: int) -> None:
        self.wrapper, self.seed, self.stream = wrapper, seed, stream

    def __call__(self, keys: Sequence[Key]) -> tuple[list[int], list[Plan]]:
        """The indices of a batch's items, and their plans.

        Raises:
            DataError: a photograph can't be read, or the items differ in size.
        """
        plans = []
        for key in keys:
            rng = np.random.default_rng([self.seed, self.stream, key.epoch, key.position])
            plans.append(self.wrapper.draw(key.item, rng))
        if len({(plan.inp.size, queries(plan)) for plan in plans}) > 1:
            raise DataError(SIZES_DIFFER)
        height, width = plans[0].inp.size
        if height != width and any(plan.flips.transpose for plan in plans):
            given = f"{height}x{width} inputs with augment"
            raise DataError(f"device_data: {given}; allowed: square ones")
        return [key.item for key in keys], plans


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
        self.plans = Loader(plans, batches, num_workers)
        self.maker = DeviceBatches(wrapper, device)

    def __iter__(self) -> Iterator[Any]:
        for indices, plans in self.plans:
            made: dict[str, Any] = {**self.maker.batch(indices, plans)}
            yield {**made, "indices": torch.tensor(indices), "skipped": []}
