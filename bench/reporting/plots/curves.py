"""Curves of metrics over training and over guidance scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bench.metrics.names import Metric
from bench.reporting.comparison import Comparison, Entry
from bench.reporting.plots.style import (
    PAGE,
    REFERENCE,
    cost_axis,
    distance_axis,
    legend,
    looks,
    paper,
    x_label,
)
from bench.reporting.tables.speedup import COSTS
from bench.reporting.time_to_target import Speedup


def convergence(
    comparison: Comparison, measure: Metric, backbones: Sequence[str], costs: Sequence[str]
) -> Figure:
    """A metric over each cost: a row per backbone, a line per method, a band for the range of seeds.

    The dotted line is the reference's final value; the arrow shows how much sooner the fastest method has it.
    """
    look = looks(comparison.methods, comparison.reference)
    with paper():
        size = (PAGE, 0.4 + 1.65 * len(backbones))
        figure, panels = plt.subplots(len(backbones), len(costs), figsize=size, squeeze=False, sharey="row")
        for backbone, row in zip(backbones, panels, strict=True):
            entries = [entry for entry in comparison.entries if entry.backbone == backbone]
            for cost, panel in zip(costs, row, strict=True):
                for entry in entries:
                    curve(panel, entry, cost, measure.key, look[entry.method])
                _target(panel, comparison, entries, cost, measure, look)
                cost_axis(panel, cost)
                if backbone != backbones[-1]:
                    panel.set_xlabel("")
            if measure.is_distance:
                distance_axis(row[0], pd.concat([entry.curves[measure.key] for entry in entries]))
            row[0].set_ylabel(f"{measure.label} {measure.arrow}")
            row[0].set_title(backbone, loc="left", fontweight="bold")
        legend(figure, panels.flat)
    return figure


def curve(panel: Axes, entry: Entry, cost: str, metric: str, look: Mapping[str, Any]) -> None:
    """The mean over seeds of a metric over a cost, and a band for the range of seeds."""
    x, mean, low, high = entry.grid.over_seeds(cost, metric)
    every = max(1, len(x) // 10)
    panel.plot(x, mean, label=entry.method, markevery=((len(x) - 1) % every, every), **look)
    panel.fill_between(x, low, high, color=look["color"], alpha=0.18, lw=0)


def _target(
    panel: Axes,
    comparison: Comparison,
    entries: Sequence[Entry],
    cost: str,
    measure: Metric,
    look: Mapping[str, Mapping[str, Any]],
) -> None:
    """The final value of the reference, and an arrow to where the fastest method reaches it."""
    reference = next((entry for entry in entries if entry.method == comparison.reference), None)
    if reference is None or reference.final.empty:
        return
    value, end = reference.at_end(measure.key).mean, reference.final[cost].mean()
    panel.axhline(value, color=REFERENCE, lw=0.7, ls=":")
    found = {
        entry: comparison.speedup(entry, cost, measure.key) for entry in entries if entry is not reference
    }
    reached = {entry: item for entry, item in found.items() if item and item.reached and item.side == 0}
    if not reached:
        return
    fastest = max(reached, key=lambda entry: reached[entry].ratio)
    ratio, colour = reached[fastest].ratio, look[fastest.method]["color"]
    if ratio < 1.15:  # no room for an arrow, nor need
        return
    arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    panel.annotate("", xy=(end / ratio, value), xytext=(end, value), arrowprops=arrow, zorder=5)
    # Below the target and before its crossing no curve has been yet.
    place = {"xycoords": ("axes fraction", "data"), "xytext": (0, -3), "textcoords": "offset points"}
    said = f"{ratio:.1f}× sooner"  # whose colour it has
    text = panel.annotate(said, (0.02, value), fontsize=6.5, va="top", color=colour, **place)
    text.set_path_effects([patheffects.withStroke(linewidth=1.5, foreground="white")])


SHARES = np.linspace(0.2, 1, 9)  # of the reference's training, at whose values the targets lie


def speedup_by_target(
    comparison: Comparison, metric: Metric, backbones: Sequence[str], costs: Sequence[str]
) -> Figure:
    """Speedup over the reference by target: a row per backbone, a panel per cost, a line per method.

    The x axis is the share of its training at which the reference is as good as the target. Bands are
    bootstrap intervals; carets are lower bounds, where a method is better at its first evaluation already.
    """
    look = looks(comparison.methods, comparison.reference)
    with paper():
        size = (PAGE, 0.4 + 1.65 * len(backbones))
        figure, panels = plt.subplots(len(backbones), len(costs), figsize=size, squeeze=False, sharey="row")
        for backbone, row in zip(backbones, panels, strict=True):
            for cost, panel in zip(costs, row, strict=True):
                panel.axhline(1, color=REFERENCE, lw=0.8, ls="--", zorder=0)
                for entry in comparison.entries:
                    if entry.backbone == backbone and comparison.reference_of(entry):
                        found = speedups_by_target(comparison, entry, cost, metric)
                        _speedup_curve(panel, found, look[entry.method], entry.method)
                panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            row[0].set_ylabel(f"{backbone}\nspeedup (×)")
        for cost, panel in zip(costs, panels[0], strict=True):
            panel.set_title(f"in {COSTS[cost]}")
        x_label(figure, f"target: what {comparison.reference} has after this share of its training")
        legend(figure, panels.flat)
    return figure


def speedups_by_target(
    comparison: Comparison, entry: Entry, cost: str, metric: Metric
) -> list[tuple[float, Speedup]]:
    """Fraction of the reference's training -> speedup to its value there, if the method reaches it."""
    found = ((share, comparison.speedup(entry, cost, metric.key, share)) for share in SHARES.tolist())
    return [(share, speedup) for share, speedup in found if speedup is not None and speedup.reached]


