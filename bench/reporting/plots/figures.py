"""Which figures a comparison allows, and what each of them shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from matplotlib.figure import Figure

from bench.core import grammar
from bench.reporting.comparison import Comparison
from bench.reporting.plots import bars, curves, relations, samples
from bench.reporting.results import probe_maps, training_logs
from bench.reporting.tables import studies

PANEL_ROWS = 5  # of one figure
ALIGNMENTS = {"cknna": "CKNNA with the teacher", "linear_probe": "Linear probe accuracy"}
MOST_BARS = 24  # methods of one figure
MOST_CURVES = 8  # of one panel; of more methods, those without options are shown


class Drawing(NamedTuple):
    """A figure that is drawn when `draw` is called."""

    name: str  # of its files
    title: str
    text: str  # what it shows
    draw: Callable[[], Figure | None]


def drawings(comparison: Comparison) -> Iterator[Drawing]:
    """All figures that these results allow, in the order of the page."""
    headline, reference = comparison.headline, comparison.reference
    plain = _without_variants(comparison)
    left_out = "" if plain is comparison else " Variants are left to the bars."
    distances = [item for item in comparison.measures if item.is_distance]
    costs = [
        cost for cost in ("step", "seconds", "flops") if comparison.results.evaluations[cost].notna().any()
    ]
    for position, start in enumerate(range(0, len(comparison.backbones), PANEL_ROWS), start=1):
        backbones = comparison.backbones[start : start + PANEL_ROWS]
        yield Drawing(
            "convergence" if position == 1 else f"convergence-{position}",
            f"Convergence of {headline.label}",
            f"Mean over seeds, band: their range. Dotted: the final value of {reference}; the arrow shows "
            f"how much sooner the fastest method has it.{left_out}",
            partial(curves.convergence, plain, headline, backbones, costs),
        )
    compared = [entry for entry in comparison.entries if comparison.reference_of(entry) is not None]
    if compared:
        if len(compared) > MOST_BARS:
            compared = [entry for entry in compared if entry.backbone in largest(comparison)]
        yield Drawing(
            "speedup",
            f"Speedup over {reference}",
            f"Cost until the final {headline.label} of {reference}, relative to it. Black lines: "
            f"{comparison.confidence:.0%} bootstrap intervals over seeds.",
            partial(bars.speedup_bars, comparison, headline, compared, costs),
        )
    seed = int(comparison.results.runs["seed"].min())
    for backbone in largest(comparison):
        yield Drawing(
            f"samples-{slug(backbone)}",
            f"Samples of {backbone}",
            f"Seed {seed}, last step, not selected. Within a column all start from the same noise and label.",
            partial(samples.sample_rows, comparison, backbone, seed),
        )
    for name, variants in studies.ablations(comparison).items():
        yield Drawing(
            f"ablation-{slug(name)}",
            f"Ablation of {name}",
            f"Bars: mean; dots: seeds. Lines: other methods, {reference} dashed; dotted: the method without "
            "options.",
            partial(bars.ablation_bars, comparison, distances[:3], variants),
        )
    for family, sizes in studies.families(comparison).items():
        yield Drawing(
            f"scaling-{family}",
            f"Scaling of {family}",
            "Mean over seeds; whiskers: their range.",
            partial(relations.scaling, comparison, headline, sizes),
        )
    if sum(len(entry.final) > 0 for entry in comparison.entries) > 2:
        yield Drawing(
            "pareto",
            "Quality against the time of a step",
            "Methods on the dotted line are not beaten by any cheaper one.",
            partial(relations.pareto, comparison, headline),
        )
    if any(len(studies.gains(comparison, method, headline)) > 1 for method in comparison.methods):
        yield Drawing(
            "profiles",
            "Performance profiles",
            f"Over all backbones and seeds: share of runs whose gain on {reference} is larger.",
            partial(relations.profiles, comparison, headline),
        )
    for backbone in largest(comparison):
        if curves.last_by_guidance(comparison, backbone)["guidance_scale"].nunique() > 2:
            yield Drawing(
                f"guidance-{slug(backbone)}",
                f"Guidance sweep on {backbone}",
                "The last checkpoint at every guidance scale; mean and range over seeds.",
                partial(curves.guidance_sweep, plain, comparison.measures[:3], backbone),
            )
        yield Drawing(
            f"metrics-{slug(backbone)}",
            f"All metrics on {backbone}",
            f"Mean over seeds, band: their range.{left_out}",
            partial(curves.all_metrics, plain, backbone),
        )
        for measure, label in ALIGNMENTS.items():
            found = probe_maps(comparison.results, backbone, measure)
            maps = {method: found[method] for method in plain.methods if method in found}
            if maps:
                yield Drawing(
                    f"{slug(measure)}-{slug(backbone)}",
                    f"{label} on {backbone}",
                    "By depth and noise level, as `bench.probe` measured it. One colour scale for all.",
                    partial(relations.alignment_maps, maps, label),
                )
        logs = training_logs(comparison.results, backbone, seed)
        logs = logs[logs["method"].isin(plain.methods)]
        if len(logs):
            yield Drawing(
                f"traces-{slug(backbone)}",
                f"What methods log on {backbone}",
                f"Seed {seed}; what methods log of themselves during training; thin lines: by noise level; "
                "stacked: a histogram, of the first method that has one.",
                partial(curves.traces, logs, comparison.methods, reference),
            )


def _without_variants(comparison: Comparison) -> Comparison:
    """The comparison that curves show: all of it, or the methods without options where there are many."""
    if len(comparison.methods) <= MOST_CURVES:
        return comparison
    methods = {name for name in comparison.methods if not grammar.split(name)[1]} | {comparison.reference}
    shown = [entry for entry in comparison.entries if entry.method in methods]
    return replace(comparison, entries=shown) if len(methods) > 1 else comparison


def largest(comparison: Comparison) -> list[str]:
    """The largest backbone of every family: what is shown where a plot for each would be too many."""
    families: dict[str, str] = {}
    for backbone in comparison.backbones:
        families[grammar.split(backbone)[0].partition("-")[0]] = backbone
    return list(families.values())


def slug(name: str) -> str:
    """For file names: `sit-ti/2[qk_norm=true]` -> `sit-tip2-qk_norm-true`."""
    kept = "".join(
        letter if letter.isalnum() or letter in "-_." else "-" for letter in name.replace("/", "p")
    )
    return "-".join(part for part in kept.split("-") if part)
