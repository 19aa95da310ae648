"""The tables of every comparison: main, metrics, paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.metrics.names import Metric
from bench.reporting.comparison import Comparison, Entry
from bench.reporting.tables.caption import protocol_text
from bench.reporting.tables.cells import (
    cost_cell,
    difference_cell,
    digits,
    interval_cell,
    mean_cell,
    number,
    parameters_cell,
    speedup_cell,
)
from bench.reporting.tables.table import Cell, Column, Table


def main_table(comparison: Comparison) -> Table:
    """Method x backbone: size, quality in the headline's feature space, gain on the reference, cost."""
    headline, reference = comparison.headline, comparison.reference
    measures = [item for item in comparison.measures if item.net == headline.net]
    decimals = digits(headline, comparison.entries)
    hours = "GPU-hours" if (comparison.results.runs["device"] == "cuda").any() else "CPU-hours"
    columns = [
        *identity(comparison),
        Column("parameters", "Params"),
        Column("steps", "Steps"),
        *measure_columns(measures),
        Column(f"{headline.key} difference", f"Δ{headline.short}"),
        Column("speedup in steps", "steps", "Speedup (×)"),
        Column("speedup in seconds", "time", "Speedup (×)"),
        Column("step seconds", "ms/step", "Cost"),
        Column("device hours", hours, "Cost"),
    ]
    rows = []
    for entry, metrics in metric_cells(comparison, measures):
        steps = int(entry.runs["steps"].max())
        found = comparison.difference(entry, headline.key)
        rows.append(
            [
                *names(comparison, entry),
                parameters_cell(entry.parameters),
                Cell(str(steps), steps),
                *metrics,
                difference_cell(found and found.t, decimals),
                speedup_cell(comparison.speedup(entry, "step", headline.key)),
                speedup_cell(comparison.speedup(entry, "seconds", headline.key)),
                cost_cell(entry.final["seconds"] / entry.final["step"], scale=1000),
                cost_cell(entry.final["device_hours"]),
            ]
        )
    notes = [
        *reading(comparison),
        f"Δ: mean paired difference from {reference} on the same backbone and seeds. Speedup: cost at which "
        f"{reference} has its own final {headline.label}, over the cost at which the method has it. Training "
        "alone is timed, evaluation is not.",
        *protocol_notes(comparison),
    ]
    return Table("main", "Quality and cost", columns, rows, notes, breaks(comparison))


def metrics_table(comparison: Comparison) -> Table:
    """Every metric in every feature space."""
    columns = [*identity(comparison), *measure_columns(comparison.measures)]
    rows = [
        [*names(comparison, entry), *metrics]
        for entry, metrics in metric_cells(comparison, comparison.measures)
    ]
    notes = [*reading(comparison), *protocol_notes(comparison)]
    return Table("metrics", "All metrics", columns, rows, notes, breaks(comparison))


def difference_table(comparison: Comparison) -> Table:
    """Paired differences from the reference, with intervals and a sign-flip test."""
    level = f"{comparison.confidence:.0%}"
    columns = [
        *identity(comparison),
        Column("metric", "Metric", text=True),
        Column("seeds", "Seeds"),
        Column("difference", "Difference"),
        Column("t interval", f"{level} t interval"),
        Column("bootstrap interval", f"{level} bootstrap"),
        Column("p", "Sign-flip p"),
        Column("detectable", "Detectable"),
    ]
    places = {item: digits(item, comparison.entries) for item in comparison.measures}
    rows, starts = [], []
    for entry in comparison.entries:
        starts.append(len(rows))
        for item in comparison.measures:
            found = comparison.difference(entry, item.key)
            if found is None or found.t.n == 0:
                continue
            decimals = places[item]
            rows.append(
                [
                    *names(comparison, entry),
                    Cell(f"{item.label} {item.arrow}", item.key),
                    Cell(str(found.t.n), found.t.n),
                    difference_cell(found.t, decimals),
                    interval_cell(found.t.low, found.t.high, decimals),
                    interval_cell(*found.bootstrap, decimals),
                    Cell() if math.isnan(found.p) else Cell(f"{found.p:.3f}", found.p),
                    Cell()
                    if math.isnan(found.detectable)
                    else Cell(f"±{number(found.detectable, decimals)}", found.detectable),
                ]
            )
    notes = [
        f"Method minus {comparison.reference}, within seeds. With n seeds no sign-flip p is below 2/2ⁿ (0.5 "
        "for 2, 0.25 for 3, 0.0625 for 5), and no bootstrap interval covers the truth more often than "
        "1 − 2/2ⁿ: with few seeds the t interval is the one to trust.",
        "Detectable: the smallest true difference that 80% of studies with these seeds and this spread would "
        f"tell from zero (paired t, {level}). If it is larger than what matters, no difference found means "
        "too few seeds, not a tie.",
    ]
    title = f"Paired differences from {comparison.reference}"
    return Table("differences", title, columns, rows, notes, sorted(set(starts) - {0, len(rows)}))


