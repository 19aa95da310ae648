"""The figures of a report, as a table: instances, caption, and drawing function of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from bench.core import grammar
from bench.metrics.names import Metric
from bench.reporting.comparison import Comparison, Entry
from bench.reporting.plots import bars, curves, relations, samples
from bench.reporting.results import probe_maps, training_logs
from bench.reporting.tables import studies
from bench.reporting.tables.table import slug

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


class Kind(NamedTuple):
    """Figures of one kind.

    `of` returns the instances: names, or a dict of name -> argument of `draw`; empty if the figure does not
    apply. Title and text may contain {one}, the name of the instance, and the words of `_words`. Figures of
    lowest `rank` are shown if a page has room for few.
    """

    name: str
    title: str
    text: str
    of: Callable[[Contents], Iterable[str]]
    draw: Callable[[Contents, Any], Figure]
    rank: int


KINDS = (
    Kind(
        "convergence",
        "Convergence of {headline}",
        "Mean over seeds, band: their range. Dotted: the final value of {reference}; the arrow shows how "
        "much sooner the fastest method reaches it.{left_out}",
        Contents.panels,
        lambda it, backbones: curves.convergence(it.plain, it.all.headline, backbones, it.costs),
        rank=1,
    ),
    Kind(
        "differences",
        "Difference from {reference} on {one}",
        "Mean paired difference of {headline} over seeds with {confidence} t intervals, which are not "
        "corrected for the number of methods.",
        lambda it: [name for name in it.largest if len(it.all.methods) > MOST_CURVES and it.on(name)],
        lambda it, backbone: bars.difference_dots(it.all, it.all.headline, backbone),
        rank=1,
    ),
    Kind(
        "speedup",
        "Speedup over {reference}",
        "Cost until the final {headline} of {reference}, relative to it. Black lines: {confidence} bootstrap "
        "intervals over seeds.{behind}",
        lambda it: it.once(bool(it.compared)),
        lambda it, _: bars.speedup_bars(it.all, it.all.headline, it.compared, it.costs),
        rank=4,
    ),
    Kind(
        "speedup-by-target",
        "Speedup over {reference} by target",
        "How many times sooner a method is as good as {reference} after a share of its training. Bands: "
        "{confidence} bootstrap intervals over seeds; carets: lower bounds.{left_out}",
        lambda it: it.once(bool(it.largest_compared)),
        lambda it, _: curves.speedup_by_target(it.plain, it.all.headline, it.largest_compared, it.costs),
        rank=2,
    ),
    Kind(
        "samples",
        "Samples of {one}",
        "Seed {seed}, last step, not selected. Within a column all start from the same noise and label; the "
        "real images are of that class, if it was found among a few training images.{left_out_rows}",
        lambda it: [name for name in it.largest if samples.sample_strips(it.sampled, name, it.seed)],
        lambda it, backbone: samples.sample_rows(it.sampled, backbone, it.seed),
        rank=2,
    ),
    Kind(
        "ablation",
        "Ablation of {one}",
        "Bars: mean; dots: seeds. Lines: other methods, {reference} dashed; dotted: the method without "
        "options.",
        lambda it: studies.ablations(it.all),
        lambda it, variants: bars.ablation_bars(it.all, _distances(it.all), variants),
        rank=0,
    ),
    Kind(
        "scaling",
        "Scaling of {one}",
        "Mean over seeds; whiskers: their range.",
        lambda it: studies.families(it.all),
        lambda it, sizes: relations.scaling(it.all, it.all.headline, sizes),
        rank=0,
    ),
    Kind(
        "pareto",
        "Quality against cost",
        "Final values against the time of a training step and the FLOPs of the whole training. Methods on "
        "the dotted line are not beaten by any cheaper one.{grey}",
        lambda it: it.once(sum(len(entry.final) > 0 for entry in it.all.entries) > 2),
        lambda it, _: relations.pareto(it.all, it.all.headline, it.plain.methods),
        rank=3,
    ),
    Kind(
        "profiles",
        "Performance profiles",
        "Over all backbones and seeds: share of runs whose gain on {reference} is larger.",
        lambda it: it.once(
            any(len(studies.gains(it.all, name, it.all.headline)) > 1 for name in it.all.methods)
        ),
        lambda it, _: relations.profiles(it.all, it.all.headline),
        rank=4,
    ),
    Kind(
        "guidance",
        "Guidance sweep on {one}",
        "The last checkpoint at every guidance scale; mean and range over seeds.",
        Contents.swept,
        lambda it, backbone: curves.guidance_sweep(it.plain, it.all.measures[:3], backbone),
        rank=5,
    ),
    Kind(
        "metrics",
        "All metrics on {one}",
        "Mean over seeds, band: their range.{left_out}",
        lambda it: it.largest,
        lambda it, backbone: curves.all_metrics(it.plain, backbone),
        rank=6,
    ),
    Kind(
        "cknna",
        "CKNNA with the teacher on {one}",
        "By depth and noise level, as measured by `bench.probe`. One colour scale for all.",
        lambda it: it.maps("cknna"),
        lambda it, maps: relations.alignment_maps(maps, "CKNNA with the teacher"),
        rank=6,
    ),
    Kind(
        "linear_probe",
        "Linear probe accuracy on {one}",
        "By depth and noise level, as measured by `bench.probe`. One colour scale for all.",
        lambda it: it.maps("linear_probe"),
        lambda it, maps: relations.alignment_maps(maps, "Linear probe accuracy"),
        rank=6,
    ),
    Kind(
        "traces",
        "Method logs on {one}",
        "Seed {seed}; quantities that methods log during training; thin lines: by noise level; stacked: a "
        "histogram, of the first method that logs one.",
        Contents.logs,
        lambda it, logs: curves.traces(logs, it.all.methods, it.all.reference),
        rank=6,
    ),
)


class Drawing(NamedTuple):
    """A figure, drawn when `draw` is called."""

    name: str  # of its files
    title: str
    text: str  # what it shows
    draw: Callable[[], Figure]
    rank: int


def drawings(comparison: Comparison) -> Iterator[Drawing]:
    """All figures that the results allow, in the order of the page."""
    contents = Contents(comparison)
    words = _words(contents)
    for kind in KINDS:
        found = kind.of(contents)
        for one in found:
            argument = found[one] if isinstance(found, dict) else one
            yield Drawing(
                f"{kind.name}-{slug(one)}" if one else kind.name,
                kind.title.format(one=one, **words),
                kind.text.format(one=one, **words),
                partial(kind.draw, contents, argument),
                kind.rank,
            )


def _words(contents: Contents) -> dict[str, str]:
    comparison = contents.all
    return {
        "headline": comparison.headline.label,
        "reference": comparison.reference,
        "confidence": f"{comparison.confidence:.0%}",
        "seed": str(contents.seed),
        "left_out": _left_out(comparison, contents.plain),
        "left_out_rows": _left_out(comparison, contents.sampled),
        "behind": f" Never as good within their runs: {', '.join(contents.behind)}." * bool(contents.behind),
        "grey": " Grey: the other methods." * (contents.plain is not comparison),
    }


def _left_out(comparison: Comparison, shown: Comparison) -> str:
    if shown is comparison:
        return ""
    if all(name in shown.methods or grammar.split(name)[1] for name in comparison.methods):
        return " Variants are left to the bars."
    best = len(shown.methods) - 1
    return f" Of {len(comparison.methods)} methods and variants: {comparison.reference} and the {best} best."


def _distances(comparison: Comparison) -> list[Metric]:
    return [measure for measure in comparison.measures if measure.is_distance]
