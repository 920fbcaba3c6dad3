"""Encoders, decoders and the representations made of them; importing registers them all."""

from . import edsr, liif, metasr, mlp, rcan, rdn
from .models import make, models_registry, register

__all__ = ["edsr", "liif", "make", "metasr", "mlp", "models_registry", "rcan", "rdn", "register"]
