"""Everything that changes while a run goes on, to and from a checkpoint."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import models
from engine.config import TrainConfig, config_dict
from engine.runtime import versions
from engine.weights.checkpoint import as_checkpoint, check_answers, read_tensors
from engine.weights.convert import load_encoder, official_swinir
from engine.weights.pretrained import find_weights
from registry import show
from utils import ConfigError, DataError, UserError

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass
class TrainState:
    """A run between two steps.

    Attributes:
        epoch: finished epochs, validation included.
        position: steps done in the epoch after those.
        step: steps done in all.
        loss_sum, items: of the current epoch, for its mean loss.
        skipped: training items replaced for broken photographs in the current epoch.
        broken: messages about those photographs, as far as this process has met them.
        best: highest validation PSNR so far.
        seconds: spent on the run, over all its sessions.
        data: fingerprint of the files of each data set.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: nn.Module | None = None
    epoch: int = 0
    position: int = 0
    step: int = 0
    loss_sum: float = 0.0
    items: int = 0
    skipped: int = 0
    broken: dict[str, None] = field(default_factory=dict)
    best: float | None = None
    seconds: float = 0.0
    data: dict[str, str] = field(default_factory=dict)

    COUNTERS = ("epoch", "position", "step", "loss_sum", "items", "skipped", "best", "seconds")

    @property
    def evaluated(self) -> nn.Module:
        """The model that is validated, as it would be tested: the average where one is kept."""
        return self.model if self.ema is None else self.ema

    def average(self, decay: float) -> None:
        """Move the averaged weights towards the current ones; buffers become the current ones.

        Early on the average is over fewer steps than decay asks for, or it would remember the
        random weights of the beginning.
        """
        assert self.ema is not None
        keep = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            averages: list[Tensor] = list(self.ema.parameters())
            weights: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(averages, weights, 1 - keep)
            buffers = list(self.ema.buffers())
            if buffers:  # such as statistics of batch normalisation, which are averages themselves
                torch._foreach_copy_(buffers, list(self.model.buffers()))

    def progress(self, steps_per_epoch: int) -> int:
        """Steps up to here had all epochs been as long as they are now: what schedules go by.

        A run that goes on with another batch size has done another number of them, `step`.
        """
        return self.epoch * steps_per_epoch + self.position

    @property
    def lr(self) -> float:
        """The learning rate of the latest step."""
        return self.optimizer.param_groups[0]["lr"]

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def checkpoint(self, config: TrainConfig) -> dict[str, Any]:
        """All of it, the published keys first."""
        optimizer = self.optimizer.state_dict()
        # Without how this machine computes it.
        groups = [{**g, "fused": None, "foreach": None} for g in optimizer["param_groups"]]
        return {
            "model": {**config.model, "sd": self.model.state_dict()},
            "optimizer": {
                "name": config.optimizer.name,
                "args": config.optimizer.args,
                "sd": {**optimizer, "param_groups": groups},
            },
            **{name: getattr(self, name) for name in self.COUNTERS},
            "broken": [*self.broken],
            "scheduler": {"step": self.step, "lr": self.lr},
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "rng": random_states(),
            "config": config_dict(config),
            "data": self.data,
            "versions": versions(),
        }

    def restore(self, checkpoint: Mapping[str, Any], path: Path, steps_per_epoch: int) -> None:
        """Go on from a checkpoint, ours or a published one.

        Raises:
            DataError: something in it does not fit this run.
        """
        try:
            load_state(self.model, checkpoint["model"]["sd"])
            if self.ema is not None:
                average = checkpoint.get("ema")
                load_state(self.ema, checkpoint["model"]["sd"] if average is None else average)
            load_optimizer(self.optimizer, checkpoint["optimizer"]["sd"])
            if checkpoint.get("scaler"):
                self.scaler.load_state_dict(checkpoint["scaler"])
            for name in (name for name in self.COUNTERS if name in checkpoint):
                value, counts = checkpoint[name], isinstance(getattr(self, name), int)
                valid = isinstance(value, int) and 0 <= value < 2**63
                if not counts:
                    valid = isinstance(value, (int, float)) or (name == "best" and value is None)
                if not valid:
                    raise ValueError(f"its {name} is {show(value)}")
                setattr(self, name, value)
            self.broken = dict.fromkeys(map(str, checkpoint.get("broken") or ()))
            if self.position > self.items:  # each step has an item at least
                raise ValueError(f"its position is {self.position} after {self.items} items")
            if "step" not in checkpoint:
                self.step = self.epoch * steps_per_epoch
            if "rng" in checkpoint:
                restore_random_states(checkpoint["rng"])
        except UserError as error:
            raise DataError(f"{path}: {' '.join(str(error).split())}") from error
        except Exception as error:  # values of a damaged or foreign file make torch raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            if isinstance(error, KeyError):
                reason = f"it has no {error}"
            raise DataError(f"{path}: can't be resumed from ({reason})") from error


