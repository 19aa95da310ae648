"""Train, sample and evaluate methods: python -m bench.run --method vrpo --backbone sit-xl

Runs all combinations of methods, backbones and seeds, after printing the plan with its cost; small runs in
parallel. It can be interrupted at any time: the same command continues where it stopped, and skips finished
runs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bench.config.options import Comparison, ProtocolOptions, TrainingOptions, WeightsOptions, given
from bench.core.cli import Device, Results, option, parse
from bench.core.errors import UserError, exit_code
from bench.launch.resources import Launcher, LaunchOptions

if TYPE_CHECKING:
    from bench.config.spec import RunSpec
    from bench.core.parallel import Parallelism

Tracker = Literal["tensorboard", "wandb", "none"]
EARLIER = {
    "--output": "--results",
    "--sampler-sit": "--sampler-flow",
    "--sampler-dit": "--sampler-ddpm",
}


@dataclass(frozen=True)
class ParallelismOptions:
    """Division of a step over micro-batches and processes (torchrun, or --tasks-per-node of a job)."""

    micro_batch: int = 0
    """images per process and pass; 0: its whole share of the batch. Results do not depend on it"""
    shard: bool = False
    """shard weights, EMA and moments over the processes (FSDP2), for models too large for one GPU"""
    activation_checkpointing: bool = False
    """keep only what is between blocks for the backward pass, and compute the rest again: less memory, a
    slower step, the same numbers"""


@dataclass(frozen=True)
class Machine:
    """Device and folder of results."""

    device: Device = "auto"
    results: Results = Path("results")
    track: Annotated[tuple[Tracker, ...], tyro.conf.UseAppendAction, option(metavar="NAME")] = ()
    """tensorboard, wandb or none: copy every row to this tracker as well; may be given several times"""
    dry_run: bool = False
    """print the plan and its cost without running it"""


@dataclass(frozen=True)
class Options:
    comparison: Comparison = field(default_factory=Comparison)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    weights: WeightsOptions = field(default_factory=WeightsOptions)
    protocol: ProtocolOptions = field(default_factory=ProtocolOptions)
    parallelism: ParallelismOptions = field(default_factory=ParallelismOptions)
    machine: Machine = field(default_factory=Machine)
    launch: LaunchOptions = field(default_factory=LaunchOptions)


def main() -> None:
    """Parse, plan, print the plan, run it."""
    options = parse(Options, __doc__, EARLIER)

    from bench.core import distributed

    launcher = options.launch.chosen
    if launcher == "inline" or distributed.is_requested():
        run_here(options)
    else:
        run_as_jobs(options, launcher)


def run_here(options: Options) -> None:
    """Run in this process, or in the processes of torchrun. Raises UserError if any run fails."""
    from bench.core import distributed, machine
    from bench.launch.inline import run_all

    where, parallelism = options.machine, _parallelism(options.parallelism)
    with distributed.process_group(where.device):
        device = machine.select_device(where.device)
        specs, root = plan(options, machine.native_precision(device))
        launch, dry_run, track = options.launch, where.dry_run, where.track
        run_all(specs, root, device, parallelism, launch.evaluate_as, launch.parallel_runs, dry_run, track)


def run_as_jobs(options: Options, launcher: Launcher) -> None:
    """Start the runs as jobs. Raises UserError if they cannot be started, or if one fails."""
    from bench.core import machine
    from bench.launch import slurm, submit

    where, parallelism = options.machine, _parallelism(options.parallelism)
    if launcher == "local":
        gpus = int(machine.select_device(where.device).type == "cuda")
    else:
        gpus = 0 if where.device == "cpu" else slurm.gpus_per_node(options.launch.partition or "")
    # The GPUs of a cluster cannot be queried here; all recent ones multiply bf16 natively.
    here = machine.native_precision(machine.select_device("cpu"))
    specs, root = plan(options, "bf16" if gpus and launcher == "slurm" else here)
    submit.launch(specs, root, options.launch, parallelism, where.device, gpus, where.dry_run, where.track)


def plan(options: Options, native_precision: str) -> tuple[list[RunSpec], Path]:
    """The runs that the options request, and the folder of their results.

    Raises:
        UserError: for whatever is known in advance to fail.
    """
    from bench.config import grid
    from bench.launch import checks

    training = given(options.training)
    if training.get("precision") == "auto":
        del training["precision"]
    specs = grid.plan(
        options.comparison, options.weights, training, given(options.protocol), native_precision
    )
    root = options.machine.results / grid.folder_name(options.comparison)
    checks.refuse_unusable(specs, root, _parallelism(options.parallelism))
    return specs, root


def _parallelism(options: ParallelismOptions) -> Parallelism:
    from bench.core.parallel import Parallelism

    if options.micro_batch < 0:
        raise UserError(f"--micro-batch {options.micro_batch}: give a number of images; 0 is all at once.")
    return Parallelism(options.micro_batch, options.shard, options.activation_checkpointing)


if __name__ == "__main__":
    sys.exit(exit_code(main))
