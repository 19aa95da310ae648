"""Small convolutional nets, trained here in seconds: the teacher and the judge of the embedded data set.

A teacher must never judge itself, so the two differ in architecture and in seed. Each is trained once on
the training part, must reach 97 % accuracy on the held-out part, and is cached under a fingerprint of
everything that made it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import bench.data
from bench import cache
from bench.errors import UserError, unknown
from bench.streams import data_order, generator, seed_of

REQUIRED_ACCURACY = 0.97


@dataclass(frozen=True)
class Recipe:
    """What makes a local net; any change makes another net, with another fingerprint."""

    data: str
    widths: tuple[int, ...]  # channels of the convolutions
    pool_after: int  # the convolution after which the map is halved: the grid of patch tokens
    kernel: int
    activation: str
    seed: int
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 2e-3

    @property
    def fingerprint(self) -> str:
        """12 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]


RECIPES = {
    "digits-teacher": Recipe("digits", (32, 64, 64, 96), pool_after=2, kernel=3, activation="relu", seed=11),
    "digits-untrained": Recipe(  # a control: the teacher's architecture that has learnt nothing
        "digits", (32, 64, 64, 96), pool_after=2, kernel=3, activation="relu", seed=47, epochs=0
    ),
    "digits-cnn": Recipe("digits", (24, 48, 64), pool_after=1, kernel=5, activation="gelu", seed=23),
}


class NetOutput(NamedTuple):
    """What a local net says about images."""

    maps: tuple[Tensor, ...]  # feature map after each convolution, [B, C_l, H_l, W_l]
    pooled: Tensor  # [B, D], mean of the last map
    logits: Tensor  # [B, classes]


class LocalNet(nn.Module):
    """Convolutions with batch norm, one halving of the map, mean pooling, a linear classifier."""

    def __init__(self, recipe: Recipe, channels: int, classes: int) -> None:
        super().__init__()
        self.recipe = recipe
        widths = (channels, *recipe.widths)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, recipe.kernel, padding=recipe.kernel // 2, bias=False)
            for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in recipe.widths)
        self.classifier = nn.Linear(recipe.widths[-1], classes)

    def forward(self, images: Tensor) -> NetOutput:
        """Images [B, C, H, W] in [-1, 1]."""
        activation = getattr(F, self.recipe.activation)
        maps, x = [], images
        for depth, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True), start=1):
            x = activation(norm(convolution(x)))
            if depth == self.recipe.pool_after:
                x = F.avg_pool2d(x, 2)
            maps.append(x)
        pooled = x.mean(dim=(2, 3))
        return NetOutput(tuple(maps), pooled, self.classifier(pooled))


def local_net(name: str, device: torch.device | str = "cpu") -> LocalNet:
    """The net of that name, frozen, in eval mode; trained on first use, then read from the cache.

    Raises UserError for an unknown name, and where it does not reach the required accuracy.
    """
    if name not in RECIPES:
        raise unknown("local net", name, RECIPES)
    recipe = RECIPES[name]
    data = bench.data.load(recipe.data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(recipe.seed, "local net"))
        net = LocalNet(recipe, data.channels, data.classes)
    if recipe.epochs == 0:
        return net.eval().requires_grad_(False).to(device)
    path = cache.folder() / f"{name}-{recipe.fingerprint}.safetensors"
    try:
        net.load_state_dict(load_file(path))
    except (FileNotFoundError, SafetensorError, RuntimeError):  # never trained, or its writing interrupted
        _train(net, data)
        reached = accuracy(net, data)
        print(f"trained {name}: {reached:.1%} of the held-out images classified right")
        if reached < REQUIRED_ACCURACY:
            raise UserError(
                f"{name} reaches {reached:.1%} on held-out images, {REQUIRED_ACCURACY:.0%} is required; "
                f"this torch ({torch.__version__}) may train it badly: report it."
            ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        save_file(net.state_dict(), unfinished)
        unfinished.replace(path)
    return net.eval().requires_grad_(False).to(device)


def _train(net: LocalNet, data: bench.data.Data) -> None:
    recipe, records = net.recipe, len(data)
    steps = recipe.epochs * records // recipe.batch_size
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    net.train()
    for step in range(steps):
        index = data_order(recipe.seed, records, step * recipe.batch_size, recipe.batch_size)
        draw = generator(recipe.seed, "augmentation", step)
        batch = data.batch(index, draw)
        # A one-pixel shift keeps the class and keeps 1,197 images from being learnt by heart.
        row, column = torch.randint(3, (2,), generator=draw).tolist()
        padded, size = F.pad(batch.x0, (1, 1, 1, 1), value=-1.0), data.size
        shifted = padded[..., row : row + size, column : column + size]
        loss = F.cross_entropy(net(shifted).logits, batch.label, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()


@torch.no_grad()
def accuracy(net: LocalNet, data: bench.data.Data) -> float:
    """Share of the held-out reference images that the net classifies right."""
    images, labels = data.reference()
    return (net(images.float() / 127.5 - 1).logits.argmax(dim=1) == labels).float().mean().item()
