"""Score images: python -m bench.evaluate samples.npz --reference VIRTUAL_imagenet256_labeled.npz

PATH is an .npz (arr_0), a folder or a zip of images, or the folder of a run. The reference is an .npz in
ADM's layout (images and/or mu, sigma, mu_s, sigma_s), a folder, a zip, or a file made with --save-reference.
All metrics come from one pass over the images; an interrupted scoring continues where it stopped.

A run is sampled and scored by its own protocol, optionally with other guidance:
python -m bench.evaluate results/quickstart/RUN --guidance-scale 1.0 1.25 1.5 --guidance-interval 0 0.7
On several GPUs: torchrun --nproc-per-node 8 -m bench.evaluate RUN ...
"""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bench.core.cli import Device, Interval, OptionalInt, OptionalPath, option, parse
from bench.core.errors import UserError, exit_code
from bench.core.files import write_json

if TYPE_CHECKING:
    from bench.data.image_files import ImageSet
    from bench.runs.record import EvaluationRow


# Spellings of an earlier version.
EARLIER = {
    "--nets": "--feature-nets",
    "--weights": "--net-weights",
    "--guidance": "--guidance-scale",
    "--interval": "--guidance-interval",
}


@dataclass(frozen=True)
class Images:
    """Scoring images; these options are their protocol."""

    reference: OptionalPath = None
    """reference images or statistics"""
    feature_nets: tuple[str, ...] = ("inception",)
    """feature networks of the metrics: inception (FID, sFID, IS), clean, legacy-pytorch, legacy-tensorflow,
    dinov2-b, dinov2-l, clip-vit-b-32, timm:NAME, clip:ARCH/TAG, digits-cnn, random-conv, pixels"""
    net_weights: Annotated[tuple[str, ...], option(metavar="NET=FILE...")] = ()
    """files of weights of feature networks, instead of the library's cache"""
    precision_recall: Literal["exact", "adm-fp16"] = "exact"
    """adm-fp16 rounds distances to half precision, as in the evaluator of ADM"""
    neighbours: int = 3
    """k of precision and recall"""
    kid: bool = False
    """also the kernel distance"""
    fid_infinity: bool = False
    """also the Frechet distance extrapolated to infinitely many samples"""
    bootstrap: int = 0
    """also the standard deviation of the Frechet distance over this many bootstrap resamples"""
    metrics: Annotated[tuple[str, ...], option(metavar="FILE...")] = ()
    """Python files of additional metrics"""
    save_reference: OptionalPath = None
    """save the features of the reference (without --reference: of PATH) to this .npz"""
    output: OptionalPath = None
    """write the results to this JSON file"""
    batch_size: int = 64
    """images per pass; results do not depend on it"""


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


