"""Formatting of numbers in tables: digits, signs, intervals, units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from bench.metrics.names import Metric
from bench.reporting.comparison import Entry, Mark
from bench.reporting.statistics import Estimate
from bench.reporting.tables.table import Cell
from bench.reporting.time_to_target import Speedup


def digits(measure: Metric, entries: Iterable[Entry]) -> int:
    """Decimals of a measure in a column: its default, or more, so that the smallest mean has three digits."""
    means = [abs(entry.at_end(measure.key).mean) for entry in entries]
    smallest = min((mean for mean in means if mean > 0), default=1.0)
    return min(max(measure.decimals, 2 - math.floor(math.log10(smallest))), 6)


def number(value: float, decimals: int, *, sign: bool = False) -> str:
    """`0.12`, or `+0.12`; with a true minus sign."""
    return f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−")


def mean_cell(found: Estimate, decimals: int, mark: Mark = "") -> Cell:
    """`mean ± standard deviation`; the mean alone for one seed, a dash for none."""
    if found.n == 0:
        return Cell()
    spread = "" if math.isnan(found.sd) else f" ± {number(found.sd, decimals)}"
    return Cell(number(found.mean, decimals) + spread, found.mean, found.sd, mark)


def difference_cell(found: Estimate | None, decimals: int) -> Cell:
    """A signed mean."""
    if found is None or found.n == 0:
        return Cell()
    return Cell(number(found.mean, decimals, sign=True), found.mean, found.sd)


def interval_cell(low: float, high: float, decimals: int) -> Cell:
    """`[−0.10, +0.02]`."""
    if math.isnan(low):
        return Cell()
    text = f"[{number(low, decimals, sign=True)}, {number(high, decimals, sign=True)}]"
    return Cell(text, text.replace("−", "-"))


def speedup_cell(found: Speedup | None, *, interval: bool = False) -> Cell:
    """As `Speedup` is printed; with its interval, or the bound where it is not reached."""
    if found is None:
        return Cell()
    text = str(found)
    if interval and not found.reached and math.isfinite(found.ratio):
        text += f" (< {found.ratio:.2f})"
    elif interval and math.isfinite(found.low):
        low, high = "< " * (found.low_side < 0), "> " * (found.high_side > 0)
        text += f" [{low}{found.low:.2f}, {high}{found.high:.2f}]"
    return Cell(text, found.ratio if found.side == 0 else text)


def parameters_cell(value: float) -> Cell:
    """`675M`, `33.0M`, `520K`."""
    if math.isnan(value):
        return Cell()
    millions = value / 1e6
    text = (
        f"{millions:.0f}M"
        if millions >= 100
        else f"{millions:.1f}M"
        if millions >= 1
        else f"{value / 1e3:.0f}K"
    )
    return Cell(text, int(value))


def cost_cell(
    values: Iterable[float], scale: float = 1.0, text: Callable[[float], str] | None = None
) -> Cell:
    """A mean to three significant digits; the CSV keeps it in the rows' own unit, before `scale`."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return Cell()
    mean = sum(known) / len(known)
    return Cell((text or plain)(mean * scale), mean)


def plain(value: float) -> str:
    """Three significant digits without an exponent: `0.00417`, `41.7`, `4170`."""
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{decimals}f}"
