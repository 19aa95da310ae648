"""Estimated cost of planned runs on this machine: parameters, FLOPs, time, memory, disk.

Small models are timed for a few steps; for others, time is estimated from FLOPs and the measured speed of a
matrix product, and marked `~`. Memory is an estimate of the backbone's: weights, EMA and two Adam moments,
and the larger of activations and of gradients with the optimiser's workspace (`bench.benchmark.memory`
compares it with what is measured). FLOPs of large models are those of the backbone with extra state, recorded
attention and the forward pass of the EMA; those of small ones are counted as executed, encoders and rewards
included.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backbones.cost import counted_step
from bench.config import resolve
from bench.config.spec import RunSpec
from bench.core import distributed, machine
from bench.core.errors import UserError
from bench.core.files import in_units
from bench.core.parallel import UNDIVIDED, Parallelism
from bench.core.progress import duration
from bench.data import datasets
from bench.evaluation import sampling
from bench.runs import networks
from bench.runs.record import RunRecord

MEASURED_BELOW = 2e11  # FLOPs of a step, less than a second on a laptop
WARM_UP, TIMED = 2, 5  # steps
KEPT = {"fp32": 81, "bf16": 50}  # bytes per token and unit of width that a block keeps for the backward pass
EFFICIENCY = 0.5  # of a training step relative to a large matrix product
H100 = 1.2e14  # FLOP/s of one in training: SiT-XL/2, 5.4 steps/s of 256 images on eight (arXiv 2410.06940)


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a run."""

    parameters: int  # of the backbone
    flops_per_step: float
    step_seconds: float
    measured: bool
    total_seconds: float  # training and evaluations
    memory: int  # bytes
    disk: int  # bytes of its checkpoints, at most
    total_flops: float  # training and evaluations


def estimate_all(
    specs: Sequence[RunSpec],
    device: torch.device,
    parallelism: Parallelism = UNDIVIDED,
    one_thread: Collection[RunSpec] = (),
) -> list[Cost]:
    """The cost of each run on this machine; runs that only differ in their seed are estimated once.

    Runs in `one_thread` have one thread.
    """
    precisions = {spec.training.precision for spec in specs}
    peaks = {precision: machine.matrix_product_speed(device, precision) for precision in precisions}
    costs: dict[RunSpec, Cost] = {}
    for spec in specs:
        if (alike := _any_seed(spec)) not in costs:
            with machine.one_thread() if spec in one_thread else nullcontext():
                costs[alike] = estimate(spec, device, peaks[spec.training.precision], parallelism)
    return [costs[_any_seed(spec)] for spec in specs]


def _any_seed(spec: RunSpec) -> RunSpec:
    return spec.model_copy(update={"seed": 0})