def identity(comparison: Comparison) -> list[Column]:
    """The columns that identify a row."""
    protocol = [Column("protocol", "Protocol", text=True)] if len(comparison.protocols) > 1 else []
    return [Column("backbone", "Backbone", text=True), Column("method", "Method", text=True), *protocol]


def names(comparison: Comparison, entry: Entry) -> list[Cell]:
    """The cells that identify a row; several protocols are denoted by letters."""
    cells = [Cell(entry.backbone, entry.backbone), Cell(entry.method, entry.method)]
    if len(comparison.protocols) > 1:
        cells.append(Cell(_letter(comparison, entry.protocol), entry.protocol))
    return cells


def protocol_notes(comparison: Comparison) -> list[str]:
    """The footnotes of a table that mixes protocols: only rows of one letter may be compared."""
    if len(comparison.protocols) == 1:
        return []
    texts = [
        f"{_letter(comparison, name)}: {protocol_text(name, comparison.results.protocols[name])}."
        for name in comparison.protocols
    ]
    return ["This table mixes protocols: only rows with the same letter may be compared.", *texts]


def _letter(comparison: Comparison, protocol: str) -> str:
    return chr(ord("a") + comparison.protocols.index(protocol))


def measure_columns(measures: Sequence[Metric]) -> list[Column]:
    return [Column(item.key, f"{item.short} {item.arrow}".strip(), item.net) for item in measures]


def metric_cells(comparison: Comparison, measures: Sequence[Metric]) -> list[tuple[Entry, list[Cell]]]:
    """Every entry with its cells of these measures, marked within its group."""
    rows: dict[Entry, list[Cell]] = {entry: [] for entry in comparison.entries}
    for item in measures:
        decimals = digits(item, comparison.entries)
        for group in comparison.groups:
            marks = comparison.marks(group, item)
            for entry in group:
                rows[entry].append(mean_cell(entry.at_end(item.key), decimals, marks.get(entry, "")))
    return list(rows.items())


def reading(comparison: Comparison) -> list[str]:
    """Footnotes on means, marks, and biased metrics."""
    several = comparison.results.finished.groupby(["method", "backbone"])["seed"].nunique().max() > 1
    spread = "Mean ± standard deviation over seeds. " if several else "One seed. "
    return [
        f"{spread}Bold: best mean on a backbone. Underlined: second best, only where its paired "
        f"{comparison.confidence:.0%} t intervals against the best and the third exclude zero.",
        *(
            f"Leaky: {method} was taught or rewarded by {', '.join(sorted(nets))}: its numbers there say "
            "little."
            for method, nets in comparison.results.leaky.items()
            if nets
        ),
    ]


def breaks(comparison: Comparison) -> list[int]:
    """Indices of rows at which a group begins."""
    ends = [0]
    for group in comparison.groups:
        ends.append(ends[-1] + len(group))
    return ends[1:-1]