def score_run(options: Options) -> list[EvaluationRow]:
    """Sample and score a run at every guidance scale, print a table; returns the rows.

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
    return rows


def score_images(options: Options) -> dict[str, float]:
    """Score the images of `options.path` and print the table; the metrics by name, {} without a reference.

    Raises:
        UserError: for unusable files.
    """
    from bench.core import machine
    from bench.data.containers import is_npz
    from bench.evaluation.reference import read_reference, write_reference
    from bench.evaluation.resume import score_resumable
    from bench.evaluation.scorer import MetricOptions, Scorer
    from bench.metrics import custom
    from bench.nets.metric_nets import feature_nets, require

    chosen = options.images
    _refuse_values(chosen)
    _refuse_outputs(options)
    if chosen.reference is None and chosen.save_reference is None:
        raise UserError("say what to compare with: --reference FILE, or make one with --save-reference FILE.")
    files = _weight_files(chosen)
    device = machine.select_device(options.device)
    images = _opened(options.path, options.yes)
    if chosen.reference is not None:
        _refuse_few(images, chosen.neighbours)
        if not is_npz(chosen.reference):
            _refuse_few(_opened(chosen.reference, options.yes), chosen.neighbours)
    for name in chosen.feature_nets:
        if name not in files:
            require(name)
    if options.copy is not None:
        _copy(images, options)
    nets = feature_nets(chosen.feature_nets, device, files)
    references = read_reference(chosen.reference or options.path, nets)
    if chosen.save_reference is not None:
        write_reference(chosen.save_reference, references)
    if chosen.reference is None:
        print(f"reference of {images.count} images written to {chosen.save_reference}")
        return {}
    metric_options = MetricOptions(
        chosen.neighbours,
        chosen.precision_recall,
        chosen.kid,
        chosen.fid_infinity,
        chosen.bootstrap,
        custom.load(chosen.metrics),
    )
    scorer = Scorer(nets, references, options=metric_options)
    score_resumable(images, scorer, chosen.batch_size, chosen.net_weights)
    metrics = scorer.results()
    if any(reference.features is None for reference in references.values()):
        warnings.warn("the reference has no images: precision, recall and KID are left out.", stacklevel=1)
    how = f"{images.count} images against {chosen.reference}; k = {chosen.neighbours}"
    how += f", {chosen.precision_recall}"
    _print(str(options.path), {"value": metrics}, how)
    if chosen.output is not None:
        _write(options.path, chosen, images.count, metrics)
    return metrics


def _refuse_values(options: Images) -> None:
    for name, least in (("neighbours", 1), ("batch_size", 1), ("bootstrap", 0)):
        if (value := getattr(options, name)) < least:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least {least}.")
    if options.bootstrap == 1:
        raise UserError("--bootstrap 1: a spread takes 2 resamples or more, 0 leaves it out.")
    if not options.feature_nets:
        raise UserError("--feature-nets: name at least one feature net.")


def _refuse_outputs(options: Options) -> None:
    """No output may replace what is read or another output, lie in it, or fail at the end."""
    chosen = options.images
    given = {"copy": options.copy, "save-reference": chosen.save_reference, "output": chosen.output}
    outputs = {flag: output for flag, output in given.items() if output}
    for flag, output in outputs.items():
        for source in (options.path, chosen.reference):
            if source and output.resolve().is_relative_to(source.resolve()):
                raise UserError(f"--{flag} {output} lies in {source}, which is read: choose another place.")
        for other, place in outputs.items():
            if other != flag and output.resolve().is_relative_to(place.resolve()):
                raise UserError(f"--{flag} {output} lies in --{other} {place}: choose another place.")
        if flag == "copy":
            continue
        if output.is_dir():
            raise UserError(f"--{flag} {output} is a folder: name a file.")
        if not os.access(output.parent, os.W_OK):
            raise UserError(f"--{flag} {output} cannot be written: make the folder {output.parent} first.")


def _opened(path: Path, yes: bool) -> ImageSet:
    """Images, with what was understood of them. Raises UserError if that is surprising, without `yes`."""
    from bench.data.image_files import open_images

    images = open_images(path)
    print(f"{path}:\n{indent(images.summary, '  ')}")
    if not yes:
        images.refuse_surprises()
    return images


def _refuse_few(images: ImageSet, neighbours: int) -> None:
    if images.count <= neighbours:
        raise UserError(
            f"{images.path} has {images.count} images; precision and recall with k = {neighbours} need more "
            f"than {neighbours}: give more images or a smaller --neighbours."
        )


def _weight_files(options: Images) -> dict[str, Path]:
    files = {}
    for text in options.net_weights:
        net, equals, file = text.partition("=")
        if not equals or net not in options.feature_nets:
            raise UserError(
                f"--net-weights {text}: write NET=FILE, with NET one of {', '.join(options.feature_nets)}."
            )
        files[net] = Path(file).expanduser()
    return files


def _copy(images: ImageSet, options: Options) -> None:
    from bench.data.image_files import writing

    assert options.copy is not None
    with writing(options.copy, images.count) as write:
        for batch in images.batches(options.images.batch_size):
            write(batch)


def _print(title: str, columns: dict[str, dict[str, float]], caption: str) -> None:
    """A row a metric, a column a set of images."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", *columns, title=title, caption=caption, box=box.SIMPLE_HEAD)
    for name in next(iter(columns.values())):
        table.add_row(name.replace("[", r"\["), *(f"{metrics[name]:.5g}" for metrics in columns.values()))
    Console(soft_wrap=True).print(table)


def _write(path: Path, chosen: Images, count: int, metrics: dict[str, float]) -> None:
    made = {"samples": count, "neighbours": chosen.neighbours, "precision_recall": chosen.precision_recall}
    row = {"images": str(path), "reference": str(chosen.reference), **made, "metrics": metrics}
    assert chosen.output is not None
    try:
        write_json(chosen.output, row)
    except OSError as error:
        raise UserError(f"cannot write {chosen.output}: {error.strerror or error}.") from None


if __name__ == "__main__":
    sys.exit(exit_code(main))
