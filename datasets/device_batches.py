"""Batches made on the device that trains, from pixels that stay there.

The whole data set is kept as uint8. Plans are drawn on the host as for the wrappers; cropping,
resizing, flipping and sampling are a few operations on all items of a batch at once. Items equal
the wrappers' (Pillow's fixed-point bicubic included, where the device has 64-bit floats).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from .device_resize import resize_batch
from .transforms import Item, Plan
from .wrappers import Wrapper

FLOATS_ON_MPS = torch.float32  # there are no 64-bit ones; results may differ by one level


class DeviceBatches:
    """All pictures of a wrapper's data set on one device, and batches made from them there.

    Args:
        wrapper: any of the three; its plans for one batch must agree in the input's size and the
            number of samples.
        device: where the pixels are kept and the batches are made.

    Raises:
        DataError: a picture can't be read.
    """

    def __init__(self, wrapper: Wrapper, device: torch.device | str) -> None:
        self.wrapper = wrapper
        self.device = torch.device(device)
        self.floats = FLOATS_ON_MPS if self.device.type == "mps" else torch.float64
        self.slots, sizes = self.find_pictures()
        self.widths = np.array([width for _, width in sizes], dtype=np.int64)
        counts = [height * width for height, width in sizes]
        self.starts = np.cumsum([0, *counts])[:-1]
        self.pixels = torch.empty((sum(counts), 3), dtype=torch.uint8, device=self.device)
        self.upload()

    def find_pictures(self) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Which distinct picture (items, pictures per item) shows, and the size of each."""
        known: dict[Hashable, int] = {}
        sizes: list[tuple[int, int]] = []
        slots = np.empty((len(self.wrapper), self.wrapper.pictures), dtype=np.int64)
        for index in range(len(self.wrapper)):
            keys = self.keys(index)
            if any(key not in known for key in keys):
                for key, size in zip(keys, self.wrapper.sizes(index), strict=True):
                    if key not in known:
                        known[key] = len(sizes)
                        sizes.append(size)
            slots[index] = [known[key] for key in keys]
        return slots, sizes

    def keys(self, index: int) -> Sequence[Hashable]:
        """What tells one picture from another: their files, so that repeats are kept once."""
        if hasattr(self.wrapper.dataset, "names"):
            return self.wrapper.dataset.names(index)
        return [(index, picture) for picture in range(self.wrapper.pictures)]

    def upload(self) -> None:
        """Copy every distinct picture to its place, one at a time."""
        done: set[int] = set()
        for index, slots in enumerate(self.slots.tolist()):
            if done.issuperset(slots):
                continue
            for slot, picture in zip(slots, self.wrapper.fetch(index), strict=True):
                if slot not in done:
                    assert picture.dtype == np.uint8, "pictures of float are not kept on devices"
                    rows = torch.from_numpy(np.array(picture)).view(-1, 3)
                    self.pixels[self.starts[slot] : self.starts[slot] + len(rows)] = rows.to(
                        self.device
                    )
                    done.add(slot)

    def sample(self, indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> Item:
        """A batch of items, each drawn with its own generator as `Wrapper.sample` draws it."""
        plans = [self.wrapper.draw(i, rng) for i, rng in zip(indices, rngs, strict=True)]
        return self.batch(indices, plans)

    def batch(self, indices: Sequence[int], plans: Sequence[Plan]) -> Item:
        """Carry out a plan per item, all at once.

        Returns:
            inp (B, 3, h, w), coord (B, Q, 2), cell (B, Q, 2), gt (B, Q, 3), float32 on the device.
        """
        table = Table(self, indices, plans)
        inp = flip(self.view(table, "inp"), table)
        assert inp.shape[1:3] == table.inp_size, (inp.shape, table.inp_size)
        coord, cell, rows, columns = table.queries()
        if table.steps("gt"):
            targets = self.view(table, "gt")
            item = torch.arange(len(indices), device=self.device)[:, None]
            colours = targets[item, rows, columns]
        else:
            colours = self.pixels[table.places("gt", rows, columns)]
        return {
            "inp": inp.permute(0, 3, 1, 2).float().div_(255).contiguous(),
            "coord": coord,
            "cell": cell,
            "gt": colours.float().div_(255),
        }

    def view(self, table: Table, name: str) -> Tensor:
        """The pixels (B, H, W, 3) that a view of each plan shows, beyond its own size undefined."""
        height, width = table.largest(name, 0)
        rows = torch.arange(height, device=self.device)[None, :, None]
        columns = torch.arange(width, device=self.device)[None, None, :]
        last = table.size(name, 0) - 1  # (B, 2); beyond it any pixel of the view will do
        places = table.places(
            name, rows.minimum(last[:, :1, None]), columns.minimum(last[:, 1:, None])
        )
        pixels = self.pixels[places]
        for step in range(table.steps(name)):
            before, after = table.size(name, step), table.size(name, step + 1)
            largest = table.largest(name, step + 1)
            pixels = resize_batch(pixels.to(self.floats), before, after, largest)
        return pixels


class Table:
    """The plans of a batch as arrays: one transfer to the device, then arithmetic there."""

    def __init__(
        self, batches: DeviceBatches, indices: Sequence[int], plans: Sequence[Plan]
    ) -> None:
        self.plans = plans
        self.device = batches.device
        sizes = {plan.flips.transpose: plan.inp.size for plan in plans}
        self.inp_size = plans[0].inp.size
        assert len({plan.inp.size for plan in plans}) == 1, "inputs of one size make a batch"
        assert not sizes.get(True) or self.inp_size[0] == self.inp_size[1], "transposed: square"
        columns: dict[str, list[int]] = {
            "horizontal": [plan.flips.horizontal for plan in plans],
            "vertical": [plan.flips.vertical for plan in plans],
            "transpose": [plan.flips.transpose for plan in plans],
        }
        for name in ("inp", "gt"):
            views = [plan.inp if name == "inp" else plan.gt for plan in plans]
            slots = [batches.slots[i, view.picture] for i, view in zip(indices, views, strict=True)]
            widths = batches.widths[slots]
            tops = np.array([view.box.top for view in views])
            lefts = np.array([view.box.left for view in views])
            columns[f"{name}.first"] = (batches.starts[slots] + tops * widths + lefts).tolist()
            columns[f"{name}.stride"] = widths.tolist()
            assert len({len(view.sizes) for view in views}) == 1
            for step in range(len(views[0].sizes) + 1):
                sizes_now = [
                    view.sizes[step - 1] if step else (view.box.height, view.box.width)
                    for view in views
                ]
                columns[f"{name}.height{step}"] = [height for height, _ in sizes_now]
                columns[f"{name}.width{step}"] = [width for _, width in sizes_now]
        self.host = columns
        values = np.array(list(columns.values()), dtype=np.int64)
        self.columns = dict(zip(columns, self.send(values), strict=True))
        self.samples = self.send(np.stack([all_samples(plan) for plan in plans]))

    def send(self, values: np.ndarray) -> Tensor:
        """An array on the device, without waiting for it to arrive."""
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda" and torch.cuda.is_available():
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def steps(self, name: str) -> int:
        """Number of resizes of the views of that name."""
        return len((self.plans[0].inp if name == "inp" else self.plans[0].gt).sizes)

    def size(self, name: str, step: int) -> Tensor:
        """(B, 2): height and width after so many resizes."""
        return torch.stack(
            (self.columns[f"{name}.height{step}"], self.columns[f"{name}.width{step}"]), dim=1
        )

    def largest(self, name: str, step: int) -> tuple[int, int]:
        """The largest height and the largest width of the batch after so many resizes."""
        return max(self.host[f"{name}.height{step}"]), max(self.host[f"{name}.width{step}"])

    def places(self, name: str, rows: Tensor, columns: Tensor) -> Tensor:
        """Numbers of pixels in the store; rows and columns (B, ...) count inside the boxes."""
        shape = (-1,) + (1,) * (max(rows.dim(), columns.dim()) - 1)
        first, stride = self.columns[f"{name}.first"], self.columns[f"{name}.stride"]
        return first.view(shape) + rows * stride.view(shape) + columns

    def queries(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """coord (B, Q, 2), cell (B, Q, 2), and the samples' rows and columns before the flips."""
        size = self.size("gt", self.steps("gt"))
        transpose = self.columns["transpose"].bool()[:, None]
        size_after = torch.where(transpose, size.flip(1), size)
        width = size_after[:, 1:]
        rows = torch.div(self.samples, width, rounding_mode="floor")
        columns = self.samples - rows * width
        coord = axis_centres(torch.stack((rows, columns), dim=2), size_after)
        cell = (2 / size_after.to(coord_floats(self.device))).float()
        cell = cell[:, None].expand_as(coord).contiguous()
        rows, columns = (
            torch.where(transpose, columns, rows),
            torch.where(transpose, rows, columns),
        )
        last = (size - 1)[:, :, None]
        rows = torch.where(self.columns["vertical"].bool()[:, None], last[:, 0] - rows, rows)
        columns = torch.where(
            self.columns["horizontal"].bool()[:, None], last[:, 1] - columns, columns
        )
        return coord, cell, rows, columns


def all_samples(plan: Plan) -> np.ndarray:
    """The samples of a plan, also where that is every pixel."""
    if plan.samples is not None:
        return plan.samples
    return np.arange(plan.gt_size[0] * plan.gt_size[1])


def coord_floats(device: torch.device) -> torch.dtype:
    return FLOATS_ON_MPS if device.type == "mps" else torch.float64


def axis_centres(numbers: Tensor, size: Tensor) -> Tensor:
    """Coordinates (B, Q, 2) of pixels (B, Q, 2) in grids of size (B, 2), as `make_coord`'s."""
    radius = 1 / size.to(coord_floats(size.device))
    # Factors are rounded to 32 bits before they are used: so they are in `utils.axis_coord`.
    return (radius - 1).float()[:, None] + (2 * radius).float()[:, None] * numbers.float()


def flip(pixels: Tensor, table: Table) -> Tensor:
    """Pixels (B, H, W, 3), each item flipped and transposed as its plan says."""

    def chosen(name: str, changed: Tensor, plain: Tensor) -> Tensor:
        return torch.where(table.columns[name].bool().view(-1, 1, 1, 1), changed, plain)

    if any(table.host["horizontal"]):
        pixels = chosen("horizontal", pixels.flip(2), pixels)
    if any(table.host["vertical"]):
        pixels = chosen("vertical", pixels.flip(1), pixels)
    if any(table.host["transpose"]):
        pixels = chosen("transpose", pixels.transpose(1, 2), pixels)
    return pixels
