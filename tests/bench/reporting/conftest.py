"""A simulated suite for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.benchmark.simulated_runs import SPEEDS, STEP_SECONDS, write_run
from bench.reporting import report_folder


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Three methods on two backbones with three seeds each."""
    root = tmp_path / "results" / "simulated"
    for position, backbone in enumerate(("sit-ti/2", "dit-ti/2")):
        for method, speed in SPEEDS.items():
            for seed in range(3):
                write_run(
                    root,
                    method,
                    backbone,
                    seed,
                    speed=speed,
                    step_seconds=STEP_SECONDS[method],
                    parameters=500_000 + position,
                )
    return root


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take most of their time."""
    monkeypatch.setattr(report_folder, "drawings", lambda _comparison: [])
