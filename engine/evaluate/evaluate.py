"""Metrics of a model, or of an interpolation baseline, over a loader of batches.

A batch is {inp (B, 3, h, w), coord (B, Q, 2), cell (B, Q, 2), gt (B, Q, 3)}, all float32, colours
in [0, 1]. Its queries are either all pixels of a picture in row-major order ("whole"), as for
tests, or a sample of them, as for validation during training.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import utils
from datasets.transforms import to_bytes, to_picture
from engine.config import DataNorm
from engine.evaluate.ciaosr_protocol import enlarge_by
from engine.evaluate.metrics import EvalType, make_measures
from engine.normalisation import denormalise, normalise
from engine.render import baselines, render_once
from engine.runtime import autocast
from models.protocol import Target, implicit
from utils import ConfigError

BATCH_KEYS = ("inp", "coord", "cell", "gt")
Batch = Mapping[str, Tensor]
Picture = Tensor  # (3, H, W) in [0, 1]


@dataclass(frozen=True)
class ImageResult:
    """The figures of one picture; `values` by metric, None where the picture is too small."""

    index: int
    values: dict[str, float | None]
    lr_size: tuple[int, int]
    size: tuple[int, int]


@dataclass
class Evaluation:
    """Figures over a loader. Sums rather than means, so that processes can add theirs up."""

    psnr_sum: float = 0.0
    count: int = 0
    images: list[ImageResult] = field(default_factory=list)

    @property
    def psnr(self) -> float:
        """Mean over the items; nan when there was none."""
        return self.psnr_sum / self.count if self.count else math.nan

    def add_pooled(self, psnr: float, items: int) -> None:
        """Count the PSNR of some items' pooled squared error."""
        self.psnr_sum += psnr * items
        self.count += items

    def add(
        self, values: dict[str, float | None], lr_size: tuple[int, int], size: tuple[int, int]
    ) -> None:
        """Count the figures of one picture."""
        self.images.append(ImageResult(self.count, values, lr_size, size))
        self.add_pooled(values["psnr"] or 0.0, 1)

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over the pictures that have it; None where none has."""
        values = [image.values.get(metric) for image in self.images]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None


def predict(
    model: nn.Module,
    inp: Tensor,
    coord: Tensor,
    cell: Tensor,
    eval_bsize: int | None = None,
) -> Tensor:
    """Colours of queries, decoded chunk by chunk.

    Args:
        inp: (B, 3, h, w), normalised.
        coord, cell: (B, Q, 2).
        eval_bsize: the most queries per picture at once.

    Returns:
        (B, Q, 3) in the network's units, float32.
    """
    network = implicit(model)
    size = (inp.shape[-2] * network.upscale, inp.shape[-1] * network.upscale)
    target = Target(cell[:, 0], size)
    suited = max(1, network.query_chunk // len(inp))
    limit = min(suited, eval_bsize or suited)
    chunks = [*zip(coord.split(limit, dim=1), cell.split(limit, dim=1), strict=True)]
    maps = network.encode(inp)
    for _ in range(network.passes):
        feat = network.project(maps, target)
        total = torch.stack([network.accumulate(feat, *chunk) for chunk in chunks]).sum(0)
        target = target._replace(means=(*target.means, total / coord.shape[1]))
    feat = network.project(maps, target)
    return torch.cat([network.query_rgb(feat, *chunk).float() for chunk in chunks], dim=1)


def evaluate(
    method: nn.Module | str,
    loader: Iterable[Batch],
    device: torch.device,
    data_norm: DataNorm,
    eval_type: str | None = None,
    eval_bsize: int | None = None,
    precision: str = "fp32",
    cell_max_scale: float | None = None,
    window: int | None = None,
    *,
    strips: int | None = None,
    protocol: str = "paper",
    metrics: Sequence[str] = ("psnr",),
    self_ensemble: bool = False,
    pool: bool = True,
    progress: bool = False,
    on_picture: Callable[[int, Picture], None] | None = None,
) -> Evaluation:
    """Figures of a model, or of an interpolation baseline, over a loader.

    Args:
        method: a model, which comes back in its mode, weights on device; or a baseline's name.
        loader: batches as above, on any device.
        eval_type: None, `div2k-S` or `benchmark-S` (see `engine.config`), which ask for whole
            pictures.
        eval_bsize: the most queries per picture at once.
        cell_max_scale, window, strips: for whole pictures; see `ContinuousImage.represent`, where
            strips are a number given as `statistic`.
        protocol: for whole pictures; "ciaosr" for tiles, 8 bits and its border
            (`engine.evaluate.ciaosr_protocol`).
        metrics: for whole pictures; names of `engine.evaluate.metrics.METRICS`.
        self_ensemble: for whole pictures; see `render_once`.
        pool: without an eval_type, PSNR of each batch's pooled squared error also where the batch
            holds whole pictures, as training's validation has it; then there are no `images`.
        on_picture: called with the index and the clamped prediction of each whole picture.

    Returns:
        `psnr` is the mean over whole pictures; where queries are sampled, that of the batches'
        pooled squared errors, weighted by batch size.

    Raises:
        ConfigError: eval_type, a baseline or self_ensemble with sampled queries, an unknown metric
            or precision.
        DataError: a picture smaller than the border that is cut.
    """
    kind = EvalType.parse(eval_type).by(protocol)
    measures = make_measures(["psnr", *(name for name in metrics if name != "psnr")], device)
    how: dict[str, Any] = {"data_norm": data_norm, "precision": precision}
    how |= {"eval_bsize": eval_bsize, "self_ensemble": self_ensemble}
    how_whole = {**how, "cell_max_scale": cell_max_scale, "window": window, "device": device}
    how_whole |= {"statistic": strips or "picture", "protocol": protocol}
    result = Evaluation()
    bar = tqdm(loader, desc="test", unit="batch", leave=False, disable=not progress)
    with evaluating(method):
        for batch in bar:
            batch = {key: batch[key].to(device, non_blocking=True) for key in BATCH_KEYS}
            size, truth = whole_size(batch), batch["gt"]
            if size is None and kind.dataset is not None:
                text = f"eval_type: {eval_type} needs whole pictures; leave out sample_q"
                raise ConfigError(text)
            if size is None or (pool and kind.dataset is None):
                psnr = utils.calc_psnr(predict_batch(method, batch, **how), truth)
                result.add_pooled(float(psnr), len(truth))
            else:
                for inp, gt in zip(batch["inp"], as_pictures(truth, size), strict=True):
                    picture = enlarge(method, inp.permute(1, 2, 0).cpu().numpy(), size, **how_whole)
                    values = {name: one(picture, gt, kind) for name, one in measures.items()}
                    if on_picture is not None:
                        on_picture(result.count, picture)
                    result.add(values, (inp.shape[-2], inp.shape[-1]), size)
            bar.set_postfix_str(f"psnr {result.psnr:.4f}", refresh=False)
    return result


@contextlib.contextmanager
def evaluating(method: nn.Module | str) -> Iterator[None]:
    """A model in evaluation mode, and afterwards in its own again; a baseline has none."""
    if isinstance(method, str):
        yield
        return
    training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(training)


@torch.inference_mode()
def predict_batch(
    method: nn.Module | str,
    batch: Batch,
    *,
    data_norm: DataNorm,
    precision: str,
    eval_bsize: int | None,
    self_ensemble: bool,
) -> Tensor:
    """Colours in [0, 1] of a batch's queries: (B, Q, 3)."""
    if isinstance(method, str) or self_ensemble:
        option = "--baseline" if isinstance(method, str) else "--self-ensemble"
        raise ConfigError(f"{option}: whole pictures needed, but sample_q is given")
    inp = normalise(batch["inp"], data_norm.inp, 1)
    with autocast(inp.device, precision):
        values = predict(method, inp, batch["coord"], batch["cell"], eval_bsize)
    return denormalise(values, data_norm.gt)


