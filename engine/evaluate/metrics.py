"""Figures of one picture: PSNR and SSIM by the protocol, LPIPS and DISTS by their packages.

All of them look at predictions clamped to [0, 1], inside the same border.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import utils
from engine.config import parse_eval_type
from utils import ConfigError, DataError

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_ROWS = 256  # at once: some twenty planes of float64 are held
METRICS = ("psnr", "ssim", "lpips", "dists")
# Metric -> the package that brings it, by its import name and its name on the index.
PACKAGES = {"lpips": ("lpips", "lpips"), "dists": ("DISTS_pytorch", "dists-pytorch")}


@dataclass(frozen=True)
class EvalType:
    """What is compared: colours, and the border that is cut (protocol of the paper, section 4).

    dataset is None (RGB, nothing cut), "div2k" (RGB, scale + 6), "rgb" (RGB, scale) or
    "benchmark" (luma, scale); scale holds one factor for rows and one for columns.
    """

    dataset: str | None = None
    scale: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def parse(cls, text: str | None) -> EvalType:
        """Of the configuration's `eval_type`; ConfigError where it can't be meant."""
        return cls(*parse_eval_type(text))

    def by(self, protocol: str) -> EvalType:
        """What a protocol, "paper" or "ciaosr", makes of it: CiaoSR's has one border for all."""
        other = (protocol, self.dataset) == ("ciaosr", "div2k")
        return EvalType("rgb", self.scale) if other else self

    @property
    def border(self) -> tuple[int, int]:
        """Pixels cut at the top and bottom, at the left and right."""
        return utils.border_width(self.dataset, self.scale)

    def crop(self, image: Tensor) -> Tensor:
        """An image (..., H, W) without that border; empty where it covers all."""
        return utils.crop_border(image, self.dataset, self.scale)

    @property
    def colour(self) -> str:
        return "Y of the difference" if self.dataset == "benchmark" else "RGB"

    def __str__(self) -> str:
        return "none" if self.dataset is None else f"{self.dataset}-{scale_text(self.scale)}"


def scale_text(scale: Sequence[float]) -> str:
    """(2.0, 2.0) -> "2", (2.0, 3.5) -> "2x3.5" (rows x columns)."""
    rows, columns = (f"{factor:g}" for factor in scale)
    return rows if rows == columns else f"{rows}x{columns}"


# Prediction and truth, (3, H, W) in [0, 1], and what is compared; None where they are too small.
Measure = Callable[[Tensor, Tensor, EvalType], float | None]


def calc_ssim(sr: Tensor, hr: Tensor, eval_type: EvalType | None = None) -> float | None:
    """Structural similarity of the luma (Wang et al. 2004): 11x11 Gaussian window of sigma 1.5.

    Args:
        sr, hr: (3, H, W) or (1, H, W) in [0, 1].
        eval_type: decides the border that is cut; none of it when absent.

    Returns:
        Mean over all windows that lie wholly inside; None where there is no such window.
    """
    kind = eval_type or EvalType()
    sr, hr = kind.crop(sr), kind.crop(hr)
    rows, columns = (length - SSIM_WINDOW + 1 for length in sr.shape[1:])
    if min(rows, columns) < 1:
        return None
    total = 0.0
    for top in range(0, rows, SSIM_ROWS):
        strip = slice(top, min(top + SSIM_ROWS, rows) + SSIM_WINDOW - 1)
        total += float(_similarity(_luma(sr[:, strip]), _luma(hr[:, strip])).sum())
    return total / (rows * columns)


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """Similarity of two lumas (H, W) in every window inside: (H - 10, W - 10)."""
    moments = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    mean_x, mean_y, square_x, square_y, product = moments.unbind(0)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    stable_mean, stable_variance = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + stable_mean) / (mean_x**2 + mean_y**2 + stable_mean)
    structure = (2 * covariance + stable_variance) / (variances + stable_variance)
    return luminance * structure


def _luma(image: Tensor) -> Tensor:
    """Luma (H, W) of a picture (C, H, W) in [0, 1], in the widest floats that the device has."""
    image = image.to(torch.float32 if image.device.type == "mps" else torch.float64)
    if image.shape[0] == 1:
        return image[0]
    weights = image.new_tensor(utils.LUMA_WEIGHTS).view(3, 1, 1)
    return (image * weights).sum(0) + 16 / 255


def _blur(images: Tensor) -> Tensor:
    """Gaussian means of all windows inside: (N, H, W) -> (N, H - 10, W - 10)."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    for axis in (1, 2):
        length = images.shape[axis] - SSIM_WINDOW + 1
        taps = (weights / weights.sum()).tolist()
        total = torch.zeros_like(images.narrow(axis, 0, length))
        for shift, weight in enumerate(taps):
            total.add_(images.narrow(axis, shift, length), alpha=weight)
        images = total
    return images


def check_metrics(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that is no metric."""
    for name in names:
        if name not in METRICS:
            hint = utils.did_you_mean(name, METRICS)
            raise ConfigError(f"metrics: {name!r} given; allowed: {', '.join(METRICS)}{hint}")


def make_measures(names: Sequence[str], device: torch.device) -> dict[str, Measure]:
    """The named metrics, for pictures on a device.

    Raises:
        ConfigError: an unknown name, or a package that is not there.
        DataError: the package's weights can't be had.
    """
    check_metrics(names)
    own: dict[str, Measure] = {"psnr": psnr, "ssim": calc_ssim}
    return {name: own[name] if name in own else _learned_measure(name, device) for name in names}


def psnr(sr: Tensor, hr: Tensor, eval_type: EvalType) -> float:
    """`utils.calc_psnr` by an EvalType."""
    return float(utils.calc_psnr(sr, hr, eval_type.dataset, eval_type.scale))


def _learned_measure(name: str, device: torch.device) -> Measure:
    """LPIPS (AlexNet, version 0.1) or DISTS, from the authors' packages; lower is better."""
    module_name, package = PACKAGES[name]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"metrics: {name} needs a package that is not installed: pip install {package}"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the packages use older names of torchvision
            lpips = name == "lpips"
            network = module.LPIPS(net="alex", verbose=False) if lpips else module.DISTS()
    except (OSError, RuntimeError) as error:  # the backbone's weights are fetched at first use
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"metrics: the weights of {name} can't be loaded ({reason})") from error
    network = network.to(device).eval()

    @torch.no_grad()
    def measure(sr: Tensor, hr: Tensor, eval_type: EvalType) -> float | None:
        pair = eval_type.crop(torch.stack([sr, hr])).float()  # (2, 3, h, w)
        if min(pair.shape[-2:]) < 32:  # the networks halve the size up to five times
            return None
        pair = pair * 2 - 1 if name == "lpips" else pair
        return float(network(pair[:1], pair[1:]))

    return measure
