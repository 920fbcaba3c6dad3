"""Batches made on the device that trains, from pixels that stay there.

The whole data set is kept as uint8. Plans are drawn on the host as for the wrappers; cropping,
resizing, flipping and sampling are a few operations on all items of a batch at once. Items equal
the wrappers' (Pillow's fixed-point bicubic included, where the device has 64-bit floats).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import astuple

import numpy as np
import torch
from torch import Tensor

from .device_resize import resize_batch
from .transforms import Item, Plan, View
from .wrappers import Wrapper

FLOATS_ON_MPS = torch.float32  # there are no 64-bit ones; results may differ by one level


class DeviceBatches:
    """All pictures of a wrapper's data set on one device, and batches made from them there.

    Args:
        wrapper: any of `datasets.wrappers`; its plans for one batch must agree in the input's size
            and the number of samples.
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
        assert len({plan.inp.size for plan in plans}) == 1, "inputs of one size make a batch"
        assert all(plan.damage is None for plan in plans), "refused by the configuration"
        height, width = plans[0].inp.size
        flips = np.array([astuple(plan.flips) for plan in plans], np.int64).T  # (3, B)
        assert height == width or not flips[2].any(), "transposed: square"
        inp_numbers = self.numbers(indices, [plan.inp for plan in plans])
        gt_numbers = self.numbers(indices, [plan.gt for plan in plans])
        sent = self.send(np.concatenate([flips, inp_numbers, gt_numbers]))  # in one transfer
        flips_sent, inp_sent, gt_sent = sent.split([3, len(inp_numbers), len(gt_numbers)])
        inp, gt = Views(inp_sent, inp_numbers), Views(gt_sent, gt_numbers)

        pictures = flip(self.pixels_of(inp), flips_sent.bool(), flips.any(axis=1).tolist())
        samples = self.send(np.stack([all_samples(plan) for plan in plans]))
        coord, cell, rows, columns = queries(samples, gt.sizes[-1], flips_sent.bool(), self.floats)
        if len(gt.sizes) > 1:
            item = torch.arange(len(indices), device=self.device)[:, None]
            colours = self.pixels_of(gt)[item, rows, columns]
        else:
            colours = self.pixels[gt.places(rows, columns)]
        return {
            "inp": pictures.permute(0, 3, 1, 2).float().div_(255).contiguous(),
            "coord": coord,
            "cell": cell,
            "gt": colours.float().div_(255),
        }

    def numbers(self, indices: Sequence[int], views: Sequence[View]) -> np.ndarray:
        """A view per item, as the rows (4 + 2 * resizes, B) that `Views` takes."""
        slots = self.slots[indices, [view.picture for view in views]]
        widths = self.widths[slots]
        tops, lefts = np.array([(view.box.top, view.box.left) for view in views]).T
        sizes = [[(view.box.height, view.box.width), *view.sizes] for view in views]
        sizes_by_step = np.array(sizes).transpose(1, 2, 0).reshape(-1, len(views))
        first = self.starts[slots] + tops * widths + lefts
        return np.concatenate([[first, widths], sizes_by_step])

    def send(self, values: np.ndarray) -> Tensor:
        """An array on the device, without waiting for it to arrive."""
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda" and torch.cuda.is_available():
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def pixels_of(self, views: Views) -> Tensor:
        """The pixels (B, H, W, 3) that views show; beyond a view's own size they are undefined."""
        height, width = views.largest[0]
        rows = torch.arange(height, device=self.device)[None, :, None]
        columns = torch.arange(width, device=self.device)[None, None, :]
        last = views.sizes[0] - 1  # (B, 2); beyond it any pixel of the view will do
        places = views.places(rows.minimum(last[:, :1, None]), columns.minimum(last[:, 1:, None]))
        pixels = self.pixels[places]
        for step in range(1, len(views.sizes)):
            before, after = views.sizes[step - 1], views.sizes[step]
            pixels = resize_batch(pixels.to(self.floats), before, after, views.largest[step])
        return pixels


class Views:
    """A view of each item of a batch.

    Attributes:
        first, stride: (B,), number of the box's first pixel in the store, and from row to row.
        sizes: height and width (B, 2) at first and after each resize.
        largest: the largest height and the largest width of the batch, likewise.
    """

    def __init__(self, numbers: Tensor, on_host: np.ndarray) -> None:
        self.first, self.stride = numbers[0], numbers[1]
        self.sizes = [pair.T for pair in numbers[2:].split(2)]
        self.largest = [(int(h), int(w)) for h, w in on_host[2:].max(axis=1).reshape(-1, 2)]

    def places(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Numbers of pixels in the store; rows and columns (B, ...) count inside the boxes."""
        shape = (-1,) + (1,) * (max(rows.dim(), columns.dim()) - 1)
        return self.first.view(shape) + rows * self.stride.view(shape) + columns


def queries(
    samples: Tensor, size: Tensor, flips: Tensor, floats: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is asked at sampled pixels (B, Q), counted after the flips.

    Args:
        size: (B, 2), height and width before the flips.
        flips: bool (3, B), as in `Flips`.
        floats: dtype to compute coordinates in.

    Returns:
        coord and cell (B, Q, 2), and the samples' rows and columns (B, Q) before the flips.
    """
    horizontal, vertical, transpose = flips[:, :, None]  # each (B, 1)
    flipped_size = torch.where(transpose, size.flip(1), size)
    width = flipped_size[:, 1:]
    rows = torch.div(samples, width, rounding_mode="floor")
    columns = samples - rows * width
    radius = 1 / flipped_size.to(floats)
    # Factors are rounded to 32 bits before they are used: so they are in `utils.axis_coord`.
    numbers = torch.stack((rows, columns), dim=2).float()
    coord = (radius - 1).float()[:, None] + (2 * radius).float()[:, None] * numbers
    cell = (2 / flipped_size.to(floats)).float()[:, None].expand_as(coord).contiguous()
    rows, columns = torch.where(transpose, columns, rows), torch.where(transpose, rows, columns)
    rows = torch.where(vertical, size[:, :1] - 1 - rows, rows)
    columns = torch.where(horizontal, size[:, 1:] - 1 - columns, columns)
    return coord, cell, rows, columns


def all_samples(plan: Plan) -> np.ndarray:
    """The samples of a plan, also where that is every pixel."""
    return np.arange(math.prod(plan.gt_size)) if plan.samples is None else plan.samples


def flip(pixels: Tensor, flips: Tensor, needed: Sequence[bool]) -> Tensor:
    """Pixels (B, H, W, 3), each item changed as its flips (3, B) say; none where not `needed`."""
    changes = (lambda p: p.flip(2), lambda p: p.flip(1), lambda p: p.transpose(1, 2))
    for change, chosen, any_ in zip(changes, flips, needed, strict=True):
        if any_:
            pixels = torch.where(chosen.view(-1, 1, 1, 1), change(pixels), pixels)
    return pixels