def estimate(spec: RunSpec, device: torch.device, peak: float, parallelism: Parallelism = UNDIVIDED) -> Cost:
    """The cost of a run on a device with `peak` FLOP/s for matrix products."""
    dataset, training, protocol = datasets.get(spec.data), spec.training, spec.protocol
    data = dataset.shape
    architecture = resolve.architecture(spec.backbone)
    parameters = architecture.parameters(data.size, data.channels, data.classes)
    forward = architecture.flops(data.size, data.channels)  # of one image
    flops = float(_of_a_step(spec) * training.batch_size)
    step_seconds, measured = flops / (peak * EFFICIENCY), False
    if flops < MEASURED_BELOW and training.steps and dataset.available:
        flops, step_seconds, measured = *_measure(spec, device), True
    sampling_flops = sampling.network_calls(spec) * forward * protocol.samples  # FLOPs
    evaluations = max(1, -(-training.steps // training.evaluate_every))
    # Two checkpoints are kept, one is being written: weights, EMA, two moments.
    disk = 3 * 16 * parameters if training.steps else 4 * parameters
    return Cost(
        parameters=parameters,
        flops_per_step=flops,
        step_seconds=step_seconds,
        measured=measured,
        total_seconds=training.steps * step_seconds + evaluations * sampling_flops * step_seconds / flops,
        memory=memory(spec, parallelism),
        disk=disk,
        total_flops=training.steps * flops + evaluations * sampling_flops,
    )


def _of_a_step(spec: RunSpec) -> int:
    """FLOPs of the backbone in a training step, of one image; encoders and rewards are left out."""
    data, architecture = datasets.get(spec.data).shape, resolve.architecture(spec.backbone)
    plain = 3 * architecture.flops(data.size, data.channels)  # a backward costs two forwards
    if not spec.training.steps:
        return plain
    method, _ = networks.built(spec)
    needs, extras = method.needs(0, spec.training.steps), method.extras()
    if not (extras or needs.ema or needs.attention_depths):
        return plain  # without a network to count on, which takes seconds to import
    count = partial(counted_step, architecture, data.size, data.channels)
    try:
        return plain - count() + count(extras, ema=needs.ema, attention_depths=needs.attention_depths)
    except ValueError as error:
        raise UserError(f"{spec.method} on {spec.backbone}: {error}.") from None


def memory(spec: RunSpec, parallelism: Parallelism = UNDIVIDED) -> int:
    """Bytes in use at most, the interpreter, encoders and rewards not counted."""
    training, architecture = spec.training, resolve.architecture(spec.backbone)
    data = datasets.get(spec.data).shape
    parameters = architecture.parameters(data.size, data.channels, data.classes)
    hidden = architecture.width * math.prod(
        architecture.grid(data.size)
    )  # values of an image between two blocks
    if not training.steps:  # the file, the network and its EMA; one block's activations at a time
        guided = 1 if spec.protocol.guidance_scale == 1 else 2
        return 12 * parameters + KEPT["fp32"] * hidden * sampling.BATCH_SIZE * guided
    rows = parallelism.micro_batches(training.batch_size)[0]
    of_a_block = KEPT[training.precision] * hidden * (rows.stop - rows.start)
    if parallelism.recompute:  # what blocks receive, and one block at a time
        activations = 4 * hidden * (rows.stop - rows.start) * architecture.depth + of_a_block
    else:
        activations = of_a_block * architecture.depth
    held = parameters // (distributed.world_size() if parallelism.fsdp else 1)
    copies = 2 * parameters if training.precision == "bf16" else 0  # of autocast
    # Weights, EMA and two moments stay. Gradients come as activations go, then the optimiser's workspace.
    return max(16 * held + copies + activations, 24 * held)


def _measure(spec: RunSpec, device: torch.device) -> tuple[float, float]:
    """FLOPs and median seconds of a training step, with a learning rate at which nothing diverges."""
    from bench.training.trainer import (
        Trainer,  # takes seconds to import, which large models need not wait for
    )

    training = spec.training.model_copy(update={"learning_rate": 1e-12})
    trainer, seconds = Trainer(spec.model_copy(update={"training": training}), device), []
    for cache in trainer.frozen.feature_caches:
        cache.pretend()
    for step in range(WARM_UP + TIMED):
        start = machine.synchronise(device)
        trainer.step(step)
        seconds.append(machine.synchronise(device) - start)
    return trainer.flops_per_step, statistics.median(seconds[WARM_UP:])


def show(
    specs: Sequence[RunSpec],
    costs: Sequence[Cost],
    root: Path,
    device: torch.device,
    beside: Collection[RunSpec] = (),
    at_once: int = 1,
) -> None:
    """Print the plan: a table with a line per method and backbone, and the total cost.

    Runs in `beside` run `at_once` at a time.
    """
    console = Console()
    if not console.is_terminal:
        console.width = 110
    console.print(_table(specs, costs, root, device))
    remaining = _remaining(specs, costs, root, beside, at_once)
    training = specs[0].training
    steps = ", ".join(map(str, sorted({spec.training.steps for spec in specs})))
    work = f"{steps} steps of {training.batch_size} images in {training.precision}"
    if not training.steps:
        work = f"no training, {specs[0].protocol.samples} samples"
    lines = [
        f"{work}; about {duration(remaining)} in all. FLOPs are a step's; ~ is an estimate, the rest was "
        "measured."
    ]
    hours, disk = sum(cost.total_flops for cost in costs) / H100 / 3600, max(cost.disk for cost in costs)
    if hours >= 1:
        lines += [
            f"H100s take about {hours:,.0f} GPU-hours in all, at {H100 / 1e12:.0f} TFLOP/s each as REPA's "
            f"authors report. Checkpoints take up to {in_units(disk)} per run."
        ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _table(specs: Sequence[RunSpec], costs: Sequence[Cost], root: Path, device: torch.device) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    table.title = f"{len(specs)} runs on {machine.hardware(device)} -> {root}"
    table.add_column("method", overflow="fold", min_width=12)
    table.add_column("backbone", no_wrap=True)
    for column in ("seeds", "done", "params", "FLOPs", "s/step", "total", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    groups: dict[RunSpec, list[tuple[RunSpec, Cost]]] = {}
    for spec, cost in zip(specs, costs, strict=True):
        groups.setdefault(_any_seed(spec), []).append((spec, cost))
    for group in groups.values():
        spec, cost = group[0]
        shares = [_share_done(root / run.run_id) for run, _ in group]
        total = cost.total_seconds * (len(group) - sum(shares))
        table.add_row(
            escape(spec.method),
            escape(spec.backbone),
            str(len(group)),
            f"{sum(shares) / len(group):.0%}",
            f"{cost.parameters / 1e6:.1f} M",
            f"{cost.flops_per_step:.2g}",
            f"{'' if cost.measured else '~'}{cost.step_seconds:.2g}",
            f"~{duration(total)}",
            f"~{in_units(cost.memory)}",
        )
    return table


def _remaining(
    specs: Sequence[RunSpec], costs: Sequence[Cost], root: Path, beside: Collection[RunSpec], at_once: int
) -> float:
    """Seconds that all runs still take."""
    left = {
        spec: cost.total_seconds * (1 - _share_done(root / spec.run_id))
        for spec, cost in zip(specs, costs, strict=True)
    }
    together = [left[spec] for spec in beside]
    longest = max(together, default=0.0)
    return sum(left.values()) - sum(together) + max(longest, sum(together) / at_once)


def refuse_what_does_not_fit(costs: list[Cost], folder: Path, device: torch.device) -> None:
    """Raises UserError if a run needs more memory than the device has, or more disk than is free."""
    available, needed = machine.available_memory(device), max(cost.memory for cost in costs)
    if needed > available:
        raise UserError(
            f"the largest run takes about {in_units(needed)}, this machine has {in_units(available)} "
            "available: choose a smaller --backbone or --batch-size."
        )
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, max(cost.disk for cost in costs)
    if needed > free:
        raise UserError(
            f"checkpoints take up to {in_units(needed)}, {existing} has {in_units(free)} free: "
            "choose another --results or make room."
        )


def _share_done(run: Path) -> float:
    status = RunRecord(run).status()
    return 1.0 if status.finished else status.step / max(1, status.steps)
