"""Data of the interactive plots of `report.html`, read by `html/page.js`.

A chart is {title, text, kind, x, y, series}. Its `kind` is "line", "bar" (x counts the labels of its axis) or
"scatter"; an axis is {label, labels?, logarithmic?}; a series is {method, backbone, points}; a point is
{x, y, low?, high?, note?}, the interval and the note to be shown on hovering.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bench.metrics.names import Metric
from bench.reporting.comparison import Comparison, Entry
from bench.reporting.plots.curves import last_by_guidance, speedups_by_target
from bench.reporting.plots.relations import PARETO_COSTS
from bench.reporting.plots.style import COST_LABELS, looks
from bench.reporting.results import training_logs
from bench.reporting.statistics import performance_profile
from bench.reporting.tables import studies

POINTS = 50  # of a curve, at most


def page_data(comparison: Comparison) -> dict[str, Any]:
    """Data for the script of the page: names, colours, curves and charts."""
    look = looks(comparison.methods, comparison.reference)
    costs = [cost for cost in COST_LABELS if comparison.results.evaluations[cost].notna().any()]
    return {
        "methods": [
            {"name": name, "colour": look[name]["color"], "dashed": look[name]["linestyle"] != "-"}
            for name in comparison.methods
        ],
        "backbones": comparison.backbones,
        "measures": [
            {"key": item.key, "label": f"{item.label} {item.arrow}", "logarithmic": item.is_distance}
            for item in comparison.measures
        ],
        "costs": [{"key": cost, "label": COST_LABELS[cost]} for cost in costs],
        "curves": [_curve(entry, comparison.measures, costs) for entry in comparison.entries],
        "charts": [chart for chart in _charts(comparison) if chart["series"]],
    }


def _curve(entry: Entry, measures: Sequence[Metric], costs: Sequence[str]) -> dict[str, Any]:
    """Points [n] of every metric against every cost: cost, and mean, low and high over the seeds."""
    return {
        "method": entry.method,
        "backbone": entry.backbone,
        "points": {
            item.key: {cost: _thinned(entry.grid.over_seeds(cost, item.key)) for cost in costs}
            for item in measures
        },
    }


def _thinned(points: np.ndarray) -> list[list[float | None]]:
    """At most `POINTS` of [4, n], with the last of them."""
    n = points.shape[1]
    every = max(1, math.ceil(n / POINTS))
    return [_numbers(row) for row in points[:, (n - 1) % every :: every]] if n else [[], [], [], []]


def _charts(comparison: Comparison) -> Iterator[dict[str, Any]]:
    headline, reference = comparison.headline, comparison.reference
    quality = {"label": f"{headline.label} {headline.arrow}"}
    finished = [entry for entry in comparison.entries if len(entry.final)]
    yield {
        "title": f"Speedup over {reference}",
        "text": f"To the final {headline.label} of {reference}. Whiskers: bootstrap intervals over seeds.",
        "kind": "bar",
        "x": {"label": "", "labels": ["in steps", "in training time"]},
        "y": {"label": "speedup (×)"},
        "series": [
            _series(entry, _speedups(comparison, entry))
            for entry in finished
            if comparison.reference_of(entry)
        ],
    }
    yield {
        "title": f"Speedup over {reference} by target",
        "text": f"Sooner than {reference} to what it has after a share of its training, in steps.",
        "kind": "line",
        "x": {"label": f"share of {reference}'s training (%)"},
        "y": {"label": "speedup (×)"},
        "series": [
            _series(entry, _by_target(comparison, entry))
            for entry in finished
            if comparison.reference_of(entry)
        ],
    }
    for label, cost in PARETO_COSTS.items():
        costs = {entry: cost(entry) for entry in finished}
        yield {
            "title": f"Quality against {label.partition(' (')[0]}",
            "text": "Final values.",
            "kind": "scatter",
            "x": {"label": label},
            "y": quality,
            "series": [
                _series(entry, [_final(entry, headline, x)]) for entry, x in costs.items() if math.isfinite(x)
            ],
        }
    for family, sizes in studies.families(comparison).items():
        lines: dict[str, list[dict[str, Any]]] = {}
        for entry in finished:
            if entry.backbone in sizes:
                lines.setdefault(entry.method, []).append(_final(entry, headline, entry.parameters / 1e6))
        yield {
            "title": f"Scaling of {family}",
            "text": "Final values by the backbone's size.",
            "kind": "line",
            "x": {"label": "parameters (million)", "logarithmic": True},
            "y": quality,
            "series": [{"method": name, "backbone": "", "points": points} for name, points in lines.items()],
        }
    for name, variants in studies.ablations(comparison).items():
        labels = [studies.change(entry.method) for entry in variants]
        yield {
            "title": f"Ablation of {name}",
            "text": f"Final values on {variants[0].backbone}.",
            "kind": "bar",
            "x": {"label": "", "labels": labels},
            "y": quality,
            "series": [
                _series(entry, [_final(entry, headline, position)]) for position, entry in enumerate(variants)
            ],
        }
    yield _profiles(comparison, headline)
    yield _guidance(comparison, headline)
    yield from _traces(comparison)


def _traces(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """One chart per logged quantity, over all backbones."""
    seed = int(comparison.results.runs["seed"].min())
    charts: dict[str, dict[str, Any]] = {}
    for backbone in comparison.backbones:
        logs = training_logs(comparison.results, backbone, seed).query("t == ''")
        for (name, method), rows in logs.groupby(["name", "method"], sort=False):
            chart = charts.setdefault(
                str(name),
                {
                    "title": str(name),
                    "text": f"Logged by the method, seed {seed}.",
                    "kind": "line",
                    "x": {"label": COST_LABELS["step"]},
                    "y": {"label": ""},
                    "series": [],
                },
            )
            points = _trace(rows["step"], rows["value"])
            chart["series"].append({"method": method, "backbone": backbone, "points": points})
    yield from charts.values()


def _profiles(comparison: Comparison, headline: Metric) -> dict[str, Any]:
    scores = {method: studies.gains(comparison, method, headline) for method in comparison.methods}
    pooled = {method: 100 * np.concatenate(found) for method, found in scores.items() if len(found) > 1}
    ends = np.concatenate([[0.0], *pooled.values()])
    thresholds = np.linspace(ends.min() - 2, ends.max() + 2, 2 * POINTS)
    return {
        "title": "Performance profiles",
        "text": f"Share of runs, over all backbones, whose gain on {comparison.reference} is larger.",
        "kind": "line",
        "x": {"label": f"gain in {headline.label} (%)"},
        "y": {"label": "share of runs"},
        "series": [
            {
                "method": name,
                "backbone": "",
                "points": _trace(thresholds, performance_profile(own, thresholds)),
            }
            for name, own in pooled.items()
        ],
    }


def _guidance(comparison: Comparison, headline: Metric) -> dict[str, Any]:
    """No series where no run was evaluated at several guidance scales."""
    series = []
    for backbone in comparison.backbones:
        rows = last_by_guidance(comparison, backbone)
        for method, own in rows.groupby("method", sort=False):
            mean = own.groupby("guidance_scale")[headline.key].mean()
            if len(mean) > 2:
                series.append({"method": method, "backbone": backbone, "points": _trace(mean.index, mean)})
    return {
        "title": "Guidance sweep",
        "text": "The last checkpoint at every guidance scale.",
        "kind": "line",
        "x": {"label": "guidance scale"},
        "y": {"label": f"{headline.label} {headline.arrow}"},
        "series": series,
    }


def _series(entry: Entry, points: list[dict[str, Any]]) -> dict[str, Any]:
    return {"method": entry.method, "backbone": entry.backbone, "points": points}


def _speedups(comparison: Comparison, entry: Entry) -> list[dict[str, Any]]:
    points = []
    for position, cost in enumerate(("step", "seconds")):
        found = comparison.speedup(entry, cost, comparison.headline.key)
        if found is None:
            continue
        height = found.ratio if found.reached else None
        low, high = (found.low, found.high) if found.reached else (math.nan, math.nan)
        points.append({"x": position, "y": _number(height), "note": str(found), **_interval(low, high)})
    return points


def _by_target(comparison: Comparison, entry: Entry) -> list[dict[str, Any]]:
    found = speedups_by_target(comparison, entry, "step", comparison.headline)
    return [
        {"x": _number(100 * share), "y": _number(one.ratio), **_interval(one.low, one.high)}
        for share, one in found
        if one.side == 0
    ]


def _final(entry: Entry, measure: Metric, x: float) -> dict[str, Any]:
    """The mean at the end, with the range of the seeds."""
    values = entry.final[measure.key]
    return {"x": _number(x), "y": _number(values.mean()), **_interval(values.min(), values.max())}


def _trace(x: Iterable[float], y: Iterable[float]) -> list[dict[str, Any]]:
    points = [{"x": _number(a), "y": _number(b)} for a, b in zip(x, y, strict=True)]
    return points[:: max(1, len(points) // (2 * POINTS))]


def _interval(low: float, high: float) -> dict[str, Any]:
    return {} if math.isnan(low) or low == high else {"low": _number(low), "high": _number(high)}


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float | None) -> float | None:
    """Five significant digits; None (null in JSON) for what is not finite."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None
