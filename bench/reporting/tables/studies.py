"""Tables of studies: ablations of one method, scaling over backbones, gains over many settings."""

from __future__ import annotations

import math

import numpy as np

from backbones import family
from bench.core import grammar
from bench.metrics.names import Metric
from bench.reporting.comparison import Comparison, Entry
from bench.reporting.statistics import interquartile_interval, interquartile_mean
from bench.reporting.tables.cells import (
    cost_cell,
    difference_cell,
    digits,
    mean_cell,
    number,
    parameters_cell,
)
from bench.reporting.tables.summary import measure_columns, reading
from bench.reporting.tables.table import Cell, Column, Table


def ablations(comparison: Comparison) -> dict[str, list[Entry]]:
    """Base method -> its variants on one backbone, for methods with at least three."""
    found: dict[str, list[Entry]] = {}
    for group in comparison.groups:
        bases: dict[str, list[Entry]] = {}
        for entry in group:
            bases.setdefault(grammar.split(entry.method)[0], []).append(entry)
        for base, variants in bases.items():
            if len(variants) >= 3:
                name = base if base not in found else f"{base} on {group[0].backbone}"
                found[name] = variants
    return found


def change(method: str) -> str:
    """`repa[weight=1.0]` -> `weight=1.0`; a method without options -> `default`."""
    return ", ".join(f"{key}={value}" for key, value in grammar.split(method)[1].items()) or "default"


def ablation_table(comparison: Comparison, name: str, variants: list[Entry]) -> Table:
    """A row per variant: metrics, difference from the reference, time per step."""
    measures = [
        item for item in comparison.measures if item.net == comparison.headline.net or item.is_distance
    ]
    keys = {key for entry in variants for key in grammar.split(entry.method)[1]}
    axis = keys.pop() if len(keys) == 1 else ""
    columns = [
        Column("change", axis or "Change", text=True),
        *measure_columns(measures),
        Column(f"{comparison.headline.key} difference", f"Δ{comparison.headline.short}"),
        Column("step seconds", "ms/step"),
    ]
    decimals = {item: digits(item, variants) for item in measures}
    marks = {item: comparison.marks(variants, item) for item in measures}
    rows, starts, before = [], [], None
    for entry in variants:
        options = grammar.split(entry.method)[1]
        if before is not None and tuple(options) != before:
            starts.append(len(rows))
        before = tuple(options)
        found = comparison.difference(entry, comparison.headline.key)
        rows.append(
            [
                Cell(options.get(axis) or change(entry.method), entry.method),
                *(
                    mean_cell(entry.at_end(item.key), decimals[item], marks[item].get(entry, ""))
                    for item in measures
                ),
                difference_cell(found and found.t, decimals[comparison.headline]),
                cost_cell(entry.final["seconds"] / entry.final["step"], scale=1000),
            ]
        )
    notes = [*reading(comparison), f"Backbone {variants[0].backbone}. Δ: from {comparison.reference}."]
    return Table(f"ablation-{name}", f"Ablation of {name}", columns, rows, notes, starts)


def families(comparison: Comparison) -> dict[str, list[str]]:
    """Family -> backbones of it by size, for families with at least two sizes under one protocol."""
    found: dict[str, list[str]] = {}
    for backbone in comparison.backbones:
        found.setdefault(family(backbone), []).append(backbone)
    single = len(comparison.protocols) == 1
    return {name: sizes for name, sizes in found.items() if single and len(sizes) > 1}


def scaling_table(comparison: Comparison, family: str, backbones: list[str]) -> Table:
    """The headline metric: a row per method, a column per backbone by size."""
    headline = comparison.headline
    entries = {(entry.method, entry.backbone): entry for entry in comparison.entries}
    methods = [name for name in comparison.methods if any((name, size) in entries for size in backbones)]
    columns, cells = [Column("method", "Method", text=True)], []
    for backbone in backbones:
        own = [entries[method, backbone] for method in methods if (method, backbone) in entries]
        marks, decimals = comparison.marks(own, headline), digits(headline, own)
        columns.append(Column(backbone, backbone, parameters_cell(own[0].parameters).text))
        cells.append(
            [
                mean_cell(
                    entries[method, backbone].at_end(headline.key),
                    decimals,
                    marks.get(entries[method, backbone], ""),
                )
                if (method, backbone) in entries
                else Cell()
                for method in methods
            ]
        )
    rows = [
        [Cell(method, method), *(column[index] for column in cells)] for index, method in enumerate(methods)
    ]
    notes = [f"{headline.label} {headline.arrow}, parameters above the backbones. {reading(comparison)[0]}"]
    return Table(f"scaling-{family}", f"Scaling of {family}", columns, rows, notes)


def gains(comparison: Comparison, method: str, measure: Metric) -> list[np.ndarray]:
    """Relative gains [seeds] on the reference in every setting (backbone and protocol); larger is better.

    1 - method/reference for distances, method/reference - 1 where larger is better.
    """
    found = []
    for entry in comparison.entries:
        other = comparison.reference_of(entry)
        if entry.method != method or other is None:
            continue
        ratio = (entry.final[measure.key] / other.final[measure.key]).dropna().to_numpy(dtype=float)
        if len(ratio):
            found.append(1 - ratio if measure.lower_is_better else ratio - 1)
    return found


def aggregate_table(comparison: Comparison) -> Table:
    """Interquartile mean of the relative gains over all settings; empty with fewer than two settings."""
    headline, level = comparison.headline, f"{comparison.confidence:.0%}"
    columns = [
        Column("method", "Method", text=True),
        Column("settings", "Settings"),
        Column("runs", "Runs"),
        Column("gain", f"{headline.short} gain (%)"),
        Column("interval", f"{level} interval"),
        Column("better", "Better runs (%)"),
    ]
    rows = []
    for method in comparison.methods:
        settings = gains(comparison, method, headline)
        if len(settings) < 2:
            continue
        pooled = np.concatenate(settings)
        gain, (low, high) = (
            interquartile_mean(pooled),
            interquartile_interval(settings, comparison.confidence),
        )
        interval = (
            Cell()
            if math.isnan(low)
            else Cell(f"[{number(100 * low, 1)}, {number(100 * high, 1)}]", f"[{low}, {high}]")
        )
        rows.append(
            [
                Cell(method, method),
                Cell(str(len(settings)), len(settings)),
                Cell(str(len(pooled)), len(pooled)),
                Cell(number(100 * gain, 1), gain),
                interval,
                Cell(f"{100 * (pooled > 0).mean():.0f}", float((pooled > 0).mean())),
            ]
        )
    notes = [
        f"Interquartile mean of the gain on {comparison.reference} in {headline.label}, over backbones and "
        "seeds; interval by bootstrap of the seeds within each backbone."
    ]
    return Table("aggregate", "Over all backbones", columns, rows, notes)
