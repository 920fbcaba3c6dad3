"""Photographs as training and test items; importing this registers every data set and wrapper."""

from . import image_folder, wrappers
from .datasets import datasets_registry, make, register

__all__ = ["datasets_registry", "image_folder", "make", "register", "wrappers"]
