"""One data set of a configuration file, as `test.py --config` measures it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import datasets
from datasets.files import fitting_name
from datasets.images import write_rgb
from datasets.transforms import Item, make_item
from datasets.wrappers import Wrapper
from engine.config import TestConfig
from engine.distributed import Processes
from engine.evaluate.ciaosr_protocol import cut_size
from engine.evaluate.evaluate import Evaluation, Picture, evaluate, to_uint8
from engine.evaluate.metrics import EvalType
from engine.evaluate.suite_figures import file_stems
from engine.loader import VAL_ITEMS, Drawn, Key
from engine.workers import Loader, default_workers
from utils import ConfigError

LR_ORIGINS = {
    "sr-implicit-paired": "as supplied",
    "sr-implicit-downsampled": "PIL bicubic, made on the fly",
    "sr-implicit-uniform-varied": "as supplied",
}


class CutItems:
    """A wrapper's items, of high-resolution pictures cut to multiples of 12."""

    def __init__(self, wrapper: Wrapper) -> None:
        self.wrapper = wrapper
        self.dataset = wrapper.dataset

    def __len__(self) -> int:
        return len(self.wrapper)

    def sample(self, index: int, rng: np.random.Generator) -> Item:
        """As `Wrapper.sample`."""
        *low, high = self.wrapper.fetch(index)
        height, width = cut_size((high.shape[0], high.shape[1]))
        pictures = (*low, high[:height, :width])
        plan = self.wrapper.plan([picture.shape[:2] for picture in pictures], index, rng)
        return make_item(pictures, plan)


def make_wrapper(config: TestConfig) -> Any:
    """The items of a test configuration; errors as `datasets.make`."""
    data = datasets.make(config.test_dataset.dataset)
    wrapper = datasets.make(config.test_dataset.wrapper, args={"dataset": data})
    return wrapper if config.protocol == "paper" else CutItems(wrapper)


def run_test(
    config: TestConfig,
    method: nn.Module | str,
    device: torch.device,
    processes: Processes,
    *,
    metrics: Sequence[str] = ("psnr",),
    self_ensemble: bool = False,
    progress: bool = False,
    save_images: Path | None = None,
) -> tuple[Evaluation, list[str]]:
    """Figures over all items, each item on one of the processes; the same on all of them.

    Args:
        method: a model on device, or the name of an interpolation baseline.
        save_images: a folder for the predictions of whole pictures, PNG files named as theirs.

    Returns:
        The figures, and the file names of `images` in their order.

    Raises:
        ConfigError: a prediction would replace a picture of the data set.
    """
    wrapper = make_wrapper(config)
    indices = list(range(processes.rank, len(wrapper), processes.count))
    loader = test_loader(wrapper, indices, config, device)
    names = [picture_name(wrapper, index) for index in range(len(wrapper))]
    targets: list[Path] = []
    if save_images is not None:
        targets = [save_images / fitting_name(stem, ".png") for stem in file_stems(names)]
        refuse_inputs(targets, wrapper.dataset)

    def save(position: int, picture: Picture) -> None:
        if targets:
            write_rgb(targets[indices[position]], to_uint8(picture))

    result = evaluate(
        method,
        loader,
        torch.device("cpu") if isinstance(method, str) else device,
        config.data_norm,
        config.eval_type,
        config.eval_bsize,
        config.precision,
        config.cell_max_scale,
        config.window,
        strips=config.strips,
        protocol=config.protocol,
        metrics=metrics,
        self_ensemble=self_ensemble,
        pool=False,
        progress=progress and processes.is_main,
        on_picture=save,
    )
    result.images = [replace(image, index=indices[image.index]) for image in result.images]
    parts = processes.gather(result)
    images = [image for part in parts for image in part.images]
    if not images:
        total = Evaluation(sum(part.psnr_sum for part in parts), sum(part.count for part in parts))
        return total, names
    # In the items' order, and summed in it, so that the number of processes leaves no trace.
    images.sort(key=lambda image: image.index)
    psnr_sum = sum(image.values["psnr"] or 0.0 for image in images)
    return Evaluation(psnr_sum, len(images), images), names


def refuse_inputs(targets: Sequence[Path], dataset: Any) -> None:
    """Raises ConfigError where one of these files is a picture of a data set."""
    names = getattr(dataset, "names", lambda index: ())
    own = {os.path.realpath(name) for index in range(len(dataset)) for name in names(index)}
    for target in targets:
        if os.path.realpath(target) in own:
            raise ConfigError(f"--save-images: {target} is a test picture; allowed: another folder")


def test_loader(
    wrapper: Any, indices: Sequence[int], config: TestConfig, device: torch.device
) -> Loader:
    """Batches of these items; what an item draws depends on its index alone."""
    size = config.test_dataset.batch_size
    keys = [Key(index, 0, index) for index in indices]
    workers = config.num_workers
    if workers is None:
        # On a CPU the network keeps all cores busy, and workers would only take them from it.
        workers = default_workers() if device.type == "cuda" else 0
    return Loader(
        Drawn(wrapper, seed=0, stream=VAL_ITEMS, on_bad_image="stop"),
        [keys[start : start + size] for start in range(0, len(keys), size)],
        workers,
        pin_memory=device.type == "cuda",
        prefetch=2,
    )


def picture_name(wrapper: Any, index: int) -> str:
    """The file name of an item's target."""
    names = getattr(wrapper.dataset, "names", None)
    return Path(names(index)[-1]).name if names else f"item-{index}"


def protocol(config: TestConfig) -> dict[str, str]:
    """How the figures are taken, for people."""
    kind = EvalType.parse(config.eval_type).by(config.protocol)
    wrapper = config.test_dataset.wrapper["name"].removesuffix("-fast")
    return {
        "protocol": config.protocol,
        "eval_type": str(kind),
        "colour": kind.colour,
        "border": "x".join(str(pixels) for pixels in kind.border),
        "lr_source": LR_ORIGINS.get(wrapper, "as the wrapper makes it"),
        "precision": config.precision,
    }


def document(
    evaluation: Evaluation, names: Sequence[str], config: TestConfig, about: dict[str, Any]
) -> dict[str, Any]:
    """Everything for `--json`."""
    images = [{"name": names[image.index], **asdict(image)} for image in evaluation.images]
    metrics = list(evaluation.images[0].values) if evaluation.images else []
    return {
        **about,
        "protocol": protocol(config),
        "psnr": evaluation.psnr,
        "means": {metric: evaluation.mean(metric) for metric in metrics},
        "images": images,
    }
