"""Training and sampling throughput of the GPU campaign, on random inputs of the largest batch that fits."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.benchmark import against, official_code, seconds_of
from bench.benchmark.gpu_sizes import Sizes
from bench.benchmark.random_inputs import CLASSES, RandomEncoder, RandomRecords
from bench.config import resolve
from bench.config.spec import RunSpec
from bench.core import machine
from bench.core.errors import UserError
from bench.data import datasets
from bench.evaluation import sampling
from bench.training.trainer import Trainer


def time_training(
    sizes: Sizes, method: str, backbone: str, compiled: bool, device: torch.device
) -> dict[str, Any]:
    """Steps on random inputs of the largest batch that fits: `sizes.batch_size`, or a half, a quarter, ..."""
    training = {"compile": True} if compiled else {}

    def attempt(size: int) -> dict[str, Any]:
        run, trainer = _on_random_inputs(sizes, method, backbone, size, device, training)
        steps = iter(range(10**9))
        trainer.prepare(0)  # counts FLOPs, which is not part of a step
        _forget_memory(device)
        seconds = seconds_of(
            lambda: trainer.step(next(steps)), device, sizes.warm_up + compiled, sizes.repeats
        )
        return {
            "batch_size": size,
            "precision": run.training.precision,
            "seconds": median(seconds),
            "fastest": min(seconds),
            "slowest": max(seconds),
            "images_per_second": size / median(seconds),
            "flops_per_second": trainer.flops_per_step / median(seconds),
            "memory": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        }

    return _largest_that_fits(attempt, sizes.batch_size, device)


def time_sampling(sizes: Sizes, backbone: str, precision: str, device: torch.device) -> dict[str, Any]:
    """Samples by REPA's SDE or DiT's DDPM, guided in the interval of REPA's best row."""
    protocol = {
        "sampler_flow": f"repa-sde-250[steps={sizes.sampling_steps}]",
        "sampler_ddpm": f"dit-ddpm-250[steps={sizes.sampling_steps}]",
        "guidance_scale": official_code.REPACode.guidance.scale,
        "guidance_interval": official_code.REPACode.guidance.interval,
        "sampling_precision": precision,
    }

    def attempt(size: int) -> dict[str, Any]:
        run, trainer = _on_random_inputs(sizes, "baseline", backbone, size, device, {}, protocol)
        index = torch.arange(size)

        def draw() -> None:
            list(sampling.stream(trainer.ema, trainer.process, run, trainer.data, index))

        seconds = seconds_of(draw, device, 1, 2)
        return {
            "batch_size": size,
            "steps": sizes.sampling_steps,
            "seconds": median(seconds),
            "images_per_second": size / median(seconds),
        }

    return _largest_that_fits(attempt, sizes.sampled, device)


def time_official(sizes: Sizes, checkout: Path, backbone: str, device: torch.device) -> dict[str, Any]:
    """Our step and sampler beside those of the official code, in turn. Raises UserError as `Pair`."""

    def attempt(size: int) -> dict[str, Any]:
        code = official_code.kind_of(checkout)(checkout)
        training = {"batch_size": size}
        native = machine.native_precision(device)
        pair = against.Pair(code, backbone, sizes.data, device, training, native)
        found: dict[str, Any] = {"batch_size": size, "differences": pair.differences()}
        found["training"] = pair.time_training(sizes.warm_up, sizes.repeats).summary()
        drawn = pair.time_sampling(sizes.sampling_steps, 2)
        return found | ({"sampling": drawn.summary()} if drawn else {})

    return _largest_that_fits(attempt, sizes.batch_size, device)


def _on_random_inputs(
    sizes: Sizes,
    method: str,
    backbone: str,
    size: int,
    device: torch.device,
    training: Mapping[str, Any],
    protocol: Mapping[str, Any] | None = None,
) -> tuple[RunSpec, Trainer]:
    run = resolve.run_spec(
        method,
        backbone,
        sizes.data,
        0,
        native_precision=machine.native_precision(device),
        training={"batch_size": size, **training},
        protocol=dict(protocol or {}),
    )
    shape = datasets.get(sizes.data).shape._replace(classes=CLASSES)
    grid = resolve.architecture(backbone).grid(shape.size)
    encoder = RandomEncoder(grid, size, device)
    return run, Trainer(run, device, data=RandomRecords(shape, size), encoder=encoder)


def _largest_that_fits(
    attempt: Callable[[int], dict[str, Any]], size: int, device: torch.device
) -> dict[str, Any]:
    """`attempt` of the first of size, size / 2, ... that fits into the card's memory."""
    while True:
        _forget_memory(device)
        try:
            return attempt(size)
        except torch.OutOfMemoryError:
            if size == 1:
                raise UserError("one image does not fit into the card's memory.") from None
        size //= 2


def _forget_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
