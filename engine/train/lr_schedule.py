"""Learning rates as a function of the step alone, so that going on can't decay them twice."""

from __future__ import annotations

import math

from engine.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of an optimiser step.

    Args:
        step: steps done before this one, since the run began.
        steps_per_epoch: steps of every epoch.
    """
    base = config.optimizer.lr
    if config.lr_schedule is not None:
        total = config.epoch_max * steps_per_epoch
        warmup, lowest = config.lr_schedule.warmup, config.lr_schedule.min_lr
        if step < warmup:
            return base * (step + 1) / warmup
        progress = (step - warmup) / max(1, total - warmup)
        return lowest + (base - lowest) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if config.multi_step_lr is not None:
        finished = step // steps_per_epoch
        reached = sum(milestone <= finished for milestone in config.multi_step_lr.milestones)
        return base * config.multi_step_lr.gamma**reached
    return base
