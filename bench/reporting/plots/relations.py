"""Plots of quality over size, cost, depth and noise level, and performance profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter, NullLocator

from bench.metrics.names import Metric
from bench.reporting.comparison import Comparison, Entry
from bench.reporting.plots.style import COLUMN, PAGE, distance_axis, legend, looks, on_lines, paper, x_label
from bench.reporting.statistics import performance_profile
from bench.reporting.tables.studies import gains


def scaling(comparison: Comparison, measure: Metric, backbones: Sequence[str]) -> Figure:
    """The final metric over the size of the backbone: a line per method, whiskers for the range of seeds."""
    look = looks(comparison.methods, comparison.reference)
    with paper():
        figure, panel = plt.subplots(figsize=(COLUMN, 2.3))
        shown, sizes = [], {}
        for method in comparison.methods:
            own = [
                entry
                for entry in comparison.entries
                if entry.method == method and entry.backbone in backbones and len(entry.final)
            ]
            if not own:
                continue
            means = np.array([entry.at_end(measure.key).mean for entry in own])
            ends = np.array(
                [[entry.final[measure.key].min(), entry.final[measure.key].max()] for entry in own]
            )
            whiskers = np.abs(ends - means[:, None]).T
            x = [entry.parameters for entry in own]
            panel.errorbar(x, means, whiskers, label=method, elinewidth=0.8, capsize=1.5, **look[method])
            shown += means.tolist()
            sizes |= {entry.parameters: entry.backbone for entry in own}
        panel.set_xscale("log")
        count = EngFormatter(sep="")
        labels = [f"{name}\n{count(float(f'{size:.3g}'))}" for size, name in sizes.items()]
        panel.set_xticks(list(sizes), labels)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.margins(x=0.15)
        panel.set_xlabel("backbone and its parameters")
        panel.set_ylabel(f"{measure.label} {measure.arrow}")
        if measure.is_distance:
            distance_axis(panel, shown)
        legend(figure, [panel], columns=4)
    return figure


def step_milliseconds(entry: Entry) -> float:
    return float(1000 * (entry.final["seconds"] / entry.final["step"]).mean())


def training_flops(entry: Entry) -> float:
    return float(pd.to_numeric(entry.final["flops"]).mean())


PARETO_COSTS = {"time of a training step (ms)": step_milliseconds, "training FLOPs": training_flops}


def pareto(comparison: Comparison, metric: Metric, named: Sequence[str]) -> Figure:
    """The final metric against the time of a step and against FLOPs; entries on the dotted line are not
    dominated. Methods that are neither `named` nor on such a line are grey."""
    entries = [entry for entry in comparison.entries if len(entry.final)]
    costs = {label: [cost(entry) for entry in entries] for label, cost in PARETO_COSTS.items()}
    known = {label: values for label, values in costs.items() if np.isfinite(values).all()}
    value = [entry.at_end(metric.key).mean for entry in entries]
    fronts = {
        label: pareto_front(cost, value, lower_is_better=bool(metric.lower_is_better))
        for label, cost in known.items()
    }
    on_front = [entries[i].method for front in fronts.values() for i in front]
    look = looks(list(dict.fromkeys((*named, *on_front))), comparison.reference)
    with paper():
        size = (PAGE if len(known) > 1 else COLUMN, 2.4)
        figure, panels = plt.subplots(1, len(known), figsize=size, squeeze=False, sharey=True)
        for panel, (label, cost) in zip(panels.flat, known.items(), strict=True):
            _pareto_panel(panel, comparison, entries, cost, metric, look)
            front = fronts[label]
            ends = [cost[i] for i in front], [value[i] for i in front]
            panel.plot(*ends, ":", color="black", lw=0.8, zorder=0)
            panel.set_xlabel(label)
        panels[0][0].set_ylabel(f"{metric.label} {metric.arrow}")
        legend(figure, panels.flat)
    return figure


OTHERS: Mapping[str, Any] = {"color": "#b0b0b0", "marker": "o"}


def _pareto_panel(
    panel: Axes,
    comparison: Comparison,
    entries: Sequence[Entry],
    cost: Sequence[float],
    metric: Metric,
    look: Mapping[str, Mapping[str, Any]],
) -> None:
    value = [entry.at_end(metric.key).mean for entry in entries]
    points = sorted(zip(entries, cost, value, strict=True), key=lambda point: point[0].method not in look)
    for entry, x, y in points:
        known = entry.method in look
        style = look[entry.method] if known else OTHERS
        mark = {"color": style["color"], "marker": style["marker"], "ms": 5 if known else 3.5}
        panel.plot(x, y, linestyle="", label=entry.method if known else "others", zorder=2 + known, **mark)
    for group in comparison.groups if len(comparison.backbones) > 1 else ():
        places = [(cost[i], value[i]) for i, entry in enumerate(entries) if entry in group]
        if places:
            place = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 6.5}
            panel.annotate(group[0].backbone, max(places, key=lambda one: one[1]), (-5, 0), **place)
    if max(cost) > 5 * min(cost) > 0:
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    if metric.is_distance:
        distance_axis(panel, value)
    panel.margins(x=0.25, y=0.15)


def pareto_front(cost: Sequence[float], value: Sequence[float], *, lower_is_better: bool) -> list[int]:
    """Indices of the Pareto front, by increasing cost."""
    front: list[int] = []
    for index in sorted(
        range(len(cost)), key=lambda i: (cost[i], value[i] if lower_is_better else -value[i])
    ):
        best = value[front[-1]] if front else np.nan
        if not front or (value[index] < best if lower_is_better else value[index] > best):
            front.append(index)
    return front


def profiles(comparison: Comparison, measure: Metric) -> Figure:
    """Fraction of runs, over all backbones and seeds, whose gain over the reference exceeds the x axis."""
    look = looks(comparison.methods, comparison.reference)
    scores = {method: gains(comparison, method, measure) for method in comparison.methods}
    pooled = {method: 100 * np.concatenate(found) for method, found in scores.items() if len(found) > 1}
    ends = np.concatenate(list(pooled.values()))
    thresholds = np.linspace(min(ends.min(), 0) - 2, ends.max() + 2, 400)
    with paper():
        figure, panel = plt.subplots(figsize=(COLUMN, 2.1))
        for method, own in pooled.items():
            line = {"color": look[method]["color"], "linestyle": look[method]["linestyle"]}
            panel.plot(thresholds, performance_profile(own, thresholds), label=method, **line)
        panel.axvline(0, color="black", lw=0.6)
        x_label(figure, f"gain on {comparison.reference} in {measure.label} (%)")
        panel.set_ylabel("share of runs with more")
        panel.set_ylim(0, 1.03)
        legend(figure, [panel], columns=4)
    return figure


def alignment_maps(maps: Mapping[str, pd.DataFrame], label: str) -> Figure:
    """Alignment with an encoder by depth (rows) and time (columns): a heat map per method, common scale.

    `maps` has a table a method: rows are depths (1-based), columns are t in [0, 1] (0 is data).
    """
    low = min(float(table.to_numpy().min()) for table in maps.values())
    high = max(float(table.to_numpy().max()) for table in maps.values())
    columns = min(4, len(maps))
    rows = -(-len(maps) // columns)
    with paper():
        size = (PAGE if columns > 2 else COLUMN, 0.3 + 1.7 * rows)
        figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
        image = None
        for panel, (method, table) in zip(panels.flat, maps.items(), strict=False):
            image = panel.imshow(
                table.to_numpy(), cmap="viridis", vmin=low, vmax=high, aspect="auto", origin="lower"
            )
            panel.set_title(on_lines(method, 24))
            panel.set_xticks(range(len(table.columns)), [f"{t:g}" for t in table.columns])
            every = max(1, len(table.index) // 8)
            panel.set_yticks(range(0, len(table.index), every), table.index[::every].astype(str))
            panel.grid(visible=False)
        for panel in panels.flat[len(maps) :]:
            panel.set_visible(False)
        assert image is not None
        figure.colorbar(image, ax=panels, label=label, shrink=0.9)
        figure.supxlabel("t (0: data, 1: noise)", fontsize=8)
        figure.supylabel("after block", fontsize=8)
    return figure
