"""Small convolutional nets, trained here: teachers, reward nets and judges of data sets of small images.

A teacher must never judge itself, so the nets of a data set differ in architecture and in seed. Each is
trained once on the training part (seconds on the digits, minutes on CIFAR-10), must reach its recipe's
accuracy on the held-out part, and is cached under a fingerprint of everything that made it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.core.errors import UserError, unknown
from bench.core.files import replacing
from bench.core.machine import cache_folder
from bench.core.progress import progress_bar
from bench.core.seeding import data_order, generator, seed_of
from bench.data import datasets
from bench.data.base import Records
from bench.nets.recipes import RECIPES, Recipe


class NetOutput(NamedTuple):
    """What a local net says about images."""

    maps: tuple[Tensor, ...]  # feature map after each convolution, [B, C_l, H_l, W_l]
    pooled: Tensor  # [B, D], mean of the last map
    logits: Tensor  # [B, classes]


class LocalNet(nn.Module):
    """Convolutions with batch norm, halvings of the map, mean pooling, a linear classifier."""

    def __init__(self, recipe: Recipe, channels: int, classes: int) -> None:
        super().__init__()
        self.recipe, self.channels = recipe, channels
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
            if depth in self.recipe.pool_after:
                x = F.avg_pool2d(x, 2)
            maps.append(x)
        pooled = x.mean(dim=(2, 3))
        return NetOutput(tuple(maps), pooled, self.classifier(pooled))


def local_net(name: str, device: torch.device | str = "cpu") -> LocalNet:
    """The net of that name, frozen, in eval mode; trained on first use, then read from the cache.

    Raises UserError for an unknown name, where its data set is not there, and where it does not reach the
    required accuracy.
    """
    if name not in RECIPES:
        raise unknown("local net", name, RECIPES)
    recipe = RECIPES[name]
    dataset = datasets.get(recipe.data)
    shape = dataset.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(recipe.seed, "local net"))
        net = LocalNet(recipe, shape.channels, shape.classes)
    if recipe.epochs == 0:
        return net.eval().requires_grad_(False).to(device)
    _, _, prepared = dataset.identity.partition("@")
    made_of = f"{recipe.fingerprint}-{prepared}" if prepared else recipe.fingerprint
    path = cache_folder() / f"{name}-{made_of}.safetensors"
    try:
        net.load_state_dict(load_file(path))
    except (FileNotFoundError, SafetensorError, RuntimeError):  # never trained, or its writing interrupted
        data = dataset.open()
        _train(name, net, data)
        reached = accuracy(net, data)
        print(f"trained {name}: {reached:.1%} of the held-out images classified right", flush=True)
        if reached < recipe.required_accuracy:
            raise UserError(
                f"{name} reaches {reached:.1%} on held-out images, {recipe.required_accuracy:.0%} is "
                f"required; this torch ({torch.__version__}) may train it badly: report it."
            ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            save_file(net.state_dict(), unfinished)
    return net.eval().requires_grad_(False).to(device)


def _train(name: str, net: LocalNet, data: Records) -> None:
    recipe, records = net.recipe, len(data)
    steps = recipe.epochs * records // recipe.batch_size
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    net.train()
    bar = progress_bar(steps, 0, f"training {name}", "step")
    for step in range(steps):
        index = data_order(recipe.seed, records, step * recipe.batch_size, recipe.batch_size)
        draw = generator(recipe.seed, "augmentation", step)
        batch = data.batch(index, draw)
        # Small shifts keep the class and keep the images from being learnt by heart.
        margin, size = recipe.shift, data.size
        row, column = torch.randint(2 * margin + 1, (2,), generator=draw).tolist()
        padded = F.pad(batch.x0, (margin,) * 4, value=-1.0)
        seen = padded[..., row : row + size, column : column + size]
        if recipe.mirror and torch.rand((), generator=draw) < 0.5:
            seen = seen.flip(-1)
        loss = F.cross_entropy(net(seen).logits, batch.label, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.update()
    bar.close()
    net.eval()


@torch.no_grad()
def accuracy(net: LocalNet, data: Records) -> float:
    """Share of the held-out reference images that the net classifies right."""
    images, labels = data.reference()
    right = [
        net(image.float() / 127.5 - 1).logits.argmax(dim=1) == label
        for image, label in zip(images.split(1000), labels.split(1000), strict=True)
    ]
    return torch.cat(right).float().mean().item()
