"""Speed of training and sampling: python -m bench.benchmark.steps --method repa --backbone sit-ti sit-s

With --against PATH, our step and sampler beside those of the official code of REPA, SiT or DiT, of which PATH
is a checkout: in turn, with the same weights, on random inputs of the shape of --data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Literal

from rich.markup import escape

from bench.benchmark import alternating, new_table, print_table, seconds_of, with_spread
from bench.core.cli import Device, OptionalInt, OptionalPath, parse
from bench.core.errors import UserError, exit_code

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from bench.config.spec import RunSpec
    from bench.training.trainer import Trainer


@dataclass(frozen=True)
class Options:
    """Runs and number of repetitions."""

    method: tuple[str, ...] = ()
    """methods, as for bench.run (default: baseline); with --against, the method of the official code"""
    backbone: tuple[str, ...] = ("sit-ti",)
    """backbones, as for bench.run"""
    data: str = "digits"
    """data set"""
    batch_size: OptionalInt = None
    """images per step; by default that of the preset"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: that of the preset, else bf16 if the hardware supports it"""
    compile: bool = False
    """compile blocks and projectors of ours, as bench.run --compile does"""
    device: Device = "auto"
    warm_up: int = 3
    """untimed repeats"""
    repeats: int = 15
    """timed repeats"""
    sampling: bool = True
    """only time training; sampling follows the protocol, which can have 250 steps"""
    against: OptionalPath = None
    """checkout of the official code of REPA, SiT or DiT, timed beside ours"""
    against_kind: Literal["auto", "repa", "sit", "dit"] = "auto"
    """whose code it is; auto: told by its files"""
    sampling_steps: int = 250
    """steps of the official code's sampler, with --against"""
    sampling_precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """of our sampling, with --against; the official code samples in fp32"""


def main() -> None:
    """Time every combination and print a table."""
    options = parse(Options, __doc__)

    from bench.core import machine

    device = machine.select_device(options.device)
    training: dict[str, object] = {} if options.precision == "auto" else {"precision": options.precision}
    if options.batch_size:
        training["batch_size"] = options.batch_size
    if options.compile:
        training["compile"] = True
    if options.against:
        time_against(options, options.against, device, training)
    else:
        time_methods(options, device, training)


def time_methods(options: Options, device: torch.device, training: dict[str, object]) -> None:
    """A row for each method on each backbone; steps of the others are timed in turn with the first's."""
    from bench.config import resolve
    from bench.core import grammar, machine

    table = new_table(
        f"{machine.hardware(device)}, {options.data}",
        ["method", "backbone", "batch", "precision"],
        ["FLOPs", "training step", "of the first", "training img/s", "sampling img/s"],
    )
    native = machine.native_precision(device)
    methods = [name for text in options.method or ("baseline",) for name in grammar.expand(text)]
    for backbone in options.backbone:
        first: Callable[[], object] | None = None
        for method in methods:
            run = resolve.run_spec(
                method, backbone, options.data, 0, native_precision=native, training=training
            )
            trainer = new_trainer(run, device)
            step, ratio = step_of(trainer), ""
            works = {"this": step, "first": first} if first else {"this": step}
            seconds = alternating(works, device, options.warm_up, options.repeats)
            if first:
                pairs = zip(seconds["this"], seconds["first"], strict=True)
                ratio = f"{with_spread([this / other for this, other in pairs])} x"
            first = first or step
            sampling = time_sampling(trainer, run, device) if options.sampling else []
            size = run.training.batch_size
            table.add_row(
                escape(method),
                escape(run.backbone),
                str(size),
                run.training.precision,
                f"{trainer.flops_per_step:.4g}",
                f"{with_spread([1e3 * each for each in seconds['this']])} ms",
                ratio,
                with_spread([size / each for each in seconds["this"]]),
                with_spread([size / each for each in sampling]) if sampling else "",
            )
    print_table(table)


def time_against(options: Options, path: Path, device: torch.device, training: dict[str, object]) -> None:
    """Two rows for each backbone, a training step and a batch of samples, of ours and of the official code.

    Raises UserError if that is no such code, lacks a module, or computes other numbers.
    """
    from bench.benchmark import against, official_code
    from bench.core import machine

    code = official_code.kind_of(path, options.against_kind)(path)
    if options.method:
        raise UserError(f"{path} trains {code.trains}, which is what is timed: leave --method out.")
    table = new_table(
        f"{machine.hardware(device)}, random inputs of {options.data}, official code of {code.kind}",
        ["what", "backbone", "batch", "precision"],
        ["ours", "official", "ours / official"],
    )
    for backbone in options.backbone:
        native = machine.native_precision(device)
        pair = against.Pair(code, backbone, options.data, device, training, native)
        found = against.in_words(pair.differences())
        print(f"{backbone}: same numbers as {path}, largest relative differences: {found}", flush=True)
        kind, size = pair.run.training.precision, str(pair.run.training.batch_size)
        step = pair.time_training(options.warm_up, options.repeats)
        table.add_row(f"step of {code.trains}", pair.run.backbone, size, kind, *step.figures())
        drawn = (
            pair.time_sampling(options.sampling_steps, 3, options.sampling_precision)
            if options.sampling
            else None
        )
        if drawn:
            what = f"sampling, {options.sampling_steps} steps"
            table.add_row(what, pair.run.backbone, size, options.sampling_precision, *drawn.figures())
    print_table(table)


def new_trainer(run: RunSpec, device: torch.device) -> Trainer:
    """A trainer that takes the teacher's features as cached, whatever they are."""
    from bench.training.trainer import Trainer

    trainer = Trainer(run, device)
    for cache in trainer.frozen.feature_caches:
        cache.pretend()
    return trainer


def step_of(trainer: Trainer) -> Callable[[], object]:
    """A function that takes the next training step."""
    steps = count()
    return lambda: trainer.step(next(steps))


def time_sampling(trainer: Trainer, run: RunSpec, device: torch.device) -> list[float]:
    """Seconds of sampling a training batch's number of images by the run's protocol."""
    import torch

    from bench.evaluation import sampling

    index = torch.arange(run.training.batch_size)
    return seconds_of(
        lambda: list(sampling.stream(trainer.ema, trainer.process, run, trainer.data, index)), device, 1, 3
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
