"""The suite measured on this machine: its speed, one command a part, and in `checks` its correctness.

Commands are steps, network, metrics, data, report, growth, memory and gpu. Every time is the median of
repeats after a warm-up, with the fastest and slowest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import torch


def seconds_of(work: Callable[[], object], device: torch.device, warm_up: int, repeats: int) -> list[float]:
    """Seconds of each timed call of `work`, including the queue of the device."""
    return alternating({"": work}, device, warm_up, repeats)[""]


def alternating(
    works: Mapping[str, Callable[[], object]], device: torch.device, warm_up: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each timed call of several works, called in turn (A B A B ...).

    What slows the machine down for a while then slows them all down, and the i-th calls can be compared.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(warm_up + repeats):
        for name, work in works.items():
            start = now(device)
            work()
            seconds[name].append(now(device) - start)
    return {name: times[warm_up:] for name, times in seconds.items()}


def now(device: torch.device) -> float:
    """Seconds of a monotonic clock, once the device has done its work.

    A process with a single thread on a CPU is timed by the seconds that it has run, which are the same on an
    idle machine and which other processes disturb little.
    """
    import torch

    from bench.core.machine import synchronise

    passed = synchronise(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else passed


def with_spread(values: list[float]) -> str:
    """`"median (lowest-highest)"`, three digits each."""
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


def new_table(title: str, names: list[str], figures: list[str]) -> Table:
    """An empty table with left-aligned names and right-aligned numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in names:
        table.add_column(name, no_wrap=True)
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def print_table(table: Table) -> None:
    """Print a table without truncation."""
    Console(width=200, soft_wrap=True).print(table)
