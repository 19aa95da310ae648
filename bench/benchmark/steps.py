"""Speed of training and sampling: python -m bench.benchmark.steps --method repa --backbone sit-ti sit-s"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from bench.benchmark import new_table, print_table, seconds_of, with_spread
from bench.core.cli import Device, OptionalInt, parse
from bench.core.errors import exit_code

if TYPE_CHECKING:
    import torch

    from bench.config.spec import RunSpec


@dataclass(frozen=True)
class Options:
    """Runs and number of repetitions."""

    method: tuple[str, ...] = ("baseline",)
    """methods, as for bench.run"""
    backbone: tuple[str, ...] = ("sit-ti",)
    """backbones, as for bench.run"""
    data: str = "digits"
    """data set"""
    batch_size: OptionalInt = None
    """images per step; by default that of the preset"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: that of the preset, else bf16 if the hardware supports it"""
    device: Device = "auto"
    warm_up: int = 3
    """untimed repeats"""
    repeats: int = 15
    """timed repeats"""
    sampling: bool = True
    """only time training; sampling follows the protocol, which can have 250 steps"""


def main() -> None:
    """Time every combination and print a table."""
    options = parse(Options, __doc__)

    from bench.config import resolve
    from bench.core import grammar, machine

    device = machine.select_device(options.device)
    table = new_table(
        f"{machine.hardware(device)}, {options.data}",
        ["method", "backbone", "batch", "precision"],
        ["FLOPs", "training step", "of the first", "training img/s", "sampling img/s"],
    )
    training: dict[str, object] = {} if options.precision == "auto" else {"precision": options.precision}
    native = machine.native_precision(device)
    if options.batch_size:
        training["batch_size"] = options.batch_size
    for backbone in options.backbone:
        first = 0.0  # seconds of a step of the first method
        for method in [name for text in options.method for name in grammar.expand(text)]:
            run = resolve.run_spec(
                method, backbone, options.data, 0, native_precision=native, training=training
            )
            flops, step, sampling = time_run(run, device, options.warm_up, options.repeats, options.sampling)
            size = run.training.batch_size
            first = first or median(step)
            table.add_row(
                method,
                run.backbone,
                str(size),
                run.training.precision,
                f"{flops:.4g}",
                f"{with_spread([1e3 * seconds for seconds in step])} ms",
                f"{median(step) / first:.2f} x",
                with_spread([size / seconds for seconds in step]),
                with_spread([size / seconds for seconds in sampling]) if sampling else "",
            )
    print_table(table)


def time_run(
    run: RunSpec, device: torch.device, warm_up: int, repeats: int, with_sampling: bool = True
) -> tuple[int, list[float], list[float]]:
    """FLOPs of a training step, seconds of each, and of each sampled batch of the same size by the run's
    protocol; none without `with_sampling`."""
    import torch

    from bench.evaluation import sampling
    from bench.training.trainer import Trainer

    trainer = Trainer(run, device)
    for cache in trainer.frozen.feature_caches:
        cache.pretend()
    steps = iter(range(10**9))
    index = torch.arange(run.training.batch_size)
    training = seconds_of(lambda: trainer.step(next(steps)), device, warm_up, repeats)
    if not with_sampling:
        return trainer.flops_per_step, training, []

    def draw() -> None:
        list(sampling.stream(trainer.ema, trainer.process, run, trainer.data, index))

    return trainer.flops_per_step, training, seconds_of(draw, device, 1, 3)


if __name__ == "__main__":
    sys.exit(exit_code(main))
