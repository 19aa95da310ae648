"""Memory of training beside the plan's estimate: python -m bench.benchmark.memory --backbone sit-s sit-l

Trains on random latents in a process of its own for each row, with and without activation checkpointing.
Measured is the peak of that process on the CPU less that of a process that trains a tiny network, which is
the interpreter's. `bench.run --dry-run` prints the same estimates.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from bench.benchmark import new_table, print_table
from bench.benchmark.apart import seconds_and_bytes
from bench.core.cli import parse
from bench.core.errors import exit_code

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 2  # the first allocates the optimiser's moments
TINY = "sit-pico"


@dataclass(frozen=True)
class Options:
    """What is trained."""

    backbone: tuple[str, ...] = ("sit-s", "sit-b", "sit-l")
    """backbones, as for bench.run"""
    method: str = "baseline"
    """method; encoders are not loaded, their tokens are random"""
    data: str = "imagenet256"
    """data set, of which only the shape counts"""
    batch_size: int = 8
    """images per step"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of matrix products"""


def main() -> None:
    """Print a table with two rows for each backbone."""
    options = parse(Options, __doc__)

    from bench.config import resolve
    from bench.core.files import in_units
    from bench.core.parallel import Parallelism
    from bench.launch.cost import memory

    table = new_table(
        f"Memory of a training step, {options.method}, {options.batch_size} images, {options.precision}",
        ["backbone", "activations"],
        ["estimated", "measured", "estimated / measured", "seconds a step"],
    )
    # Freed memory goes back to the system at once, so that the peak is what is in use; glibc reads it when
    # the process that measures starts.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    training = {"batch_size": options.batch_size, "precision": options.precision}
    tiny = resolve.run_spec(options.method, TINY, options.data, 0, training=training)
    _, interpreter = seconds_and_bytes(partial(steps, tiny.model_dump_json(), False))
    for backbone in options.backbone:
        spec = resolve.run_spec(options.method, backbone, options.data, 0, training=training)
        for recompute in (False, True):
            estimated = memory(spec, Parallelism(recompute=recompute))
            seconds, peak = seconds_and_bytes(partial(steps, spec.model_dump_json(), recompute))
            measured = peak - interpreter
            table.add_row(
                backbone,
                "computed twice" if recompute else "kept",
                in_units(estimated),
                in_units(int(measured)),
                f"{estimated / measured:.2f}",
                f"{seconds / STEPS:.3g}",
            )
    print_table(table)


def steps(spec: str, recompute: bool) -> Callable[[], object]:
    """Training steps of a run, given as JSON, on random inputs."""
    import torch

    from bench.benchmark.random_inputs import CLASSES, RandomEncoder, RandomRecords
    from bench.config import resolve
    from bench.config.spec import RunSpec
    from bench.core.parallel import Parallelism
    from bench.data import datasets
    from bench.training.trainer import Trainer

    run, cpu = RunSpec.model_validate_json(spec), torch.device("cpu")
    size, shape = run.training.batch_size, datasets.get(run.data).shape._replace(classes=CLASSES)
    grid = resolve.architecture(run.backbone).grid(shape.size)
    data, encoder = RandomRecords(shape, size), RandomEncoder(grid, size, cpu)
    trainer = Trainer(run, cpu, Parallelism(recompute=recompute), data=data, encoder=encoder)

    def train() -> None:
        for step in range(STEPS):
            trainer.step(step)

    return train


if __name__ == "__main__":
    sys.exit(exit_code(main))
