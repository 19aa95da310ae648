"""Scoring images that were not sampled here: a file or folder against a reference."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Literal

from bench.core.cli import OptionalPath, option
from bench.core.errors import UserError
from bench.core.files import write_json

if TYPE_CHECKING:
    import torch

    from bench.data.image_files import ImageSet


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


def score_images(
    path: Path, options: Images, device: torch.device, copy: Path | None = None, yes: bool = False
) -> tuple[int, dict[str, float]]:
    """Score the images of a file or folder; (their number, metrics by name, {} without a reference).

    Args:
        path: an .npz, a folder or a zip of images.
        options: reference, feature networks and metrics.
        device: where feature networks run.
        copy: also save the images as this .npz or folder of PNGs.
        yes: continue even if a folder looks surprising.

    Raises:
        UserError: for unusable files.
    """
    from bench.data.containers import is_npz
    from bench.data.image_files import writing
    from bench.evaluation.reference import read_reference, write_reference
    from bench.evaluation.resume import score_resumable
    from bench.evaluation.scorer import MetricOptions, Scorer
    from bench.metrics import custom
    from bench.nets.metric_nets import feature_nets, require

    _refuse_values(options)
    _refuse_outputs(path, options, copy)
    if options.reference is None and options.save_reference is None:
        raise UserError("say what to compare with: --reference FILE, or make one with --save-reference FILE.")
    files = _weight_files(options)
    images = _opened(path, yes)
    if options.reference is not None:
        _refuse_few(images, options.neighbours)
        if not is_npz(options.reference):
            _refuse_few(_opened(options.reference, yes), options.neighbours)
    for name in options.feature_nets:
        if name not in files:
            require(name)
    if copy is not None:
        with writing(copy, images.count) as write:
            for batch in images.batches(options.batch_size):
                write(batch)
    nets = feature_nets(options.feature_nets, device, files)
    references = read_reference(options.reference or path, nets)
    if options.save_reference is not None:
        write_reference(options.save_reference, references)
    if options.reference is None:
        print(f"reference of {images.count} images written to {options.save_reference}")
        return images.count, {}
    metric_options = MetricOptions(
        options.neighbours,
        options.precision_recall,
        options.kid,
        options.fid_infinity,
        options.bootstrap,
        custom.load(options.metrics),
    )
    scorer = Scorer(nets, references, options=metric_options)
    score_resumable(images, scorer, options.batch_size, options.net_weights)
    metrics = scorer.results()
    if any(reference.features is None for reference in references.values()):
        warnings.warn("the reference has no images: precision, recall and KID are left out.", stacklevel=1)
    if options.output is not None:
        _write(path, options, images.count, metrics)
    return images.count, metrics


def _refuse_values(options: Images) -> None:
    for name, least in (("neighbours", 1), ("batch_size", 1), ("bootstrap", 0)):
        if (value := getattr(options, name)) < least:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least {least}.")
    if options.bootstrap == 1:
        raise UserError("--bootstrap 1: a spread takes 2 resamples or more, 0 leaves it out.")
    if not options.feature_nets:
        raise UserError("--feature-nets: name at least one feature net.")


def _refuse_outputs(path: Path, options: Images, copy: Path | None) -> None:
    """No output may replace what is read or another output, lie in it, or fail at the end."""
    given = {"copy": copy, "save-reference": options.save_reference, "output": options.output}
    outputs = {flag: output for flag, output in given.items() if output}
    for flag, output in outputs.items():
        for source in (path, options.reference):
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


def _write(path: Path, options: Images, count: int, metrics: dict[str, float]) -> None:
    made = {"samples": count, "neighbours": options.neighbours, "precision_recall": options.precision_recall}
    row = {"images": str(path), "reference": str(options.reference), **made, "metrics": metrics}
    assert options.output is not None
    try:
        write_json(options.output, row)
    except OSError as error:
        raise UserError(f"cannot write {options.output}: {error.strerror or error}.") from None
