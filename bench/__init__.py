"""Fair comparison of alignment methods: data, training, sampling, evaluation, reports.

    import bench

    run = bench.train("repa", "sit-ti", steps=500)
    images = bench.sample(run, labels=[0, 1, 2])
    table = bench.results("results/runs")

Nothing heavy is imported before it is used: `bench/library.py` has what these do.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.library import build, load_run, results, sample, train

__all__ = ["build", "load_run", "results", "sample", "train"]

# Before torch is imported: waiting threads spin briefly, then sleep. By default they spin for milliseconds,
# and every small operator waits that long if the machine is shared.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("bench.library"), name)
    raise AttributeError(f"module 'bench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
