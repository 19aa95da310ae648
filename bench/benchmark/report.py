"""Speed of the report on a simulated folder of many runs: python -m bench.benchmark.report"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.benchmark import new_table, print_table, with_spread
from bench.core.cli import parse
from bench.core.errors import exit_code

METHODS, BACKBONES = 10, ("sit-s/2", "sit-b/2", "sit-l/2", "sit-xl/2", "dit-xl/2")


@dataclass(frozen=True)
class Options:
    """What is timed."""

    seeds: int = 10
    """of each of 10 methods on 5 backbones: 500 runs"""
    evaluations: int = 100
    """of each run"""
    repeats: int = 3
    """of the whole command, each in a fresh process"""


def main() -> None:
    """Time `python -m bench.report`, imports, plots and pages included."""
    options = parse(Options, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "many"
        _simulate(root, options)
        seconds = [seconds_of_report(root) for _ in range(options.repeats)]
        size = sum(path.stat().st_size for path in (root / "report").iterdir())
    table = new_table("Report", ["part"], ["runs", "evaluations", "seconds", "size, MB"])
    runs = METHODS * len(BACKBONES) * options.seeds
    evaluations = str(runs * options.evaluations)
    table.add_row("python -m bench.report", str(runs), evaluations, with_spread(seconds), f"{size / 1e6:.1f}")
    print_table(table)


def _simulate(root: Path, options: Options) -> None:
    from bench.benchmark.simulated_runs import write_run

    for index in range(METHODS):
        method = f"method{index}" if index else "baseline"
        for size, backbone in enumerate(BACKBONES):
            for seed in range(options.seeds):
                write_run(
                    root,
                    method,
                    backbone,
                    seed,
                    speed=1 + 0.2 * index,
                    steps=100_000,
                    evaluations=options.evaluations,
                    noise=0.1,
                    parameters=33_000_000 * 3**size,
                )


def seconds_of_report(root: Path) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "bench.report", str(root)], check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(exit_code(main))
