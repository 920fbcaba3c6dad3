"""Weights: checkpoint files, models by file or by name, downloads.

`load_model` is what most need. `python -m engine.weights -h` verifies, strips, averages and
converts files.
"""

from engine.weights.checkpoint import load_checkpoint, save_checkpoint
from engine.weights.pretrained import PUBLISHED, find_weights, load_model, load_with_spec

__all__ = [
    "PUBLISHED",
    "find_weights",
    "load_checkpoint",
    "load_model",
    "load_with_spec",
    "save_checkpoint",
]
