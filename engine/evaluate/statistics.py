"""Means and 95 % intervals of paired differences between two ways of training.

A difference is that of one picture, by two models of one seed. Two questions are kept apart: what
another training would give (seeds), and what other pictures would give (pictures).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000


class Interval(NamedTuple):
    """Of a mean difference, from `low` to `high`."""

    low: float
    high: float

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


def over_seeds(differences: np.ndarray) -> Interval | None:
    """The t-interval of the mean over seeds: what another training would give.

    Args:
        differences: (seeds, pictures).

    Returns:
        None for one seed, which says nothing of others.
    """
    from scipy import stats

    means = differences.mean(axis=1)
    if len(means) < 2:
        return None
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(means) - 1) * stats.sem(means)
    return Interval(float(means.mean() - half), float(means.mean() + half))


def over_pictures(
    differences: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> Interval | None:
    """A bootstrap interval of the mean over pictures: what other pictures would give.

    Pictures are drawn with replacement, each with the mean of its seeds, and the interval is
    between percentiles of the means. The percentiles are a little further out than 2.5 and 97.5, by
    as much as makes the interval of a normal distribution as wide as Student's (Hesterberg, 2015,
    section 3.3): a resample of few pictures varies less than the pictures do. For the five pictures
    of Set5 the interval still holds the truth in 92 of 100 cases only, for 14 in 94.

    Args:
        differences: (seeds, pictures).
        seed, resamples: of the draws, and how many.

    Returns:
        None for one picture.
    """
    from scipy import stats

    values = differences.mean(axis=0)
    count = len(values)
    if count < 2:
        return None
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    means = draws @ values / count
    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1) * math.sqrt(count / (count - 1))
    tail = stats.norm.cdf(-quantile)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def decimals(half: float | None) -> int:
    """How many decimals a figure deserves whose interval is that wide to each side: 0 to 4.

    Two digits of the interval's half are kept, and as many decimals of the figure.
    """
    if half is None or not half > 0:
        return 2
    return min(4, max(0, 1 - math.floor(math.log10(half))))
