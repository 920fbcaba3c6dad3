"""Encoders, decoders and the representations made of them; importing registers them all."""

from . import ciaosr, edsr, liif, lmliif, lte, metasr, mlp, rcan, rdn, sronet, swinir
from .models import make, models_registry, register

__all__ = [
    "ciaosr",
    "edsr",
    "liif",
    "lmliif",
    "lte",
    "make",
    "metasr",
    "mlp",
    "models_registry",
    "rcan",
    "rdn",
    "register",
    "sronet",
    "swinir",
]
