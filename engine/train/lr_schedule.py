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
    schedule, base = config.cosine()
    if schedule is not None:
        by_epoch = schedule.every == "epoch"
        done = step // steps_per_epoch if by_epoch else step
        total = config.epoch_max if by_epoch else config.epoch_max * steps_per_epoch
        if done < schedule.warmup:
            begin = schedule.warmup_from
            rise = (done if begin else done + 1) / schedule.warmup  # from zero, not with zero
            return base * (begin + (1 - begin) * rise)
        progress = (done - schedule.warmup) / max(1, total - schedule.warmup)
        wave = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return schedule.min_lr + (base - schedule.min_lr) * wave
    if config.multi_step_lr is not None:
        finished = step // steps_per_epoch
        reached = sum(milestone <= finished for milestone in config.multi_step_lr.milestones)
        return base * config.multi_step_lr.gamma**reached
    return base
