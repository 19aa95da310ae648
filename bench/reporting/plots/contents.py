"""What the figures of a report show: of many methods and backbones, those that fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from bench.core import grammar
from bench.reporting.comparison import Comparison, Entry
from bench.reporting.plots import curves
from bench.reporting.results import probe_maps, training_logs

PANEL_ROWS = 5  # of one figure
MOST_BARS = 24  # methods of one figure
MOST_CURVES = 8  # of one panel; of more methods, those without options are shown
MOST_ROWS = 12  # of samples, and of bars that say "not reached"


@dataclass(frozen=True)
class Contents:
    """Data of the figures of a comparison."""

    all: Comparison

    @cached_property
    def plain(self) -> Comparison:
        """Methods shown in curves: all; if there are too many, those without options; if there still are, the
        reference and the best of these."""
        if len(self.all.methods) <= MOST_CURVES:
            return self.all
        names = {name for name in self.all.methods if not grammar.split(name)[1]} | {self.all.reference}
        if len(names) > MOST_CURVES:
            names = {self.all.reference, *self._best_of(names - {self.all.reference})}
        shown = [entry for entry in self.all.entries if entry.method in names]
        return replace(self.all, entries=shown) if len(names) > 1 else self.all

    def _best_of(self, names: set[str]) -> list[str]:
        """The methods that fit beside the reference, by their best place on any backbone."""
        places: dict[str, int] = {}
        for group in self.all.groups:
            ranks = self.all.ranks([entry for entry in group if entry.method in names], self.all.headline)
            for place, entry in enumerate(ranks):
                places[entry.method] = min(place, places.get(entry.method, place))
        return sorted(places, key=lambda name: places[name])[: MOST_CURVES - 1]

    @cached_property
    def sampled(self) -> Comparison:
        """Methods whose samples are shown."""
        return self.all if len(self.all.methods) <= MOST_ROWS else self.plain

    @cached_property
    def costs(self) -> list[str]:
        rows = self.all.results.evaluations
        return [cost for cost in ("step", "seconds", "flops") if rows[cost].notna().any()]

    @cached_property
    def compared(self) -> list[Entry]:
        """Entries with a reference: of many, only those that are ever as good; of too many, only those on the
        largest backbones."""
        found = [entry for entry in self.all.entries if self.all.reference_of(entry) is not None]
        if len(found) > MOST_ROWS:
            found = [entry for entry in found if self._reaches(entry)]
        return found if len(found) <= MOST_BARS else [one for one in found if one.backbone in self.largest]

    @cached_property
    def behind(self) -> list[str]:
        """Methods that `compared` leaves out because they are nowhere as good as the reference."""
        entries = [entry for entry in self.all.entries if self.all.reference_of(entry) is not None]
        reached = {entry.method for entry in entries if len(entries) <= MOST_ROWS or self._reaches(entry)}
        return list(dict.fromkeys(entry.method for entry in entries if entry.method not in reached))

    def _reaches(self, entry: Entry) -> bool:
        found = (self.all.speedup(entry, cost, self.all.headline.key) for cost in self.costs)
        return any(item is not None and item.reached for item in found)

    def on(self, backbone: str) -> list[Entry]:
        """Finished entries on a backbone that have a reference."""
        own = [entry for entry in self.all.entries if entry.backbone == backbone and len(entry.final)]
        return [entry for entry in own if self.all.reference_of(entry) is not None]

    @cached_property
    def largest(self) -> list[str]:
        """The largest backbone of every family, for plots of a single backbone."""
        families: dict[str, str] = {}
        for backbone in self.all.backbones:
            families[grammar.split(backbone)[0].partition("-")[0]] = backbone
        return list(families.values())

    @property
    def largest_compared(self) -> list[str]:
        """Those of `largest` on which there is more than the reference."""
        return [backbone for backbone in self.largest if self.on(backbone)]

    @cached_property
    def seed(self) -> int:
        """The seed whose samples and logs are plotted."""
        return int(self.all.results.runs["seed"].min())

    def panels(self) -> dict[str, list[str]]:
        """Number of a figure ("" for the first) -> backbones in it."""
        backbones = self.all.backbones
        starts = range(0, len(backbones), PANEL_ROWS)
        return {
            str(number) if number > 1 else "": backbones[start : start + PANEL_ROWS]
            for number, start in enumerate(starts, start=1)
        }

    def maps(self, measure: str) -> dict[str, dict[str, pd.DataFrame]]:
        """Backbone -> results of `bench.probe` for methods without options, if any."""
        probed = {backbone: probe_maps(self.all.results, backbone, measure) for backbone in self.largest}
        maps = {
            backbone: {name: found[name] for name in self.plain.methods if name in found}
            for backbone, found in probed.items()
        }
        return {backbone: found for backbone, found in maps.items() if found}

    def logs(self) -> dict[str, pd.DataFrame]:
        """Backbone -> logs of methods without options, if any."""
        found = {name: training_logs(self.all.results, name, self.seed) for name in self.largest}
        plain = {name: rows[rows["method"].isin(self.plain.methods)] for name, rows in found.items()}
        return {name: rows for name, rows in plain.items() if len(rows)}

    def swept(self) -> list[str]:
        """Backbones evaluated at three or more guidance scales."""
        return [
            backbone
            for backbone in self.largest
            if curves.last_by_guidance(self.all, backbone)["guidance_scale"].nunique() > 2
        ]

    def once(self, applies: bool) -> tuple[str, ...]:
        """Instances of a figure that exists at most once."""
        return ("",) if applies else ()