def _speedup_curve(
    panel: Axes, found: Sequence[tuple[float, Speedup]], look: Mapping[str, Any], label: str
) -> None:
    exact = [(share, one) for share, one in found if one.side == 0]
    panel.plot([share for share, _ in exact], [one.ratio for _, one in exact], label=label, **look)
    panel.fill_between(
        [share for share, _ in exact],
        [one.low for _, one in exact],
        [one.high for _, one in exact],
        color=look["color"],
        alpha=0.18,
        lw=0,
    )
    bounds = [(share, one.ratio) for share, one in found if one.side > 0]
    panel.plot(*zip(*bounds, strict=True) if bounds else ([], []), "^", color=look["color"], ms=3, mfc="none")


def all_metrics(comparison: Comparison, backbone: str) -> Figure:
    """All metrics over training steps on one backbone, one small panel each."""
    entries = [entry for entry in comparison.entries if entry.backbone == backbone]
    look = looks(comparison.methods, comparison.reference)
    columns = min(4, len(comparison.measures))
    rows = -(-len(comparison.measures) // columns)
    with paper():
        figure, panels = plt.subplots(rows, columns, figsize=(PAGE, 0.4 + 1.35 * rows), squeeze=False)
        for panel, measure in zip(panels.flat, comparison.measures, strict=False):
            for entry in entries:
                curve(panel, entry, "step", measure.key, look[entry.method] | {"markersize": 2.2, "lw": 1})
            if measure.is_distance:
                distance_axis(panel, pd.concat([entry.curves[measure.key] for entry in entries]))
            panel.set_title(f"{measure.label} {measure.arrow}")
            cost_axis(panel, "step")
            panel.set_xlabel("")
        for panel in panels.flat[len(comparison.measures) :]:
            panel.set_visible(False)
        legend(figure, panels.flat)
        figure.supxlabel("training step", fontsize=8)
    return figure


def guidance_sweep(comparison: Comparison, measures: Sequence[Metric], backbone: str) -> Figure:
    """Metrics of the last checkpoint over the guidance scale: a panel per metric, a line per method."""
    look = looks(comparison.methods, comparison.reference)
    last = last_by_guidance(comparison, backbone)
    low, high = last["guidance_interval"].iloc[0].split(":")
    where = "" if (low, high) == ("0", "1") else f", t in [{low}, {high}]"
    with paper():
        figure, panels = plt.subplots(1, len(measures), figsize=(PAGE, 1.9), squeeze=False)
        for panel, measure in zip(panels.flat, measures, strict=True):
            for method in comparison.methods:
                rows = last[last["method"] == method].groupby("guidance_scale")[measure.key]
                panel.plot(rows.mean().index, rows.mean(), label=method, **look[method])
                colour = look[method]["color"]
                panel.fill_between(rows.mean().index, rows.min(), rows.max(), color=colour, alpha=0.18, lw=0)
            panel.set_xlabel(f"guidance scale{where}")
            panel.set_title(f"{measure.label} {measure.arrow}")
        legend(figure, panels.flat)
    return figure


def last_by_guidance(comparison: Comparison, backbone: str) -> pd.DataFrame:
    """The last evaluation of every finished run on a backbone at every guidance scale.

    All of one interval and sample count, those that most scales were tried with: a line joins no others.
    """
    runs, rows = comparison.results.runs, comparison.results.evaluations
    finished = runs[(runs["state"] == "finished") & (runs["backbone"] == backbone)]
    rows = rows[rows["run"].isin(finished["run"]) & rows["guidance_scale"].notna()]
    settings = ["guidance_interval", "samples"]
    rows = rows.sort_values("step").groupby(["run", "guidance_scale", *settings], sort=False).tail(1)
    if rows.empty:
        return rows
    scales = rows.groupby(settings)["guidance_scale"].nunique()
    most = scales.index[int(scales.argmax())]
    return rows[(rows[settings] == list(most)).all(axis=1)]
