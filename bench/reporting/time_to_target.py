"""Time to target: the speedup to the value of the reference at its end, or at a fraction of its training.

A curve is a metric at a few costs (steps, seconds, FLOPs, device-hours). Between two evaluations it is
taken as a power law, straight in log cost and log metric, as learning curves nearly are; where a logarithm
does not exist, as straight. The cost of a target is where the mean curve over seeds first reaches it, and

    speedup = cost of the reference / cost of the method.

A crossing is censored where the curve never reaches the target (its cost is more than the last) or is
there at the first evaluation (its cost is that or less). The speedup then is a bound, and shown as one.
Intervals resample the seeds, together for both methods, and go through the whole calculation each time; their
ends are the quantiles of `statistics.expanded`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from bench.reporting.statistics import expanded

RESAMPLES = 999


class Grid(NamedTuple):
    """Evaluations of one method as arrays."""

    seeds: np.ndarray  # [S], increasing
    values: dict[str, np.ndarray]  # name of a cost or metric -> [S, T], NaN where not evaluated

    def over_seeds(self, cost: str, metric: str) -> np.ndarray:
        """Mean cost, and mean, lowest and highest metric over the seeds, [4, n], where any was evaluated."""
        known = np.isfinite(self.values[metric]).any(0)
        if not known.any():
            return np.empty((4, 0))
        costs, values = self.values[cost][:, known], self.values[metric][:, known]
        parts = (np.nanmean(costs, 0), np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0))
        return np.stack(parts)


class Crossing(NamedTuple):
    """Costs of a target, [...]; `side`: 0 exact, 1 a lower bound, -1 an upper bound."""

    cost: np.ndarray
    side: np.ndarray


class Speedup(NamedTuple):
    """A ratio of costs; `side`: 0 exact, 1 a lower bound, -1 an upper bound."""

    ratio: float  # NaN where both curves are censored against each other
    side: int = 0
    low: float = np.nan  # of the confidence interval
    high: float = np.nan
    low_side: int = 0  # -1: the interval's lower end is below `low`
    high_side: int = 0  # 1: its upper end is above `high`

    @property
    def reached(self) -> bool:
        return bool(np.isfinite(self.ratio)) and self.side >= 0

    def __str__(self) -> str:
        """`2.30`, `> 3.10` for a lower bound, `not reached`, or `undecided`."""
        if np.isnan(self.ratio):
            return "undecided"
        if not self.reached:
            return "not reached"
        text = f"{self.ratio:.2f}" if self.ratio < 9.95 else f"{self.ratio:.0f}"
        return f"> {text}" if self.side > 0 else text


def first_crossing(
    cost: np.ndarray, value: np.ndarray, target: np.ndarray, lower_is_better: bool
) -> Crossing:
    """Where curves, costs [..., n] increasing and values [..., n], first are as good as the targets [...]."""
    cost, value, target = (np.asarray(array, dtype=float) for array in (cost, value, target))
    good = value <= target[..., None] if lower_is_better else value >= target[..., None]
    reached, first = good.any(-1), good.argmax(-1)

    def at(array: np.ndarray, index: np.ndarray) -> np.ndarray:
        return np.take_along_axis(array, index[..., None], -1)[..., 0]

    before = np.maximum(first - 1, 0)
    c0, c1, v0, v1 = at(cost, before), at(cost, first), at(value, before), at(value, first)
    with np.errstate(divide="ignore", invalid="ignore"):
        positive = np.minimum(np.minimum(v0, v1), target) > 0
        share = np.where(
            positive, (np.log(target) - np.log(v0)) / (np.log(v1) - np.log(v0)), (target - v0) / (v1 - v0)
        )
        between = np.where(positive & (c0 > 0), c0 * (c1 / c0) ** share, c0 + (c1 - c0) * share)
    exact = np.where(first == 0, cost[..., 0], between)
    side = np.where(reached, np.where(first == 0, -1, 0), 1)
    return Crossing(np.where(reached, exact, cost[..., -1]), side)


def at_cost(table: Grid, cost: str, metric: str, budget: float) -> np.ndarray:
    """The metric of each seed where a run, of mean cost over the seeds, has cost `budget`: [seeds].

    NaN before the first evaluation and beyond the last.
    """
    costs, values = _curves(table, table.seeds, cost, metric)
    mean = costs.mean(0)
    if not mean.size or not mean[0] <= budget <= mean[-1]:
        return np.full(len(table.seeds), np.nan)
    if (values > 0).all() and mean[0] > 0:
        return np.exp([np.interp(np.log(budget), np.log(mean), np.log(own)) for own in values])
    return np.array([np.interp(budget, mean, own) for own in values])


def _ratio(reference: Crossing, method: Crossing) -> tuple[np.ndarray, np.ndarray]:
    """Reference over method and its side; NaN where the two are censored against each other."""
    above = (reference.side > 0) | (method.side < 0)
    below = (reference.side < 0) | (method.side > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where((above & below) | (method.cost <= 0), np.nan, reference.cost / method.cost)
    return values, np.where(above, 1, np.where(below, -1, 0))


def grid(evaluations: pd.DataFrame) -> Grid:
    """The numbers of one method's evaluations, by seed and step."""
    seeds, row = np.unique(evaluations["seed"], return_inverse=True)
    steps, column = np.unique(evaluations["step"], return_inverse=True)
    values = {}
    for name, numbers in evaluations.select_dtypes("number").items():
        values[str(name)] = np.full((len(seeds), len(steps)), np.nan)
        values[str(name)][row, column] = numbers
    return Grid(seeds, values)


