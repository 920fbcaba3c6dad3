"""Entry points for `torch.hub.load`: models by name or file, photographs as functions.

    model = torch.hub.load("OWNER/REPOSITORY", "edsr_baseline_liif")
    image = torch.hub.load("OWNER/REPOSITORY", "continuous_image", "photo.jpg")

The package `liif` keeps the names of the project's modules out of the caller's way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from liif import continuous_image
from liif import load_model as liif

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["continuous_image", "edsr_baseline_liif", "liif", "rdn_liif"]

dependencies = ["torch", "numpy", "PIL", "pyvips", "tifffile", "tqdm", "yaml"]


def edsr_baseline_liif(device: str | torch.device = "cpu") -> nn.Module:
    """The published EDSR-baseline-LIIF (19 MB, fetched once)."""
    return liif("edsr-baseline-liif", device)


def rdn_liif(device: str | torch.device = "cpu") -> nn.Module:
    """The published RDN-LIIF (268 MB, fetched once)."""
    return liif("rdn-liif", device)