def enlarge(
    method: nn.Module | str,
    image: np.ndarray,
    size: tuple[int, int],
    *,
    device: torch.device,
    protocol: str = "paper",
    **how: Any,
) -> Picture:
    """A picture (h, w, 3), uint8 or float in [0, 1], at another size, by a model or a baseline.

    how: as `render_once` takes it.
    """
    if isinstance(method, str):
        return to_picture(baselines.enlarge(method, to_bytes(image), size)).to(device)

    def render(part: np.ndarray, asked: tuple[int, int], clamp: bool) -> Picture:
        return render_once(part, method, asked, clamp=clamp, device=device, **how).to(device)

    return enlarge_by(protocol, render, image, size)


def to_uint8(picture: Tensor) -> baselines.Image:
    """(3, H, W) in [0, 1] as a picture of 8 bits: uint8 (H, W, 3), rounded."""
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def whole_size(batch: Batch) -> tuple[int, int] | None:
    """(height, width) when the queries are all pixels of a grid in order; None otherwise."""
    height, width = utils.grid_size(batch["cell"])
    coord = batch["coord"]
    if height * width != coord.shape[1]:
        return None
    grid = utils.make_coord((height, width)).to(coord)
    return (height, width) if torch.allclose(coord, grid.expand_as(coord), atol=1e-5) else None


def as_pictures(colours: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H*W, 3) in row-major order -> (B, 3, H, W)."""
    return colours.unflatten(1, size).permute(0, 3, 1, 2)