def make_state(config: TrainConfig, device: torch.device) -> TrainState:
    """A run before its first step, the weights drawn from the configuration's seed.

    Raises:
        ConfigError: `init` is neither a file nor a known name; no checkpoint can hold the model.
        DataError: weights of `init` that can't be read or do not fit.
    """
    torch.manual_seed(config.seed)
    np.random.seed(config.seed % 2**32)
    random.seed(config.seed)
    model = models.make(config.model)
    check_answers(model, config.model["name"])
    check_state(model, config.model["name"])
    if config.init is not None:
        start_from(model, config.init)
    model = model.to(device).train()
    make_optimizer = OPTIMIZERS[config.optimizer.name]
    scaled = config.precision == "fp16" and device.type == "cuda"
    return TrainState(
        model=model,
        # Over all parameters, frozen ones too: so the published code numbers them.
        optimizer=make_optimizer(model.parameters(), **config.optimizer.args, fused=True),
        scaler=torch.amp.GradScaler(device.type, enabled=scaled),
        ema=copy.deepcopy(model).eval() if config.ema_decay is not None else None,
    )


def check_state(model: nn.Module, name: str) -> None:
    """Raises ConfigError where no checkpoint can be read that holds a model's state."""
    others = [key for key, value in model.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise ConfigError(
            f"model.name: {name!r} given, whose state holds {others[0]}; allowed: models whose "
            "state is tensors alone, without get_extra_state"
        )


def start_from(model: nn.Module, name: str) -> None:
    """Take over weights: a checkpoint's, of a file or a name; SwinIR's own for the encoder."""
    path = find_weights(name, "init")
    content = read_tensors(path)
    official = official_swinir(content)
    start = as_checkpoint(content, path) if official is None else {}
    try:
        if official is not None:
            load_encoder(model, official)
        else:
            load_state(model, start["model"]["sd"] if start.get("ema") is None else start["ema"])
    except UserError as error:
        raise DataError(f"init: {name}: {error}") from error


def load_state(model: nn.Module, weights: Any) -> None:
    models.models.load_weights(model, weights, type(model).__name__)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take an optimiser's state, but keep how this machine computes it and what this run set."""
    pairs = zip(optimizer.state_dict()["param_groups"], state["param_groups"], strict=True)
    groups = [{**group, "params": saved["params"]} for group, saved in pairs]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            shape = torch.Size() if name == "step" else parameter.shape
            absent = value is None and name == "momentum_buffer"
            if not absent and (not isinstance(value, Tensor) or value.shape != shape):
                raise ValueError(f"the optimiser's {name} has another shape than its parameter")
    if len({frozenset(entry) for entry in optimizer.state.values()}) > 1:
        raise ValueError("the optimiser's state is not the same for all parameters")


def random_states() -> dict[str, Any]:
    """The states of all generators, as tensors and plain values."""
    legacy = np.random.get_state(legacy=False)
    assert isinstance(legacy, dict)
    inner = legacy["state"]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": {
            **legacy,
            "state": {"key": torch.from_numpy(inner["key"].astype(np.int64)), "pos": inner["pos"]},
        },
        "python": random.getstate(),
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count() and states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    numbers = states["numpy"]
    key = numbers["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numbers, "state": {"key": key, "pos": numbers["state"]["pos"]}})
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
