"""Comparison of entries (method x backbone under one protocol) with their references."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import pandas as pd

import backbones
from bench.core import grammar
from bench.core.errors import UserError, unknown
from bench.metrics.names import Metric, in_order
from bench.reporting.results import Results
from bench.reporting.statistics import Difference, Estimate, difference, estimate, paired
from bench.reporting.time_to_target import Grid, Speedup, grid, speedup

Mark = Literal["", "best", "second"]


@dataclass(frozen=True, eq=False)
class Entry:
    """A method on a backbone: its runs with all of their evaluations."""

    method: str
    backbone: str
    protocol: str
    runs: pd.DataFrame
    final: pd.DataFrame  # of finished runs, indexed by seed
    curves: pd.DataFrame  # evaluations of finished runs; of all runs as long as none is

    @property
    def group(self) -> tuple[str, str]:
        """Entries of one group are compared with each other."""
        return self.backbone, self.protocol

    @property
    def parameters(self) -> float:
        """Number of parameters of the backbone; NaN if not recorded."""
        return float(pd.to_numeric(self.runs["parameters"]).max())

    @property
    def teachers(self) -> tuple[str, ...] | None:
        """Frozen encoders that training uses; None if not recorded."""
        found = self.runs["teachers"].iloc[0]
        return None if found is None else tuple(found)

    def at_end(self, metric: str) -> Estimate:
        """Mean of a metric over seeds."""
        if metric not in self._ends:
            self._ends[metric] = estimate(self.final[metric])
        return self._ends[metric]

    @cached_property
    def _ends(self) -> dict[str, Estimate]:
        return {}

    @cached_property
    def grid(self) -> Grid:
        """`curves` by seed and step, for speedups."""
        return grid(self.curves)


@dataclass(frozen=True, eq=False)
class Comparison:
    """All entries of a results folder, and the reference method."""

    results: Results
    entries: Sequence[Entry]
    measures: Sequence[Metric]  # the headline first
    reference: str
    confidence: float = 0.95
    _differences: dict[tuple[Entry, str], Difference | None] = field(default_factory=dict)
    _speedups: dict[tuple[Entry, str, str, float], Speedup | None] = field(default_factory=dict)

    @property
    def headline(self) -> Metric:
        return self.measures[0]

    @property
    def backbones(self) -> list[str]:
        return list(dict.fromkeys(entry.backbone for entry in self.entries))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(entry.method for entry in self.entries))

    @property
    def protocols(self) -> list[str]:
        return list(dict.fromkeys(entry.protocol for entry in self.entries))

    @property
    def groups(self) -> list[list[Entry]]:
        """Entries that may be compared with each other, group by group."""
        members: dict[tuple[str, str], list[Entry]] = {}
        for entry in self.entries:
            members.setdefault(entry.group, []).append(entry)
        return list(members.values())

    def reference_of(self, entry: Entry) -> Entry | None:
        """The reference with the same backbone and protocol; None for itself or if absent."""
        for other in self.entries:
            if other.group == entry.group and other.method == self.reference and other is not entry:
                return other if len(other.final) else None
        return None

    def difference(self, entry: Entry, metric: str) -> Difference | None:
        """Entry minus its reference over common seeds; None if there are none."""
        key = (entry, metric)
        if key not in self._differences:
            other = self.reference_of(entry)
            self._differences[key] = other and difference(
                entry.final[metric], other.final[metric], self.confidence
            )
        return self._differences[key]

    def speedup(self, entry: Entry, cost: str, metric: str, share: float = 1.0) -> Speedup | None:
        """How many times sooner the entry is as good as its reference is at the end, or at a share of its
        training; None without a reference."""
        key = (entry, cost, metric, share)
        if key not in self._speedups:
            other = self.reference_of(entry)
            lower = bool(next(item for item in self.measures if item.key == metric).lower_is_better)
            self._speedups[key] = other and speedup(
                entry.grid, other.grid, cost, metric, lower, self.confidence, share
            )
        return self._speedups[key]

    def ranks(self, entries: Sequence[Entry], measure: Metric) -> dict[Entry, int]:
        """Competition ranks from the best mean; entries that the seeds do not tell apart share one.

        An entry shares the rank of the best one above it unless the t interval of their paired difference
        excludes zero. Empty if no direction is better.
        """
        if measure.lower_is_better is None:
            return {}
        sign = 1 if measure.lower_is_better else -1
        known = [entry for entry in entries if pd.notna(entry.at_end(measure.key).mean)]
        found: dict[Entry, int] = {}
        first, rank = None, 0
        for place, entry in enumerate(sorted(known, key=lambda one: sign * one.at_end(measure.key).mean), 1):
            if first is None or self._apart(entry, first, measure):
                first, rank = entry, place
            found[entry] = rank
        return found

    def _apart(self, entry: Entry, other: Entry, measure: Metric) -> bool:
        d = paired(entry.final[measure.key], other.final[measure.key])
        return estimate(d, self.confidence).excludes_zero

    def marks(self, entries: Sequence[Entry], measure: Metric) -> dict[Entry, Mark]:
        """The best mean, and the second best if it is significantly different from its neighbours.

        That is where its paired differences from the best and from the third both have t intervals that
        exclude zero.
        """
        means = {entry: entry.at_end(measure.key).mean for entry in entries}
        ranked = [entry for entry in entries if pd.notna(means[entry])]
        if measure.lower_is_better is None or len(ranked) < 2:
            return {}
        ranked.sort(key=lambda entry: means[entry] if measure.lower_is_better else -means[entry])
        best, second, *rest = ranked
        told_apart = all(self._apart(second, other, measure) for other in (best, *rest[:1]))
        return {best: "best", second: "second" if told_apart else ""}


def compare(
    results: Results,
    reference: str,
    metric: str | None,
    confidence: float,
    allow_mixed: bool,
    *,
    required: bool = False,
) -> Comparison:
    """Group runs for comparison; `metric` is the headline metric if given.

    Without runs of the reference there are no differences, or an error if it is `required`.

    Raises:
        UserError: for an unknown metric or reference, for runs that were never evaluated, and for runs of
            several protocols unless `allow_mixed`.
    """
    measures = in_order(results.metrics)
    if not measures:
        raise UserError(f"no run in {results.folder} has been evaluated yet.")
    if metric is not None:
        if metric not in results.metrics:
            raise unknown("metric", metric, results.metrics)
        measures.sort(key=lambda item: item.key != metric)
    if required and reference not in set(results.runs["method"]):
        raise unknown("method", reference, set(results.runs["method"]))
    counts = results.runs["protocol"].value_counts(sort=False)
    if len(counts) > 1 and not allow_mixed:
        listed = ", ".join(f"{name} ({count} runs)" for name, count in counts.items())
        raise UserError(
            f"{results.folder} mixes {len(counts)} protocols, whose numbers cannot be compared: {listed}. "
            "Give --allow-mixed to print them all, with footnotes."
        )
    return Comparison(results, _entries(results, reference), measures, reference, confidence)


def _entries(results: Results, reference: str) -> list[Entry]:
    """Protocol by protocol, SiT before DiT, small before large, the reference before the others.

    A method without options comes before its variants, which go option by option, numbers in their order.
    """
    identity = ["method", "backbone", "protocol"]
    finals, rows = (
        dict(list(table.groupby(identity))) for table in (results.finished, results.own_evaluations)
    )
    nothing = results.evaluations.iloc[:0]
    entries = []
    for keys, runs in results.runs.groupby(identity, sort=False):
        final = finals.get(keys, nothing).drop_duplicates("seed", keep="last")
        curves = rows.get(keys, nothing)
        if len(final):
            curves = curves[curves["run"].isin(final["run"])]
        method, backbone, protocol = map(str, keys)
        entries.append(Entry(method, backbone, protocol, runs, final.set_index("seed"), curves))

    def order(entry: Entry) -> tuple:
        place = backbones.by_family(entry.backbone)
        name, options = grammar.split(entry.method)
        variant = name, tuple(options), tuple(_number_or_text(value) for value in options.values())
        return entry.protocol, place, entry.parameters, entry.backbone, entry.method != reference, variant

    return sorted(entries, key=order)


def _number_or_text(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value
