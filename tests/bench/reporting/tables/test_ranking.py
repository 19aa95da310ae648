"""Ranks, and the costs of a target, on simulated runs whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.benchmark.simulated_runs import RECORDS, SPEEDS, write_run
from bench.reporting.comparison import Comparison, compare
from bench.reporting.results import load
from bench.reporting.tables.ranking import ranking_table
from bench.reporting.tables.speedup import TARGETS, target_table


def comparison(root: Path, speeds: dict[str, float], seeds: int = 4, noise: float = 0.02) -> Comparison:
    for method, speed in speeds.items():
        for seed in range(seeds):
            write_run(root, method, seed=seed, speed=speed, noise=noise)
    return compare(load(root), "baseline", None, 0.95, allow_mixed=False)


def test_methods_are_ranked_and_their_epochs_to_the_target_are_those_of_the_law(tmp_path: Path) -> None:
    found = comparison(tmp_path, SPEEDS)
    table = ranking_table(found).to_frame().set_index("method")
    assert table["rank"].to_dict() == {"vrpo": 1, "repa": 2, "baseline": 3}
    assert table["rank of its kind"].to_dict() == {"vrpo": 1, "repa": 2, "baseline": 1}
    assert list(table.index) == ["vrpo", "repa", "baseline"]  # those with a teacher first
    for method, speed in SPEEDS.items():
        epochs = 1000 * 256 / RECORDS / speed
        assert float(str(table["epochs to target"][method]).removeprefix("≤ ")) == pytest.approx(
            epochs, rel=0.1
        )


def test_methods_within_the_noise_share_a_rank(tmp_path: Path) -> None:
    speeds = {"baseline": 1.0, "first": 3.0, "second": 3.02, "third": 2.98}
    table = ranking_table(comparison(tmp_path, speeds, noise=0.05)).to_frame().set_index("method")
    assert table["rank"].to_dict() == {"first": 1, "second": 1, "third": 1, "baseline": 4}


def test_one_seed_tells_nothing_apart(tmp_path: Path) -> None:
    table = ranking_table(comparison(tmp_path, SPEEDS, seeds=1)).to_frame()
    assert set(table["rank"]) == {1}


def test_speedups_are_given_at_every_target(tmp_path: Path) -> None:
    table = target_table(comparison(tmp_path, SPEEDS)).to_frame()
    assert list(table["target"]) == [*TARGETS, *TARGETS]
    for method, own in table.groupby("method"):
        for value in own["in steps"]:
            assert float(str(value).removeprefix("> ").split(" ")[0]) == pytest.approx(
                SPEEDS[method], rel=0.12
            )
