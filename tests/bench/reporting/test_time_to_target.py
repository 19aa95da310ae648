"""Time to target against power laws, whose crossings and speedups are known, and censored curves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench.reporting.time_to_target import Speedup, at_cost, first_crossing, grid, value_at
from bench.reporting.time_to_target import speedup as speedup_of_grids

STEPS = np.array([100, 200, 400, 800, 1600])


def curves(speed: float, seeds: int, noise: float = 0.0, steps=STEPS, start: int = 0) -> pd.DataFrame:
    """Evaluations of value = (speed * step)^-0.5, and seconds = 2 steps."""
    rng = np.random.default_rng(start)
    rows = [
        {"seed": seed, "step": step, "seconds": 2.0 * step, "fid": value, "precision": 1 / value}
        for seed in range(seeds)
        for step in steps
        for value in [(speed * step) ** -0.5 * np.exp(noise * rng.standard_normal())]
    ]
    return pd.DataFrame(rows)


def speedup(method: pd.DataFrame, reference: pd.DataFrame, *how) -> Speedup:
    found = speedup_of_grids(grid(method), grid(reference), *how)
    assert found is not None
    return found


@pytest.mark.parametrize("target_cost", [100.5, 333.0, 1599.0])
def test_crossing_of_a_power_law_is_exact_between_evaluations(target_cost: float) -> None:
    found = first_crossing(STEPS, STEPS**-0.5, np.asarray(target_cost**-0.5), lower_is_better=True)
    assert found.side == 0
    assert found.cost == pytest.approx(target_cost)


def test_crossing_of_a_straight_line_through_negative_values_is_exact() -> None:
    cost = np.array([0.0, 10.0, 20.0])
    found = first_crossing(cost, cost - 15.0, np.asarray(-5.0), lower_is_better=False)
    assert found.cost == pytest.approx(10.0)
    assert first_crossing(cost, cost - 15.0, np.asarray(0.0), lower_is_better=False).cost == pytest.approx(
        15.0
    )


def test_the_first_of_several_crossings_counts() -> None:
    cost, value = np.array([1.0, 2.0, 3.0, 4.0]), np.array([4.0, 1.0, 3.0, 0.5])
    assert first_crossing(cost, value, np.asarray(1.0), lower_is_better=True).cost == pytest.approx(2.0)


def test_censored_crossings_say_on_which_side_they_are() -> None:
    value = STEPS**-0.5
    never = first_crossing(STEPS, value, np.asarray(1e-9), lower_is_better=True)
    at_once = first_crossing(STEPS, value, np.asarray(1e9), lower_is_better=True)
    assert (never.cost, never.side) == (1600, 1)
    assert (at_once.cost, at_once.side) == (100, -1)


@pytest.mark.parametrize("metric, lower", [("fid", True), ("precision", False)])
@pytest.mark.parametrize("cost", ["step", "seconds"])
def test_speedup_of_a_sooner_power_law_is_how_much_sooner_it_is(metric: str, lower: bool, cost: str) -> None:
    found = speedup(curves(2.5, 3), curves(1.0, 3), cost, metric, lower)
    assert found.ratio == pytest.approx(2.5)
    assert (found.low, found.high) == pytest.approx((2.5, 2.5))
    assert str(found) == "2.50"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("metric, lower", [("fid", True), ("precision", False)])
def test_the_value_at_a_share_of_training_is_that_of_the_power_law(metric, lower, share) -> None:
    table = grid(curves(1.0, 2))
    costs, values = table.values["seconds"], table.values[metric]
    expected = (share * 1600) ** -0.5
    assert value_at(costs, values, share) == pytest.approx([expected if lower else 1 / expected] * 2)
    found = speedup(curves(2.5, 3), curves(1.0, 3), "step", metric, lower, 0.95, share)
    assert found.ratio == pytest.approx(2.5, rel=1e-6) or found.side == 1


def test_a_target_before_the_first_evaluation_is_undecided() -> None:
    assert np.isnan(value_at(STEPS.astype(float), STEPS**-0.5, 0.05))
    found = speedup(curves(2.0, 2), curves(1.0, 2), "step", "fid", True, 0.95, 0.05)
    assert str(found) == "undecided"


def test_how_much_sooner_depends_on_the_target_if_the_lead_is_lost() -> None:
    method = curves(4.0, 2)
    method.loc[method["step"] == 1600, "fid"] = 1600**-0.5  # as good as the reference at the end, not better
    method.loc[method["step"] >= 200, "fid"] = 800**-0.5  # at 200 steps already what the reference has at 800
    early = speedup(method, curves(1.0, 2), "step", "fid", True, 0.95, 0.5)
    late = speedup(method, curves(1.0, 2), "step", "fid", True, 0.95, 1.0)
    assert early.ratio == pytest.approx(4.0) and not late.reached


def test_the_reference_is_as_fast_as_itself() -> None:
    reference = curves(1.0, 3, noise=0.1)
    assert speedup(reference, reference, "step", "fid", True).ratio == pytest.approx(1)


def test_a_method_that_stops_before_the_target_is_not_reached() -> None:
    found = speedup(curves(1.5, 2, steps=STEPS[:3]), curves(1.0, 2), "step", "fid", True)
    assert not found.reached and found.side == -1
    assert str(found) == "not reached"
    assert found.ratio == pytest.approx(1600 / 400)  # only a bound: the speedup is below it


def test_a_method_that_is_better_at_its_first_evaluation_is_faster_than() -> None:
    found = speedup(curves(20.0, 2, steps=STEPS[2:]), curves(1.0, 2), "step", "fid", True)
    assert found.reached and str(found) == "> 4.00"


def test_what_both_have_at_their_first_evaluation_is_undecided() -> None:
    reference = curves(1.0, 2)
    reference.loc[reference["step"] == 1600, "fid"] = 1.0  # it ends worse than it begins
    found = speedup(curves(2.0, 2), reference, "step", "fid", True)
    assert np.isnan(found.ratio) and str(found) == "undecided"


def test_seeds_of_one_method_alone_are_left_out() -> None:
    method, reference = curves(2.0, 4), curves(1.0, 3)
    method.loc[method["seed"] == 3, "fid"] = 1e6
    assert speedup(method, reference, "step", "fid", True).ratio == pytest.approx(2.0)
    alone = grid(method[method["seed"] == 3])
    assert speedup_of_grids(alone, grid(reference), "step", "fid", True) is None


def test_one_seed_has_no_interval() -> None:
    found = speedup(curves(2.0, 1), curves(1.0, 1), "step", "fid", True)
    assert found.ratio == pytest.approx(2.0) and np.isnan(found.low)


def test_steps_that_not_all_seeds_reached_are_left_out() -> None:
    method = curves(2.0, 2)
    torn = method[~((method["seed"] == 1) & (method["step"] == 1600))]
    assert speedup(torn, curves(1.0, 2), "step", "fid", True).ratio == pytest.approx(2.0)


@pytest.mark.parametrize("metric", ["fid", "precision"])
def test_metric_at_a_cost_between_evaluations_is_that_of_the_power_law(metric: str) -> None:
    value = 500.0**-0.5
    found = at_cost(grid(curves(1.0, 2)), "seconds", metric, 1000.0)
    assert found == pytest.approx([value if metric == "fid" else 1 / value] * 2)
    assert np.isnan(at_cost(grid(curves(1.0, 2)), "step", metric, 1601.0)).all()
    assert np.isnan(at_cost(grid(curves(1.0, 2)), "step", metric, 99.0)).all()


@pytest.mark.parametrize("seeds, at_least", [(5, 0.86), (8, 0.9)])
def test_interval_covers_the_true_speedup(seeds: int, at_least: float) -> None:
    covered = []
    for draw in range(100):
        reference = curves(1.0, seeds, 0.05, start=2 * draw)
        found = speedup(curves(2.0, seeds, 0.05, start=2 * draw + 1), reference, "step", "fid", True)
        covered.append(found.low <= 2.0 <= found.high)
    assert np.mean(covered) >= at_least


def test_an_end_of_the_interval_that_is_censored_is_marked() -> None:
    reference = curves(1.0, 2)
    method = pd.concat([curves(1.05, 1), curves(0.7, 1).assign(seed=1)])  # one seed gets there, one does not
    found = speedup(method, reference, "step", "fid", True)
    assert isinstance(found, Speedup)
    assert found.low_side == -1
