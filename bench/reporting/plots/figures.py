"""The figures of a report, as a table: instances, caption, and drawing function of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from bench.core import grammar
from bench.metrics.names import Metric
from bench.reporting.comparison import Comparison
from bench.reporting.plots import bars, curves, log_traces, relations, samples
from bench.reporting.plots.contents import MOST_CURVES, Contents
from bench.reporting.tables import studies
from bench.reporting.tables.table import slug


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
        lambda it, logs: log_traces.traces(logs, it.all.methods, it.all.reference),
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
