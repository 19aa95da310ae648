"""A suite and options become runs: every method with every backbone and seed, each a spec."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones import DEFAULT
from bench.config import published, resolve, suites
from bench.config.options import FOUND, Comparison, WeightsOptions
from bench.config.published import Published
from bench.config.spec import InitialWeights, RunSpec
from bench.config.suites import Grid, Settings
from bench.core import grammar, hub
from bench.core.errors import UserError
from bench.data import datasets
from bench.data.datasets import Dataset, Shape

EMBEDDED = "digits"  # the data set that needs no files
# Options of training that say nothing about weights that are only evaluated.
_ONLY_FOR_TRAINING = {
    "steps",
    "learning_rate",
    "weight_decay",
    "gradient_clip",
    "ema_decay",
    "label_dropout",
    "evaluate_every",
    "checkpoint_every",
    "log_every",
}


@dataclass(frozen=True)
class Start:
    """A file of weights that runs start from."""

    weights: InitialWeights
    backbone: str
    shape: Shape
    found: str  # what the file holds, in words
    process: str  # that they were trained on; "" if the file does not say
    published: Published | None  # their run, if a folder of `bench.publish` says so


def plan(
    comparison: Comparison,
    weights: WeightsOptions,
    training: dict[str, Any],
    protocol: dict[str, Any],
    native_precision: str,
) -> list[RunSpec]:
    """The runs that the options ask for, in the order written, none twice.

    `training` and `protocol` hold what was given on the command line, with `process` among the former. A
    published model is scored on the data, by the protocol and with the seed of its run, unless others are
    given. Raises UserError for whatever cannot be run, before anything is.
    """
    _refuse_idle(comparison, weights, training, protocol)
    suite = suites.load(comparison.suite, comparison.scale) if comparison.suite else Settings()
    start = _start(weights)
    fitting = datasets.of_shape(start.shape) if start else None
    earlier = start.published.spec if start and start.published and weights.evaluate_only else None
    data = (
        comparison.data
        or suite.data
        or (earlier.data if earlier else None)
        or (fitting.name if fitting else EMBEDDED)
    )
    dataset = datasets.get(data)
    process = _process(training.pop("process", None) or suite.process, start)
    if weights.evaluate_only:
        training["steps"] = 0
        _refuse_without_reference(dataset)
    scored = {} if earlier is None else earlier.protocol.model_dump(exclude=set(FOUND))
    specs = [
        resolve.run_spec(
            method,
            backbone,
            data,
            seed,
            native_precision=native_precision,
            process=process,
            teacher=suite.teacher,
            training=suite.training | grid.training | training,
            protocol=scored | suite.protocol | protocol,
            weights=start and start.weights,
        )
        for grid in _grids(comparison, suite, start, bool(weights.evaluate_only))
        for backbone in _expanded(grid.backbone or ())
        for method in _expanded(grid.method)
        for seed in comparison.seed or suite.seed or ((earlier.seed,) if earlier else (0,))
    ]
    runs: dict[str, RunSpec] = {}
    for spec in specs:
        _refuse_other_weights(spec, dataset, start)
        refuse_idle_guidance(spec, dataset.shape.channels)
        runs.setdefault(spec.hash, spec)
        if earlier and not protocol and spec.protocol.hash != earlier.protocol.hash:
            warnings.warn(
                f"the model was published under the protocol {earlier.protocol.hash}, here it is "
                f"{spec.protocol.hash}: its data, reference or metric networks are others on this machine.",
                stacklevel=2,
            )
    return list(runs.values())


def folder_name(comparison: Comparison) -> str:
    """The folder of the runs: the suite's name, `runs` without one, with the scale if that is full."""
    # A name of dots alone would lead out of the folder of results.
    name = (Path(comparison.suite).stem.strip(".") or "suite") if comparison.suite else "runs"
    return f"{name}-full" if comparison.scale == "full" else name


def _grids(
    comparison: Comparison, suite: Settings, start: Start | None, evaluate_only: bool
) -> Sequence[Grid]:
    """The suite's, unless the command line names methods or backbones: then each with each."""
    written = suite.grid or ()
    if start and evaluate_only:
        return [Grid(method=("baseline",), backbone=(start.backbone,))]
    if written and not comparison.method and not comparison.backbone:
        return written
    methods = comparison.method or _union(grid.method for grid in written)
    backbones = comparison.backbone or _union(grid.backbone or () for grid in written)
    if not methods:
        raise UserError("say what to run: --suite quickstart, or --method NAME... --backbone NAME...")
    return [Grid(method=methods, backbone=backbones or (start.backbone if start else DEFAULT,))]


