"""Train, sample and evaluate methods side by side: python -m bench.run --method vrpo --backbone sit-xl

The grid of methods, backbones and seeds is planned, printed with its cost, and run one after the other.
Interrupt it at any time: the same command continues where it stopped, and finished runs cost nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config.options import Comparison, ProtocolOptions, TrainingOptions, WeightsOptions, given
from bench.core.cli import Device, Results, parse
from bench.core.errors import UserError, exit_code
from bench.launch.resources import Launcher, LaunchOptions

if TYPE_CHECKING:
    from bench.config.spec import RunSpec
    from bench.core.parallel import Parallelism

EARLIER = {
    "--output": "--results",
    "--sampler-sit": "--sampler-flow",
    "--sampler-dit": "--sampler-ddpm",
}


@dataclass(frozen=True)
class ParallelismOptions:
    """How a step is divided: over time, and over processes (torchrun, or --tasks-per-node of a job)."""

    micro_batch: int = 0
    """images that a process holds at once; 0: its whole part of the batch. No result depends on it"""
    shard: bool = False
    """divide weights, EMA and moments over the processes (FSDP2), for models beyond one card"""


@dataclass(frozen=True)
class Machine:
    """Where it runs and where results go."""

    device: Device = "auto"
    results: Results = Path("results")
    dry_run: bool = False
    """print the plan and its cost, run nothing"""


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
    """Run in this process, or in those of torchrun. Raises UserError if any run fails."""
    from bench.core import distributed, machine
    from bench.launch.inline import run_all

    where = options.machine
    parallelism = _parallelism(options.parallelism)
    with distributed.process_group(where.device):
        device = machine.select_device(where.device)
        specs, root = plan(options, machine.native_precision(device))
        run_all(specs, root, device, parallelism, options.launch.evaluate_as, where.dry_run)


def run_as_jobs(options: Options, launcher: Launcher) -> None:
    """Start the runs as jobs. Raises UserError if they cannot be, or any fails while this waits."""
    from bench.core import machine
    from bench.launch import slurm, submit

    where, parallelism = options.machine, _parallelism(options.parallelism)
    if launcher == "local":
        gpus = int(machine.select_device(where.device).type == "cuda")
    else:
        gpus = 0 if where.device == "cpu" else slurm.gpus_per_node(options.launch.partition or "")
    # A cluster's GPUs are not here to be asked; those of the last years multiply bf16 natively.
    here = machine.native_precision(machine.select_device("cpu"))
    specs, root = plan(options, "bf16" if gpus and launcher == "slurm" else here)
    submit.launch(specs, root, options.launch, parallelism, where.device, gpus, where.dry_run)


def plan(options: Options, native_precision: str) -> tuple[list[RunSpec], Path]:
    """The runs that the options ask for, and the folder that they go to.

    Raises UserError for whatever the plan can know not to work.
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
    return Parallelism(options.micro_batch, options.shard)


if __name__ == "__main__":
    sys.exit(exit_code(main))
