"""Small training runs for the tests of training: pictures, a configuration, and runs of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.commands import Commands

PICTURES = 6
SAVE = ("--set", "save_minutes=0.0001")
"""Arguments for a checkpoint after every step."""
RUN = Path("save/_tiny")
"""Where a run of `tiny.yaml` is saved."""


def make_pictures(folder: Path, count: int = PICTURES, size: tuple[int, int] = (20, 24)) -> None:
    """Noise pictures 0.png, 1.png, ..., always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    for number in range(count):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def tiny_config(**changes: Any) -> dict[str, Any]:
    """A configuration of three epochs of five steps each; `changes` by dotted paths (`__`)."""
    folder: dict[str, Any] = {"name": "image-folder", "args": {"root_path": "pictures"}}
    args = {"inp_size": 5, "scale_max": 3, "sample_q": 16}
    norm = {"sub": [0.5], "div": [0.5]}
    encoder = {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True}
    config: dict[str, Any] = {
        "train_dataset": {
            "dataset": {**folder, "args": {**folder["args"], "repeat": 3}},
            "wrapper": {"name": "sr-implicit-downsampled", "args": {**args, "augment": True}},
            "batch_size": 4,
        },
        "val_dataset": {
            "dataset": folder,
            "wrapper": {"name": "sr-implicit-downsampled", "args": args},
            "batch_size": 2,
        },
        "data_norm": {"inp": norm, "gt": norm},
        "model": {
            "name": "liif",
            "args": {
                "encoder_spec": {"name": "edsr-baseline", "args": encoder},
                "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8]}},
            },
        },
        "optimizer": {"name": "adam", "args": {"lr": 1e-2}},
        "epoch_max": 3,
        "multi_step_lr": {"milestones": [1, 2], "gamma": 0.5},
        "epoch_val": 1,
        "epoch_save": 2,
        "num_workers": 0,
        "ema_decay": 0.9,
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = config
        for key in parents:
            place = place[key]
        place[last] = value
    return config


def write_config(folder: Path, name: str = "tiny.yaml", **changes: Any) -> Path:
    """A folder to train in: `pictures/` and a configuration file."""
    if not (folder / "pictures").exists():
        make_pictures(folder / "pictures")
    path = folder / name
    path.write_text(yaml.safe_dump(tiny_config(**changes)))
    return path


class WarmRuns:
    """Runs of `train_liif.py --config tiny.yaml` by a server of commands."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.wait = commands.wait

    def start(self, folder: Path, *arguments: str, **options: Any) -> int:
        """Start a run in `folder`; gives its process id. Options are those of `Commands.start`."""
        config = ("--config", "tiny.yaml")
        return self.commands.start("train_liif.py", *config, *arguments, folder=folder, **options)

    def run(self, folder: Path, *arguments: str, **options: Any) -> tuple[int, str]:
        """Exit code, and what was printed on both streams."""
        code = self.wait(self.start(folder, *arguments, **options))
        return code, (folder / options.get("output", "output.txt")).read_text()


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    """Returns once the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def finish(warm: WarmRuns, folder: Path, workers: int = 0) -> str:
    """Go on to the end of a run."""
    code, text = warm.run(folder, "--resume", "auto", *SAVE, f"num_workers={workers}")
    assert code == 0, text
    assert "Traceback" not in text
    return text


def outcome(folder: Path) -> dict[str, Any]:
    """What two runs must share bit for bit: tensors (by checksum), counters, best score, losses."""
    from engine.weights.checkpoint import load_checkpoint

    last, best = (load_checkpoint(folder / f"epoch-{name}.pth") for name in ("last", "best"))
    keys = ("checksum", "epoch", "position", "step", "best", "loss_sum", "items", "scheduler")
    return {
        **{key: last[key] for key in keys},
        "rates": [group["lr"] for group in last["optimizer"]["sd"]["param_groups"]],
        "best_checksum": best["checksum"],
        "best_epoch": best["epoch"],
        "losses": (folder / "losses.csv").read_text(),
    }
