"""Sampling of images. Sample i only depends on (seed, i), not on its batch or the number of processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from backbones.base import Backbone
from bench.config.spec import RunSpec
from bench.core.compilation import compile_each, refuse_without_compiler
from bench.core.errors import UserError
from bench.core.progress import progress_bar
from bench.core.seeding import generator
from bench.data.base import Records
from bench.diffusion import samplers
from bench.diffusion.guidance import Guidance
from bench.diffusion.objectives import Process
from bench.diffusion.pixels import to_uint8
from bench.evaluation.joint_state import JointState

BATCH_SIZE = 250  # images per pass; results do not depend on it
ADAPTIVE_EVALUATIONS = 100  # about as many as an adaptive sampler takes


class Samples(NamedTuple):
    """A batch of samples."""

    images: Tensor  # [B, C', R, R] uint8
    labels: Tensor  # [B], the requested classes
    indices: Tensor  # [B], their numbers i


@torch.no_grad()
def stream(
    model: Backbone,
    process: Process,
    spec: RunSpec,
    data: Records,
    index: Tensor,
    *,
    labels: Tensor | None = None,
    progress: str = "",
) -> Iterator[Samples]:
    """Draw samples under the protocol of a run, in batches, in its precision.

    Args:
        model: the weights.
        process: the diffusion process.
        spec: the run.
        data: decodes samples.
        index: [N] numbers of the samples.
        labels: [N] their classes; None: chosen by the protocol.
        progress: title of a progress bar; "": none.

    Raises:
        UserError: samples contain NaN or infinity.
    """
    if not len(index):
        return
    protocol = spec.protocol
    sampler = samplers.get(spec.sampler)
    guidance = Guidance(
        protocol.guidance_scale, protocol.guidance_interval, protocol.guidance_channels or None
    )
    if protocol.sampling_compile:
        model = _compiled(model)
    joint = JointState(model) if model.extras else None
    if joint:
        guidance = replace(guidance, channels=None, entries=joint.guided(guidance.channels))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with progress_bar(len(index), 0, progress, "img") if progress else nullcontext() as bar:
        for numbers, rows in zip(
            index.split(BATCH_SIZE), torch.arange(len(index)).split(BATCH_SIZE), strict=True
        ):
            noise_of = _noise_of(numbers.tolist(), spec.seed, data, joint)

            def draw(noise_of: Callable[[], Tensor] = noise_of) -> Tensor:
                return noise_of().to(device)

            if labels is None:
                wanted = requested_labels(numbers, protocol.labels, data.classes, spec.seed)
            else:
                wanted = labels[rows]
            with multiplying_in(protocol.sampling_precision, model, device):
                x0 = sampler.sample(
                    joint or model,
                    draw(),
                    wanted.to(device),
                    process=process,
                    guidance=guidance,
                    step_noise=draw,
                )
            x0 = joint.split(x0)[""] if joint else x0
            pixels = data.to_pixels(x0.float())
            _refuse_not_finite(pixels, numbers)
            yield Samples(to_uint8(pixels, protocol.rounding).cpu(), wanted, numbers)
            if bar:
                bar.update(len(numbers))
    model.train(was_training)


def network_calls(spec: RunSpec) -> int:
    """Passes of the network for one image: two per evaluation of the sampler if it is guided."""
    guided = 1 if spec.protocol.guidance_scale == 1 else 2
    return (samplers.get(spec.sampler).evaluations or ADAPTIVE_EVALUATIONS) * guided


def _compiled(model: Backbone) -> Backbone:
    """A copy whose blocks are compiled, so that other calls of the model stay as they are."""
    refuse_without_compiler(next(model.parameters()).device)
    network = copy.deepcopy(model)
    compile_each(network.blocks)
    return network


@contextmanager
def multiplying_in(precision: str, model: Backbone, device: torch.device) -> Iterator[None]:
    """Matrix products of the network in that precision; the sampler's own sums stay in float32 or float64."""
    before = torch.get_float32_matmul_precision()
    # Autocast keeps its bf16 copies, made once instead of at every step, of trainable weights alone.
    frozen = [weight for weight in model.parameters() if precision == "bf16" and not weight.requires_grad]
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        torch.set_float32_matmul_precision(before)


def _refuse_not_finite(pixels: Tensor, numbers: Tensor) -> None:
    broken = ~pixels.flatten(1).isfinite().all(dim=1).cpu()
    if broken.any():
        raise UserError(
            f"{int(broken.sum())} of samples {int(numbers[0])} to {int(numbers[-1])} hold NaN or infinity, "
            "nothing is scored: the weights are damaged, or training or the sampler has diverged."
        )


def _noise_of(numbers: list[int], seed: int, data: Records, joint: JointState | None) -> Callable[[], Tensor]:
    """A function that draws the next noise of these samples, of the image or of the whole state."""
    streams = [generator(seed, "sampling", number) for number in numbers]
    extras = joint.extra_streams(seed, numbers) if joint else {}

    def drawn(shape: tuple[int, ...], streams: list[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(shape, generator=stream) for stream in streams])

    def draw() -> Tensor:
        image = drawn((data.channels, data.size, data.size), streams)
        if joint is None:
            return image
        parts = {name: drawn(joint.shapes[name], own) for name, own in extras.items()}
        return joint.pack({"": image, **parts})

    return draw


def requested_labels(index: Tensor, rule: str, classes: int, seed: int) -> Tensor:
    """The class label of each sample number [B]: in turn ("balanced") or uniformly random ("random")."""
    if rule == "balanced":
        return index % classes
    streams = [generator(seed, "sampling labels", i) for i in index.tolist()]
    return torch.stack([torch.randint(classes, (), generator=stream) for stream in streams])