def value_at(cost: np.ndarray, value: np.ndarray, share: float) -> np.ndarray:
    """Values [...] of curves (costs [..., n] increasing, values [..., n]) at a share of their last cost.

    NaN before the first evaluation.
    """
    if share == 1:
        return value[..., -1]
    budget = share * cost[..., -1:]
    after = np.clip((cost < budget).sum(-1, keepdims=True), 1, cost.shape[-1] - 1)
    (c0, v0), (c1, v1) = (
        (np.take_along_axis(cost, index, -1), np.take_along_axis(value, index, -1))
        for index in (after - 1, after)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        straight = v0 + (v1 - v0) * (budget - c0) / (c1 - c0)
        power = v0 * (v1 / v0) ** (np.log(budget / c0) / np.log(c1 / c0))
    found = np.where((np.minimum(v0, v1) > 0) & (c0 > 0), power, straight)
    return np.where(budget < cost[..., :1], np.nan, found)[..., 0]


def speedup(
    method: Grid,
    reference: Grid,
    cost: str,
    metric: str,
    lower_is_better: bool,
    confidence: float = 0.95,
    share: float = 1.0,
) -> Speedup | None:
    """How many times sooner the method's mean curve reaches the value that the reference's has at a share of
    its training's cost: at the end by default.

    The seeds that both have are compared, each method at the steps where all of these were evaluated. No
    interval for a single seed; None where there is nothing to compare.
    """
    seeds = np.intersect1d(method.seeds, reference.seeds)
    n = len(seeds)
    curves = [_curves(table, seeds, cost, metric) for table in (reference, method)]
    if not all(costs.any() for costs, _ in curves):
        return None

    def ratios(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ratio and side [...] for shares [..., n] of the seeds in the mean."""
        (cost_r, value_r), (cost_m, value_m) = ((weights @ cost, weights @ value) for cost, value in curves)
        target = value_at(cost_r, value_r, share)
        return _ratio(
            first_crossing(cost_r, value_r, target, lower_is_better),
            first_crossing(cost_m, value_m, target, lower_is_better),
        )

    ratio, side = ratios(np.full(n, 1 / n))
    if n == 1:
        return Speedup(float(ratio), int(side))
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    low, high, low_side, high_side = _interval(*ratios(draws), expanded(confidence, n))
    return Speedup(float(ratio), int(side), low, high, low_side, high_side)


def _curves(table: Grid, seeds: np.ndarray, cost: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Costs and metric [seeds, n] at the steps where every one of these seeds was evaluated."""
    kept = np.isin(table.seeds, seeds)
    costs, values = table.values[cost][kept], table.values[metric][kept]
    common = (np.isfinite(costs) & np.isfinite(values)).all(0)
    return costs[:, common], values[:, common]


def _interval(ratios: np.ndarray, sides: np.ndarray, confidence: float) -> tuple[float, float, int, int]:
    """Percentile interval of resampled ratios [R], and the sides of its two ends."""
    kept = np.isfinite(ratios)
    if not kept.any():
        return np.nan, np.nan, 0, 0
    order = np.argsort(ratios[kept], kind="stable")
    ratios, sides = ratios[kept][order], sides[kept][order]
    ends = np.array([(1 - confidence) / 2, (1 + confidence) / 2]) * (len(ratios) - 1)
    low, high = ends.round().astype(int)
    return float(ratios[low]), float(ratios[high]), min(int(sides[low]), 0), max(int(sides[high]), 0)
