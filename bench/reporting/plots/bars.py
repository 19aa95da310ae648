"""Bar plots of speedups and ablations."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure

from bench.core import grammar
from bench.metrics.names import Metric
from bench.reporting.comparison import Comparison, Entry
from bench.reporting.plots.style import (
    COLOURS,
    COLUMN,
    COST_LABELS,
    PAGE,
    REFERENCE,
    legend,
    looks,
    name_rows,
    on_lines,
    paper,
    row_height,
    x_label,
)
from bench.reporting.tables.studies import change


def speedup_bars(
    comparison: Comparison, measure: Metric, entries: Sequence[Entry], costs: Sequence[str]
) -> Figure:
    """Speedup of each entry to the final value of its reference, with bootstrap intervals."""
    several = len({entry.backbone for entry in entries}) > 1
    labels = [on_lines(entry.method, 28) + (f"\n{entry.backbone}" if several else "") for entry in entries]
    room = max(0.4, row_height(labels))
    height = 0.8 / len(costs)
    widest = 1.0
    with paper():
        figure, panel = plt.subplots(figsize=(COLUMN, 0.75 + room * len(entries)))
        panel.axvline(1, color=REFERENCE, lw=0.8, ls="--", zorder=0)
        for index, cost in enumerate(costs):
            panel.barh([0], [0], height, color=COLOURS[index], label=COST_LABELS[cost].partition(" (")[0])
            for place, entry in enumerate(entries):
                found = comparison.speedup(entry, cost, measure.key)
                y = place + (index - (len(costs) - 1) / 2) * height
                if found is None or not found.reached:
                    panel.text(0.03, y, str(found or "–"), va="center", fontsize=6, color=COLOURS[index])
                    continue
                panel.barh(y, found.ratio, height * 0.9, color=COLOURS[index])
                end = found.ratio
                if np.isfinite(found.low):
                    end = max(end, found.high)
                    panel.plot([found.low, found.high], [y, y], color="black", lw=0.9, solid_capstyle="butt")
                text = panel.annotate(
                    f"{found}×", (end, y), (3, 0), textcoords="offset points", va="center", fontsize=6
                )
                text.set_path_effects([patheffects.withStroke(linewidth=1.5, foreground="white")])
                widest = max(widest, end)
        panel.set_xlim(0, 1.22 * widest)
        name_rows(panel, labels)
        x_label(figure, f"speedup to the final {measure.label} of {comparison.reference}")
        legend(figure, [panel])
    return figure


def difference_dots(comparison: Comparison, measure: Metric, backbone: str) -> Figure:
    """Paired difference of each method from the reference on a backbone, with its t interval, best first.

    Filled: methods with a teacher; open: methods without.
    """
    found = [
        (difference.t, entry)
        for entry in comparison.entries
        if entry.backbone == backbone and (difference := comparison.difference(entry, measure.key))
    ]
    found.sort(key=lambda one: one[0].mean if measure.lower_is_better else -one[0].mean)
    fills = {True: ("with a teacher", COLOURS[0]), False: ("without", "white")}
    long = any(len(entry.method) > 28 for _, entry in found)
    names = [on_lines(entry.method, 60 if long else 28) for _, entry in found]
    with paper():
        figure, panel = plt.subplots(
            figsize=(PAGE if long else COLUMN, 0.75 + row_height(names) * len(found))
        )
        panel.axvline(0, color=REFERENCE, lw=0.8, ls="--", zorder=0)
        for place, (gap, entry) in enumerate(found):
            if np.isfinite(gap.low):
                panel.plot([gap.low, gap.high], [place, place], color=COLOURS[0], lw=0.9, zorder=1)
            label, fill = fills[bool(entry.teachers)]
            style = {"markerfacecolor": fill, "markeredgecolor": COLOURS[0], "ms": 4}
            panel.plot(gap.mean, place, "o", linestyle="", label=label, **style)
        name_rows(panel, names)
        arrow = "better to the left" if measure.lower_is_better else "better to the right"
        x_label(figure, f"{measure.label}, difference from {comparison.reference} ({arrow})")
        legend(figure, [panel])
    return figure


def ablation_bars(comparison: Comparison, measures: Sequence[Metric], variants: Sequence[Entry]) -> Figure:
    """Variants of a method: bars for means, dots for seeds, one panel per distance.

    Lines are the other methods without options, dashed for the reference, and dotted the variant without.
    """
    others = [
        entry
        for entry in comparison.entries
        if entry.group == variants[0].group and entry not in variants and len(entry.final)
        if entry.method == comparison.reference or not grammar.split(entry.method)[1]
    ]
    look = looks(comparison.methods, comparison.reference)
    places = np.arange(len(variants))
    changes = [on_lines(change(entry.method), 40) for entry in variants]
    with paper():
        size = (PAGE if len(measures) > 1 else COLUMN, 0.75 + max(0.22, row_height(changes)) * len(variants))
        figure, panels = plt.subplots(1, len(measures), figsize=size, squeeze=False, sharey=True)
        for panel, measure in zip(panels.flat, measures, strict=True):
            for place, entry in zip(places, variants, strict=True):
                plain = change(entry.method) == "default"
                panel.barh(
                    place, entry.at_end(measure.key).mean, 0.7, color=COLOURS[0], alpha=1 if plain else 0.6
                )
                seeds = entry.final[measure.key]
                panel.plot(seeds, [place] * len(seeds), "o", color="black", ms=2, alpha=0.7)
                if plain:
                    panel.axvline(entry.at_end(measure.key).mean, color=COLOURS[0], lw=0.8, ls=":")
            for entry in others:
                style = {"color": look[entry.method]["color"], "ls": look[entry.method]["linestyle"]}
                panel.axvline(entry.at_end(measure.key).mean, lw=0.8, label=entry.method, **style)
            panel.set_xlabel(f"{measure.label} {measure.arrow}")
            name_rows(panel, changes)
        if others:
            legend(figure, panels.flat)
    return figure
