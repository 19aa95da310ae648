"""Tables of speedups over the reference at several targets, and of quality at equal cost."""

from __future__ import annotations

from bench.reporting.comparison import Comparison
from bench.reporting.statistics import estimate
from bench.reporting.tables.cells import digits, mean_cell, speedup_cell
from bench.reporting.tables.summary import identity, names
from bench.reporting.tables.table import Cell, Column, Table
from bench.reporting.time_to_target import at_cost

COSTS = {"step": "steps", "seconds": "training time", "flops": "FLOPs", "device_hours": "device-hours"}
TARGETS = (0.5, 0.75, 1.0)  # shares of the reference's training


def speedup_table(comparison: Comparison) -> Table:
    """Time to the final value of the reference, for all distances and costs."""
    measures = [item for item in comparison.measures if item.is_distance]
    costs = [cost for cost in COSTS if _known(comparison, cost)]
    columns = [*identity(comparison), Column("metric", "Metric", text=True)]
    columns += [Column(f"in {COSTS[cost]}", f"in {COSTS[cost]}") for cost in costs]
    rows, starts = [], []
    for entry in comparison.entries:
        starts.append(len(rows))
        for item in measures if comparison.reference_of(entry) else ():
            cells = [speedup_cell(comparison.speedup(entry, cost, item.key), interval=True) for cost in costs]
            rows.append([*names(comparison, entry), Cell(item.label, item.key), *cells])
    notes = [
        f"Times as fast as {comparison.reference}; in brackets the {comparison.confidence:.0%} bootstrap "
        "interval over seeds, which with n seeds covers the truth at most 1 − 2/2ⁿ of the time (75% for 3). "
        "'>': as good already at its first evaluation. 'not reached': never as good within its run, so the "
        "speedup is below the number behind it. 'undecided': both are as good at their first evaluation.",
    ]
    title = f"Speedup over {comparison.reference}"
    return Table("speedup", title, columns, rows, notes, sorted(set(starts) - {0, len(rows)}))


def target_table(comparison: Comparison) -> Table:
    """Time to the values of the reference at 50%, 75% and 100% of its training."""
    headline, reference = comparison.headline, comparison.reference
    costs = [cost for cost in COSTS if _known(comparison, cost)]
    columns = [*identity(comparison), Column("target", "Target")]
    columns += [Column(f"in {COSTS[cost]}", f"in {COSTS[cost]}") for cost in costs]
    rows, starts = [], []
    for entry in comparison.entries:
        starts.append(len(rows))
        for share in TARGETS if comparison.reference_of(entry) else ():
            found = [comparison.speedup(entry, cost, headline.key, share) for cost in costs]
            cells = [speedup_cell(item, interval=True) for item in found]
            rows.append([*names(comparison, entry), Cell(f"{share:.0%}", share), *cells])
    notes = [
        f"Speedup to the {headline.label} that {reference} has at this share of its training, with "
        f"{comparison.confidence:.0%} bootstrap intervals; read as the table above. A method that improves "
        "early and is caught up with has its largest speedup at the first target.",
    ]
    title = f"Speedup over {reference} by target"
    return Table("speedup-by-target", title, columns, rows, notes, sorted(set(starts) - {0, len(rows)}))


def equal_cost_table(comparison: Comparison) -> Table:
    """All distances at the final cost of the cheapest method."""
    measures = [item for item in comparison.measures if item.is_distance]
    costs = [cost for cost in ("step", "seconds", "flops") if _known(comparison, cost)]
    columns = [*identity(comparison), Column("metric", "Metric", text=True)]
    columns += [Column(f"at equal {COSTS[cost]}", f"at equal {COSTS[cost]}") for cost in costs]
    decimals = {item: digits(item, comparison.entries) for item in measures}
    rows, starts = [], []
    for group in comparison.groups:
        finished = [entry for entry in group if len(entry.final)]
        budgets = {cost: min((entry.final[cost].mean() for entry in finished), default=0.0) for cost in costs}
        for entry in finished if len(finished) > 1 else ():
            starts.append(len(rows))
            for item in measures:
                found = [at_cost(entry.grid, cost, item.key, budgets[cost]) for cost in costs]
                cells = [mean_cell(estimate(values), decimals[item]) for values in found]
                rows.append([*names(comparison, entry), Cell(item.label, item.key), *cells])
    notes = [
        "Where training has cost what the cheapest method on the backbone costs in all; between evaluations "
        "by a power law. Mean ± standard deviation over seeds.",
    ]
    return Table("equal-cost", "Quality at equal cost", columns, rows, notes, sorted(set(starts) - {0}))


def _known(comparison: Comparison, cost: str) -> bool:
    return bool(comparison.results.evaluations[cost].notna().any())
