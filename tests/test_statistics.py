"""Intervals of paired differences: by hand, by scipy, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from engine.evaluate.statistics import decimals, over_pictures, over_seeds


def test_three_seeds_worked_out_by_hand() -> None:
    """Means 1, 2 and 3: mean 2, standard error 1/sqrt(3), Student's 4.302653 for two freedoms."""
    differences = np.array([[0.5, 1.5], [1.0, 3.0], [3.5, 2.5]])
    interval = over_seeds(differences)
    assert interval is not None
    assert interval.low == pytest.approx(2 - 4.302652729911275 / math.sqrt(3), abs=1e-9)
    assert interval.high == pytest.approx(2 + 4.302652729911275 / math.sqrt(3), abs=1e-9)


def test_seeds_as_scipys_paired_test_has_them() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(30, 1, (2, 5, 40))
    expected = stats.ttest_rel(ours.mean(1), theirs.mean(1)).confidence_interval(0.95)
    assert over_seeds(ours - theirs) == pytest.approx((expected.low, expected.high))


def test_many_pictures_as_scipys_bootstrap_has_them() -> None:
    """For many pictures the correction vanishes, and it is scipy's percentile interval."""
    values = np.random.default_rng(2).gamma(2, 1, 2000)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=3
    ).confidence_interval
    interval = over_pictures(values[None])
    assert interval is not None
    width = expected.high - expected.low
    assert interval.low == pytest.approx(expected.low, abs=0.05 * width)
    assert interval.high == pytest.approx(expected.high, abs=0.05 * width)


def test_two_pictures_worked_out_by_hand() -> None:
    """Means of resamples of 0 and 1 are 0, 1/2 or 1, the outer ones in a quarter of cases each."""
    assert over_pictures(np.array([[0.0, 1.0]])) == (0.0, 1.0)


def test_one_seed_or_picture_has_no_interval() -> None:
    assert over_seeds(np.ones((1, 9))) is None
    assert over_pictures(np.ones((9, 1))) is None


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("pictures", [14, 100])
def test_intervals_cover_the_truth(seeds: int, pictures: int) -> None:
    """In 1,000 studies whose true differences are known, 93 to 97 of 100 intervals hold them.

    A difference is the truth, plus what its seed adds to all pictures, plus what the picture adds
    for all seeds, plus noise of its own. Over seeds the truth is that of these pictures, over
    pictures that of these seeds.
    """
    rng = np.random.default_rng([seeds, pictures])
    held = np.zeros(2)
    for _ in range(1000):
        of_seed, of_picture = rng.normal(0, 0.02, (seeds, 1)), rng.normal(0, 0.1, pictures)
        differences = 0.05 + of_seed + of_picture + rng.normal(0, 0.03, (seeds, pictures))
        by_seeds = over_seeds(differences)
        by_pictures = over_pictures(differences, int(rng.integers(1 << 32)), resamples=1000)
        assert by_seeds is not None
        assert by_pictures is not None
        held += (
            by_seeds.low <= 0.05 + of_picture.mean() <= by_seeds.high,
            by_pictures.low <= 0.05 + of_seed.mean() <= by_pictures.high,
        )
    assert held.min() >= 930
    assert held.max() <= 970


def test_no_more_digits_than_the_interval_allows() -> None:
    assert [decimals(half) for half in (0.034, 0.12, 1.2, 45.0, 0.0007, 0.00003)] == [
        *(3, 2, 1, 0, 4, 4)
    ]
    assert decimals(None) == decimals(0.0) == 2
