"""Score images: python -m bench.evaluate samples.npz --reference VIRTUAL_imagenet256_labeled.npz

PATH is an .npz (arr_0), a folder or a zip of images, or the folder of a run. The reference is an .npz in
ADM's layout (images and/or mu, sigma, mu_s, sigma_s), a folder, a zip, or a file made with --save-reference.
All metrics come from one pass over the images; an interrupted scoring continues where it stopped.

A run is sampled and scored by its own protocol, optionally with other guidance:
python -m bench.evaluate results/quickstart/RUN --guidance-scale 1.0 1.25 1.5 --guidance-interval 0 0.7
On several GPUs: torchrun --nproc-per-node 8 -m bench.evaluate RUN ...
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from bench.core.cli import Device, Interval, OptionalInt, OptionalPath, option, parse
from bench.core.errors import UserError, exit_code
from bench.evaluation.score_images import Images

# Spellings of an earlier version.
EARLIER = {
    "--nets": "--feature-nets",
    "--weights": "--net-weights",
    "--guidance": "--guidance-scale",
    "--interval": "--guidance-interval",
}


@dataclass(frozen=True)
class Run:
    """Scoring a run. Defaults are those of its own protocol."""

    guidance_scale: Annotated[tuple[float, ...], option(metavar="X...")] = ()
    """guidance scales, one row each in eval.jsonl of the run; plotted by bench.report"""
    guidance_interval: Interval = None
    """guide only for t in this interval; data t=0, noise t=1"""
    samples: OptionalInt = None
    """images sampled per scale"""


@dataclass(frozen=True)
class Options:
    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """an .npz, a folder or a zip of images, or the folder of a run"""
    copy: OptionalPath = None
    """save the images as this .npz or folder of PNGs"""
    yes: bool = False
    """continue even if a folder looks surprising: several splits, many ignored files"""
    device: Device = "auto"
    images: Images = field(default_factory=Images)
    run: Run = field(default_factory=Run)


def main() -> None:
    """Parse and score."""
    options = parse(Options, __doc__, EARLIER)
    if (options.path / "spec.json").is_file():
        score_run(options)
    elif options.run != Run():
        raise UserError(
            f"--guidance-scale, --guidance-interval and --samples are for a run; {options.path} is none."
        )
    else:
        score_images(options)


def score_run(options: Options) -> None:
    """Sample and score a run at every guidance scale, and print a table.

    The processes of torchrun share the work. Raises UserError for a folder that is no run, and for options
    that are not for runs.
    """
    from bench.core import distributed, machine
    from bench.evaluation.evaluator import evaluate_run, with_guidance

    if options.images != Images():
        raise UserError(
            "a run is scored by its own protocol: give --guidance-scale, --guidance-interval or --samples."
        )
    run = options.run
    with distributed.process_group(options.device):
        rows = evaluate_run(
            options.path,
            lambda own: with_guidance(own, run.guidance_scale, run.guidance_interval, run.samples),
            machine.select_device(options.device),
            options.copy,
        )
        table = {f"guidance {row.guidance_scale:g}": row.metrics for row in rows}
        _print(options.path.name, table, f"{rows[0].samples} samples at step {rows[0].step}")


def score_images(options: Options) -> dict[str, float]:
    """Score the images of `options.path` and print the table; the metrics by name, {} without a reference.

    Raises:
        UserError: for unusable files.
    """
    from bench.core import machine
    from bench.evaluation import score_images as images

    chosen, device = options.images, machine.select_device(options.device)
    count, metrics = images.score_images(options.path, chosen, device, options.copy, options.yes)
    if metrics:
        caption = f"{count} images against {chosen.reference}; k = {chosen.neighbours}"
        _print(str(options.path), {"value": metrics}, f"{caption}, {chosen.precision_recall}")
    return metrics


def _print(title: str, columns: dict[str, dict[str, float]], caption: str) -> None:
    """A row a metric, a column a set of images."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("metric", *columns, title=escape(title), caption=escape(caption), box=box.SIMPLE_HEAD)
    for name in next(iter(columns.values())):
        table.add_row(escape(name), *(f"{metrics[name]:.5g}" for metrics in columns.values()))
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    sys.exit(exit_code(main))
