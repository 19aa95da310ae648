"""Train a small autoencoder on a store of pixels, to study on one CPU what ImageNet needs: latents.

    python -m bench.prepare cifar10.zip --output stores/cifar10 --size 32
    python examples/train_autoencoder.py --data cifar10 --output stores/cifar10-autoencoder
    python -m bench.prepare cifar10.zip --output stores/cifar10-latents --size 32 \\
        --vae stores/cifar10-autoencoder

The network is diffusers' AutoencoderKL. Every width but the first halves the map, so that images of 32x32
pixels with three widths become latents of 8x8. With images x in [-1, 1], the posterior N(m, s^2) of z, and
x' the decoded sample, the loss is

    mean (x' - x)^2 + EDGES mean |grad (x' - x)| + KL mean KL(N(m, s^2), N(0, 1))

with grad the differences of neighbouring pixels. The scale of the latents is 1 / std(z) over training images.
The same command continues after an interruption, with the same numbers as without one.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from bench.core.errors import UserError, exit_code
from bench.core.files import json_hash, replacing
from bench.core.progress import progress_bar
from bench.core.seeding import data_order, generator, seed_of
from bench.data import datasets
from bench.data.base import Records
from bench.data.vae import VAE

SAVE_EVERY = 200  # steps
UNFINISHED = ".unfinished.pt"  # after the folder's name: weights and moments, for continuing
SCALE_IMAGES = 1024  # training images that the scale of the latents is measured on
MEASURED = 2000  # reference images that the reconstruction is measured on


@dataclass(frozen=True)
class Options:
    """An autoencoder and its training."""

    output: Path
    """folder of the autoencoder, as `bench.prepare --vae` reads it"""
    data: str = "cifar10"
    """data set of colour pixels: its training images train, its reference images measure"""
    widths: tuple[int, ...] = (16, 32, 64)
    """channels of the blocks, multiples of 4"""
    latent_channels: int = 4
    """channels of the latents"""
    steps: int = 3000
    """optimiser steps"""
    batch_size: int = 16
    """images per step"""
    learning_rate: float = 1e-3
    """of AdamW: rises during a twentieth of the training, then falls to zero as a cosine"""
    edges: float = 0.1
    """weight of the L1 distance of image gradients"""
    kl: float = 1e-3
    """weight of the KL divergence, per element of the latents"""
    seed: int = 0
    """of weights, order of images, and samples of latents"""
    reconstructions: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """write the decoded reference images, for bench.evaluate: their FID is the floor of a study on latents"""


def main() -> None:
    """Train, save, measure on the reference images."""
    options = tyro.cli(Options, description=__doc__)
    data = datasets.get(options.data).open()
    halvings = len(options.widths) - 1
    if data.channels != 3 or data.image_size != data.size or data.size % (1 << halvings):
        raise UserError(
            f"the data set {options.data} must hold pixels in three channels, and its size must be one that "
            f"can be halved {halvings} times."
        )
    if not options.output.is_dir():
        net = train(options, data)
        net.register_to_config(scaling_factor=1 / spread(net, data, options.seed))
        with replacing(options.output) as unfinished:
            net.save_pretrained(unfinished)
        _unfinished(options).unlink(missing_ok=True)
    vae = VAE(str(options.output), torch.device("cpu"))
    images = evenly_spaced(data.reference()[0], MEASURED)
    decoded = reconstructed(vae, images)
    error = images.float().sub(decoded.float()).div(127.5).square().mean().item()
    print(
        f"{options.output}: {sum(p.numel() for p in vae.net.parameters()) / 1e6:.2f} M parameters, scale "
        f"{vae.net.config.scaling_factor:.3f}; {len(images)} reference images: mean square error "
        f"{error:.5f} of values in [-1, 1], PSNR {-10 * np.log10(error / 4):.2f} dB"
    )
    if options.reconstructions:
        with replacing(options.reconstructions.with_suffix(".npz")) as unfinished:
            np.savez(unfinished, decoded.permute(0, 2, 3, 1).numpy())


def train(options: Options, data: Records) -> Any:
    """The trained network; continues from the last saved step of the same options."""
    net, optimizer, first = _start(options, data.size)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar(options.steps, first, "autoencoder", "step") as bar:
        for step in range(first, options.steps):
            optimizer.param_groups[0]["lr"] = options.learning_rate * _schedule(step, options.steps)
            index = data_order(options.seed, len(data), step * options.batch_size, options.batch_size)
            draw = generator(options.seed, "autoencoder", step)
            loss = _loss(net, data.batch(index, draw).x0, draw, options)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update()
            if (step + 1) % SAVE_EVERY == 0:
                state = {"options": _identity(options), "step": step + 1}
                state |= {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
                with replacing(_unfinished(options)) as unfinished:
                    torch.save(state, unfinished)
                bar.set_postfix(loss=f"{loss.item():.4f}")
    return net.eval()


@torch.no_grad()
def spread(net: Any, data: Records, seed: int) -> float:
    """Standard deviation of the elements of z = m + s n over training images."""
    draw = generator(seed, "autoencoder scale")
    index = evenly_spaced(torch.arange(len(data)), SCALE_IMAGES)
    found = [
        net.encode(data.batch(part, draw).x0).latent_dist.sample(generator=draw) for part in index.split(64)
    ]
    return torch.cat(found).std().item()


def evenly_spaced(rows: Tensor, count: int) -> Tensor:
    """At most `count` of the rows, of all classes where they are sorted by class."""
    count = min(count, len(rows))
    return rows[torch.arange(count) * len(rows) // count]


@torch.no_grad()
def reconstructed(vae: VAE, images: Tensor) -> Tensor:
    """Images [N, 3, R, R] uint8, decoded from the means of their posteriors."""
    parts = []
    with progress_bar(len(images), 0, "reconstructions", "img") as bar:
        for part in images.split(128):
            decoded = vae.decode(vae.encode(part)[0]).clamp(-1, 1)
            parts.append(decoded.add(1).mul(127.5).round().to(torch.uint8))
            bar.update(len(part))
    return torch.cat(parts)


def _loss(net: Any, images: Tensor, draw: torch.Generator, options: Options) -> Tensor:
    posterior = net.encode(images).latent_dist
    error = net.decode(posterior.sample(generator=draw)).sample - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()  # kl() sums over an image's elements
    return error.square().mean() + options.edges * edges + options.kl * kl


def _start(options: Options, size: int) -> tuple[Any, torch.optim.Optimizer, int]:
    """Network, optimiser and first step: new, or as saved by an interrupted training of the same options."""
    blocks = len(options.widths)
    torch.manual_seed(seed_of(options.seed, "autoencoder"))
    net: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=options.widths,
        latent_channels=options.latent_channels,
        norm_num_groups=4,
        sample_size=size,
    )
    optimizer = torch.optim.AdamW(net.parameters(), options.learning_rate, weight_decay=1e-4)
    path = _unfinished(options)
    if not path.is_file():
        return net, optimizer, 0
    state = torch.load(path, weights_only=True)
    if state["options"] != _identity(options):
        raise UserError(f"{path} is of a training with other options: delete it, or choose another --output.")
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    return net, optimizer, state["step"]


def _unfinished(options: Options) -> Path:
    """Beside the folder, which exists only when it is complete."""
    return options.output.with_name(options.output.name + UNFINISHED)


def _identity(options: Options) -> str:
    return json_hash({key: str(value) for key, value in asdict(options).items() if key in _DECISIVE})


_DECISIVE = set(Options.__dataclass_fields__) - {"output", "reconstructions"}


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate at a step."""
    return min(1.0, 20 * (step + 1) / steps) * 0.5 * (1 + float(np.cos(np.pi * step / steps)))


if __name__ == "__main__":
    sys.exit(exit_code(main))
