"""From photograph to pixels: `ContinuousImage`, windows and tiles, files, video, baselines."""

from engine.render.continuous_image import ContinuousImage
from engine.render.once import render_once

__all__ = ["ContinuousImage", "render_once"]