def _union(groups: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group))


def _expanded(texts: Iterable[str]) -> list[str]:
    return [name for text in texts for name in grammar.expand(text)]


def _start(options: WeightsOptions) -> Start | None:
    """The weights to start from; None if none are given. Raises UserError if they cannot be read."""
    given = options.evaluate_only or options.init_from
    if given is None:
        return None
    from backbones import checkpoints

    try:
        path = checkpoints.located(hub.fetch(given) if hub.is_hub(given) else given)
        found = checkpoints.weights(path, options.family)
    except ValueError as error:
        raise UserError(str(error)) from None
    print(f"{given}: {found.found}")
    run = published.read(path.parent)
    return Start(
        weights=InitialWeights.of(path, options.family, run.trained_against if run else ()),
        backbone=found.architecture.name,
        shape=Shape(found.num_classes, found.channels, found.input_size),
        found=found.found,
        process=found.process,
        published=run,
    )


def _process(asked: str | None, start: Start | None) -> str | None:
    """The requested process, else that of the weights; warns if they differ."""
    trained = start.process if start else ""
    if asked and trained and resolve.process(asked) != resolve.process(trained):
        warnings.warn(
            f"the weights were trained on {trained}, not on {asked} as requested here.", stacklevel=2
        )
    return asked or trained or None


def _refuse_idle(
    comparison: Comparison, weights: WeightsOptions, training: dict[str, Any], protocol: dict[str, Any]
) -> None:
    """Raises UserError for options that contradict one another or would do nothing."""
    if comparison.scale and not comparison.suite:
        names = "|".join(suites.names())
        raise UserError(f"--scale {comparison.scale} is of a suite: give --suite {names}.")
    if weights.evaluate_only:
        if weights.init_from:
            raise UserError("--init-from trains and --evaluate-only does not: give one of them.")
        for name in ("method", "backbone"):
            if getattr(comparison, name):
                raise UserError(
                    f"--{name} says what to train, --evaluate-only trains nothing: leave one out."
                )
        for name in sorted(_ONLY_FOR_TRAINING & training.keys()):
            raise UserError(
                f"{_flag(name)} is for training, --evaluate-only trains nothing: leave one of them out."
            )
    elif weights.family and not weights.init_from:
        raise UserError(
            "--family says whose code wrote a file: give --init-from FILE or --evaluate-only FILE."
        )
    if protocol.get("guidance_scale") == 1:
        for name in ("guidance_interval", "guidance_channels"):
            if name in protocol:
                raise UserError(f"{_flag(name)} does nothing with --guidance-scale 1, which is no guidance.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _refuse_without_reference(dataset: Dataset) -> None:
    """Raises UserError if samples of the data set could be compared with nothing that is here."""
    if not dataset.available and not dataset.reference_file:
        name = dataset.name
        raise UserError(
            f"there is no store of {name} here to compare samples with: name a file of reference statistics "
            f"or images, --data '{name}[reference=FILE.npz]', or make the store, python -m bench.prepare"
        )


def _refuse_other_weights(spec: RunSpec, dataset: Dataset, start: Start | None) -> None:
    """Raises UserError if the file is of another network, or of other images or classes, than the run."""
    if start is None:
        return
    shape = dataset.shape
    if (spec.backbone, shape) != (start.backbone, start.shape):
        raise UserError(
            f"{start.weights.path} holds {start.found}; this run is of {spec.backbone} on {spec.data}, "
            f"inputs {shape.channels} x {shape.size} x {shape.size}, {shape.classes} classes: choose another "
            "--backbone or --data."
        )


def refuse_idle_guidance(spec: RunSpec, channels: int) -> None:
    """Raises UserError for guidance that the network of a run, of so many channels, cannot follow."""
    protocol = spec.protocol
    if protocol.guidance_scale == 1:
        return
    if spec.training.steps and spec.training.label_dropout == 0 and not spec.weights:
        raise UserError(
            f"guidance_scale={protocol.guidance_scale:g} needs a network that was also trained without "
            "labels: raise --label-dropout above 0, or leave guidance out."
        )
    if protocol.guidance_channels > channels:
        raise UserError(
            f"guidance_channels={protocol.guidance_channels} are more than the {channels} of {spec.data}; 0 "
            "guides all."
        )
