"""Statistics against closed forms, brute force, scipy's own tests, and simulations whose truth is known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench.reporting import statistics


def test_interval_of_two_values_is_the_cauchy_quantile_times_half_their_distance() -> None:
    # With one degree of freedom t is Cauchy: its 97.5% quantile is tan(0.475 pi). sd / sqrt(2) = |a - b| / 2.
    found = statistics.estimate([1.0, 3.0])
    assert (found.mean, found.n) == (2.0, 2)
    assert found.sd == pytest.approx(2**0.5)
    assert found.high - found.mean == pytest.approx(np.tan(0.475 * np.pi))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_agrees_with_scipy(confidence: float) -> None:
    values = np.random.default_rng(0).normal(3, 2, 7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    found = statistics.estimate(values, confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_seed_has_a_mean_and_no_interval_and_none_has_nothing() -> None:
    one = statistics.estimate([4.0, np.nan])
    assert one.mean == 4 and one.n == 1 and np.isnan(one.low) and not one.excludes_zero
    assert statistics.estimate([]).n == 0


@pytest.mark.parametrize("n", [2, 3, 5])
def test_t_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    samples = np.random.default_rng(n).normal(1.0, 3.0, (2000, n))
    found = [statistics.estimate(sample) for sample in samples]
    covered = np.mean([item.low < 1.0 < item.high for item in found])
    assert covered == pytest.approx(0.95, abs=0.015)  # three standard errors


def test_pairing_removes_what_seeds_share() -> None:
    rng = np.random.default_rng(0)
    covered, widths = [], []
    for _ in range(500):
        seeds = pd.RangeIndex(5)
        shared = rng.normal(0, 10, 5)  # good and bad seeds, the same for both methods
        reference = pd.Series(shared + rng.normal(0, 0.1, 5), seeds)
        method = pd.Series(shared - 1 + rng.normal(0, 0.1, 5), seeds)
        found = statistics.estimate(statistics.paired(method, reference))
        covered.append(found.low < -1 < found.high)
        widths.append(found.high - found.low)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)
    assert np.mean(widths) < 1  # that of unpaired means is about 17


def test_pairs_are_the_seeds_that_both_have() -> None:
    method = pd.Series([1.0, 2.0, 3.0], index=[0, 1, 2])
    reference = pd.Series([0.5, np.nan, 9.0], index=[0, 1, 7])
    assert statistics.paired(method, reference) == pytest.approx([0.5])


def test_bootstrap_interval_covers_the_truth_with_many_seeds() -> None:
    samples = np.random.default_rng(0).exponential(1.0, (150, 30))
    intervals = [statistics.bootstrap_interval(sample) for sample in samples]
    covered = np.mean([low < 1.0 < high for low, high in intervals])
    assert 0.86 < covered <= 1


def test_bootstrap_interval_of_five_seeds_covers_nearly_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).normal(1.0, 3.0, (300, 5))
    covered = np.mean([low < 1.0 < high for low, high in map(statistics.bootstrap_interval, samples)])
    assert covered == pytest.approx(0.91, abs=0.04)  # plain quantiles: 0.84


def test_expanded_quantiles_of_normal_means_are_the_ends_of_the_t_interval() -> None:
    d = np.random.default_rng(0).normal(0, 1, 6)
    deviation = d.std() / len(d) ** 0.5  # of resampled means
    half = stats.norm.ppf((1 + statistics.expanded(0.9, 6)) / 2) * deviation
    assert half == pytest.approx(statistics.estimate(d, 0.9).high - d.mean())


def test_bootstrap_of_equal_differences_is_a_point() -> None:
    assert statistics.bootstrap_interval(np.full(4, 0.5)) == (0.5, 0.5)


def test_sign_flip_counts_all_patterns() -> None:
    d = np.array([0.3, 1.2, -0.4, 0.9, 0.7])
    flipped = [abs(np.mean(np.array(signs) * d)) for signs in product((1, -1), repeat=5)]
    assert statistics.sign_flip(d) == pytest.approx(np.mean(np.array(flipped) >= abs(d.mean()) - 1e-12))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_no_sign_flip_p_is_below_two_patterns(n: int) -> None:
    assert statistics.sign_flip(np.arange(1.0, n + 1)) == pytest.approx(2 / 2**n)


def test_sign_flip_rejects_a_true_hypothesis_as_often_as_it_says() -> None:
    p = [statistics.sign_flip(d) for d in np.random.default_rng(1).standard_t(3, (400, 8))]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 0.03


def test_interquartile_mean_is_that_of_the_middle_half() -> None:
    scores = np.array([[-1e9, 1, 2], [3, 4, 5], [6, 7, 1e9], [0, 8, 4]])
    assert statistics.interquartile_mean(scores) == np.mean([2, 3, 4, 4, 5, 6])


def test_interquartile_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    means = np.array([0.0, 1.0, 2.0, 3.0])
    truth = 1.5  # the settings are symmetric around it
    covered = []
    for _ in range(60):
        low, high = statistics.interquartile_interval([rng.normal(mean, 0.5, 12) for mean in means])
        covered.append(low < truth < high)
    assert np.mean(covered) > 0.85


def test_performance_profile_of_uniform_scores_is_a_straight_line() -> None:
    scores = (np.arange(1000) + 0.5).reshape(10, 100) / 1000
    thresholds = np.linspace(0, 1, 11)
    assert statistics.performance_profile(scores, thresholds) == pytest.approx(1 - thresholds)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_detectable_difference_is_found_in_four_studies_of_five(n: int) -> None:
    shape = np.random.default_rng(0).standard_normal(n)
    shape = (shape - shape.mean()) / shape.std(ddof=1)  # a sample of spread 1
    effect = statistics.detectable(shape)
    draws = np.random.default_rng(1).standard_normal((20_000, n)) + effect
    half = stats.t.ppf(0.975, n - 1) * draws.std(axis=1, ddof=1) / n**0.5
    assert np.mean(np.abs(draws.mean(axis=1)) > half) == pytest.approx(0.8, abs=0.01)
    assert statistics.detectable(3 * shape) == pytest.approx(3 * effect)
    assert np.isnan(statistics.detectable(shape[:1])) and statistics.detectable(np.ones(n)) == 0
