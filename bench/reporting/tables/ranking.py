"""Ranking of methods, separately with and without a teacher."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from bench.reporting.comparison import Comparison, Entry
from bench.reporting.statistics import Estimate, estimate, paired
from bench.reporting.tables.cells import cost_cell, difference_cell, digits, interval_cell, mean_cell, plain
from bench.reporting.tables.summary import identity, names
from bench.reporting.tables.table import Cell, Column, Table
from bench.reporting.time_to_target import first_crossing


def ranking_table(comparison: Comparison) -> Table:
    """Rank by the headline metric, gap to the best, time to the reference's final value, and compute."""
    headline = comparison.headline
    decimals = digits(headline, comparison.entries)
    unit = "Epochs" if comparison.results.runs["records"].notna().all() else "Steps"
    columns = [
        *identity(comparison),
        Column("teacher", "Teacher", text=True),
        Column("rank", "Rank"),
        Column("rank of its kind", "of its kind"),
        Column(headline.key, f"{headline.short} {headline.arrow}", headline.net),
        Column("gap", "Gap to the best"),
        Column("gap interval", f"{comparison.confidence:.0%} interval"),
        Column(f"{unit.lower()} to target", f"{unit} to target"),
        Column("flops", "Training FLOPs"),
    ]
    rows, breaks = [], []
    for group in comparison.groups:
        overall = comparison.ranks(group, headline)
        ranked = sorted(overall, key=lambda entry: (not entry.teachers, overall[entry]))
        best = next((entry for entry in overall if overall[entry] == 1), None)
        for _, kind in groupby(ranked, key=lambda entry: bool(entry.teachers)):
            breaks.append(len(rows))
            own = list(kind)
            within = comparison.ranks(own, headline)
            for entry in own:
                gap = Estimate()
                if best is not None and entry is not best:
                    d = paired(entry.final[headline.key], best.final[headline.key])
                    gap = estimate(d, comparison.confidence)
                rows.append(
                    [
                        *names(comparison, entry),
                        _teachers(entry),
                        Cell(str(overall[entry]), overall[entry]),
                        Cell(str(within[entry]), within[entry]),
                        mean_cell(entry.at_end(headline.key), decimals),
                        difference_cell(gap, decimals),
                        interval_cell(gap.low, gap.high, decimals),
                        _time_to_target(comparison, entry, unit == "Epochs"),
                        cost_cell(entry.final["flops"], text="{:.2e}".format),
                    ]
                )
    notes = [
        f"By {headline.label}. A method shares the rank of the best one above it unless the "
        f"{comparison.confidence:.0%} t interval of their paired difference excludes zero; intervals are not "
        "corrected for the number of methods. With one seed all methods share a rank.",
        "Teacher: frozen encoders that training uses; methods with and without one are also ranked apart, in "
        "the column 'of its kind'.",
        f"Target: the final {headline.label} of {comparison.reference}. '>': not reached within the run.",
    ]
    return Table("ranking", "Ranking", columns, rows, notes, sorted(set(breaks) - {0, len(rows)}))


def _teachers(entry: Entry) -> Cell:
    if entry.teachers is None:
        return Cell("not recorded")
    text = ", ".join(entry.teachers) or "none"
    return Cell(text, text)


def _time_to_target(comparison: Comparison, entry: Entry, epochs: bool) -> Cell:
    """The cost at which the mean curve over seeds reaches the final value of the reference."""
    headline = comparison.headline
    reference = comparison.reference_of(entry) or (entry if entry.method == comparison.reference else None)
    steps, mean, _, _ = entry.grid.over_seeds("step", headline.key)
    if reference is None or not len(steps) or headline.lower_is_better is None:
        return Cell()
    target = np.asarray(reference.at_end(headline.key).mean)
    found = first_crossing(steps, mean, target, headline.lower_is_better)
    scale = float((entry.runs["batch_size"] / entry.runs["records"]).iloc[0]) if epochs else 1.0
    value = float(found.cost) * scale
    sign = {1: "> ", 0: "", -1: "≤ "}[int(found.side)]
    return Cell(sign + plain(value), value if found.side == 0 else f"{sign}{value:g}")
