"""torch.hub finds our models in a process whose own modules have the names of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import models
from datasets.images import write_rgb
from engine.render import ContinuousImage
from engine.weights.checkpoint import save_checkpoint
from tests.small import TINY as SPEC

CALLER = """
import sys, torch, numpy as np
import utils, models.own  # the caller's
root, model, photo = sys.argv[1:]
assert utils.name == "the caller's"
hub = lambda *args: torch.hub.load(root, *args, source="local")

liif = hub("liif", model)
assert type(liif).__name__ == "LIIF"
with torch.inference_mode():
    colours = liif(torch.zeros(1, 3, 6, 5), torch.zeros(1, 2, 2), torch.ones(1, 2, 2) / 9)
image = hub("continuous_image", photo, liif)
again = hub("continuous_image", photo, model)
assert type(image) is type(again)
np.savez("result.npz", colours=colours, render=image.render(30, 41),
         part=image.render(7, 8, (1, 2, 3, 4.5)), point=image.image(0.1, [0.2, -0.3]))
assert torch.equal(again.render(30, 41), image.render(30, 41))
again.save("saved.liif")

# What the names meant before, they mean now; and what was not imported yet can be.
assert sys.modules["utils"] is utils and utils.name == "the caller's"
import models as theirs, datasets
assert theirs.own.name == "the caller's models"
assert datasets.name == "the caller's datasets"
assert "engine" not in sys.modules and root not in sys.path
try:
    hub("liif", "no-such-model")
except ValueError as error:
    assert "no-such-model" in str(error)
else:
    raise AssertionError("not refused")
assert sys.modules["utils"] is utils
print("done")
"""


def test_a_caller_with_modules_of_our_names(root: Path, tmp_path: Path) -> None:
    caller = tmp_path / "caller"
    (caller / "models").mkdir(parents=True)
    (caller / "main.py").write_text(CALLER)
    (caller / "utils.py").write_text('name = "the caller\'s"')
    (caller / "datasets.py").write_text('name = "the caller\'s datasets"')
    (caller / "models" / "__init__.py").write_text("")
    (caller / "models" / "own.py").write_text('name = "the caller\'s models"')
    torch.manual_seed(0)
    model = models.make(SPEC).eval()
    save_checkpoint(tmp_path / "model.pth", {"model": {**SPEC, "sd": model.state_dict()}})
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    write_rgb(tmp_path / "photo.png", pixels)
    ended = subprocess.run(
        [sys.executable, "main.py", root, tmp_path / "model.pth", tmp_path / "photo.png"],
        cwd=caller,
        capture_output=True,
        text=True,
        env={**os.environ, "TORCH_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        timeout=180,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("done\n")
    result = np.load(caller / "result.npz")
    expected = ContinuousImage.represent(pixels, model)
    np.testing.assert_allclose(result["render"], expected.render(30, 41), atol=1e-6)
    np.testing.assert_allclose(result["part"], expected.render(7, 8, (1, 2, 3, 4.5)), atol=1e-6)
    np.testing.assert_allclose(result["point"], expected.image(0.1, [0.2, -0.3]), atol=1e-6)
    with torch.inference_mode():
        colours = model(torch.zeros(1, 3, 6, 5), torch.zeros(1, 2, 2), torch.ones(1, 2, 2) / 9)
    np.testing.assert_allclose(result["colours"], colours, atol=1e-6)
    saved = ContinuousImage.load(caller / "saved.liif", "cpu")
    np.testing.assert_allclose(saved.render(30, 41), expected.render(30, 41), atol=1e-6)


def test_nothing_but_entry_points_is_listed() -> None:
    """As torch.hub.list decides what to list: every public name that can be called."""
    import hubconf

    public = [name for name in dir(hubconf) if name[0] != "_" and callable(getattr(hubconf, name))]
    assert public == ["continuous_image", "edsr_baseline_liif", "liif", "rdn_liif"]
