"""Confidence intervals and tests over a few seeds.

Runs of one seed share initial weights, images, times and noise across methods, so methods are compared by
the differences d_i within seeds, whose variance is smaller than that of two methods apart. For n
differences of mean d and standard deviation s (n - 1 in the denominator):

    t interval          d +- t_{n-1} s / sqrt(n)                    exact for normal differences, any n >= 2
    bootstrap interval  expanded quantiles of resampled means       no normality; within the range of the d_i
    sign-flip test      share of the 2^n sign patterns whose |mean| is at least |d|; never below 2 / 2^n

Plain bootstrap quantiles are too narrow for few seeds: for n = 5 and 95% they cover 84%. `expanded` takes
quantiles further out, which cover 91% (simulated). No resampled mean leaves the range of the d_i, so that
1 - 2/2^n is the most that any of them covers: 50% for n = 2, 75% for n = 3.

Sources: Efron and Tibshirani 1993 (bootstrap); Hesterberg 2015 (arXiv 1411.5279: expanded quantiles); Fisher
1935 (sign flips); Agarwal et al. 2021 (arXiv 2108.13264: interquartile mean over settings, stratified
bootstrap, performance profiles).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
from scipy import optimize, stats

RESAMPLES = 9999


class Estimate(NamedTuple):
    """A mean over n seeds; `sd` and the interval are NaN for a single seed, all is NaN for none."""

    mean: float = np.nan
    sd: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: int = 0

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


class Difference(NamedTuple):
    """Method minus reference over common seeds."""

    t: Estimate
    bootstrap: tuple[float, float]
    p: float  # two-sided sign-flip test
    detectable: float  # the smallest true difference that so many seeds of this spread find in 80% of studies


def estimate(values: Sequence[float] | np.ndarray | pd.Series, confidence: float = 0.95) -> Estimate:
    """Mean, standard deviation and t interval of one value per seed, [n]; non-finite values are excluded."""
    sample = np.asarray(values, dtype=float)
    sample = sample[np.isfinite(sample)]
    n = len(sample)
    if n < 2:
        return Estimate(float(sample[0]), n=1) if n else Estimate()
    mean, sd = float(sample.mean()), float(sample.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / n**0.5
    return Estimate(mean, sd, mean - half, mean + half, n)


def paired(values: pd.Series, reference: pd.Series) -> np.ndarray:
    """Differences [n] of two series indexed by seed, over common seeds."""
    seeds = values.index.intersection(reference.index)
    d = values.loc[seeds].to_numpy(dtype=float) - reference.loc[seeds].to_numpy(dtype=float)
    return d[np.isfinite(d)]


def difference(values: pd.Series, reference: pd.Series, confidence: float = 0.95) -> Difference:
    """`values` minus `reference`, both indexed by seed: two intervals and a sign-flip test."""
    d = paired(values, reference)
    if len(d) < 2:
        return Difference(estimate(d, confidence), (np.nan, np.nan), np.nan, np.nan)
    interval = bootstrap_interval(d, confidence)
    return Difference(estimate(d, confidence), interval, sign_flip(d), detectable(d, confidence))


def detectable(values: Sequence[float] | np.ndarray, confidence: float = 0.95, power: float = 0.8) -> float:
    """The smallest true mean of differences [n] like these whose t interval excludes zero with that power.

    NaN for fewer than two.
    """
    found = estimate(values, confidence)
    if found.n < 2:
        return np.nan
    return _standard_errors(found.n, confidence, power) * found.sd / found.n**0.5


@lru_cache
def _standard_errors(n: int, confidence: float, power: float) -> float:
    """The true mean, in standard errors, at which a t test of n values has the power.

    The mean is normal, its estimated standard error chi distributed: the power is averaged over the latter.
    """
    middles = (np.arange(4000) + 0.5) / 4000
    error = np.sqrt(stats.chi2.ppf(middles, n - 1) / (n - 1))
    threshold = stats.t.ppf((1 + confidence) / 2, n - 1) * error

    def excess(mean: float) -> float:
        return float((stats.norm.sf(threshold - mean) + stats.norm.cdf(-threshold - mean)).mean()) - power

    return cast(float, optimize.brentq(excess, 0, 4 * threshold.max() + 10))


def bootstrap_interval(d: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Expanded percentile bootstrap interval of the mean of d [n]; the same numbers on every call."""
    if np.ptp(d) == 0:
        return float(d[0]), float(d[0])
    level = expanded(confidence, len(d))
    result = stats.bootstrap(
        (d,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="percentile", rng=0
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def expanded(confidence: float, n: int) -> float:
    """The level at which quantiles of resampled means of n values are as far apart as a t interval's ends.

    Resampled means have the standard deviation s sqrt((n-1)/n) / sqrt(n) and not s / sqrt(n), and t quantiles
    are further out than normal ones. For n = 3, 5, 30 a level of 0.95 becomes 1.000, 0.998, 0.962.
    """
    quantile = (n / (n - 1)) ** 0.5 * stats.t.ppf((1 + confidence) / 2, n - 1)
    return float(2 * stats.norm.cdf(quantile) - 1)


def sign_flip(d: np.ndarray) -> float:
    """Two-sided p of the hypothesis that the paired differences d [n] are symmetric around 0.

    Exact up to n = 13 (all sign patterns), by random patterns above.
    """
    result = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True, rng=0
    )
    return float(result.pvalue)


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all scores (any shape): robust to a few outlying settings or seeds."""
    return float(stats.trim_mean(np.ravel(scores).astype(float), 0.25))


def interquartile_interval(settings: Sequence[np.ndarray], confidence: float = 0.95) -> tuple[float, float]:
    """Stratified bootstrap interval of the interquartile mean of scores [seeds] in each of some settings.

    Seeds are resampled within their setting; settings are what they are.
    """

    def pooled(*parts: np.ndarray, axis: int = -1) -> np.ndarray:
        return stats.trim_mean(np.concatenate(parts, axis=axis), 0.25, axis=axis)

    if min(map(len, settings)) < 2:
        return np.nan, np.nan
    result = stats.bootstrap(
        [np.asarray(scores, dtype=float) for scores in settings],
        pooled,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        batch=1000,
        rng=0,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Fraction [T] of the scores (any shape; larger is better) above each threshold [T]."""
    return (np.ravel(scores)[None, :] > np.asarray(thresholds)[:, None]).mean(axis=1)
