"""Small networks of this suite: teachers, reward networks and metric networks for small images.

Those of the embedded digits and of CIFAR-10 at 16x16 ship with the package, so that they are the same on
every machine; `python -m bench.nets.local NAME` trains one anew in their place. Others are trained on first
use, minutes on CIFAR-10, and kept in the cache folder under a fingerprint of everything that made them, the
content of a store included. Each must reach its recipe's accuracy on the held-out part.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.core.errors import UserError, unknown
from bench.core.files import refuse_unwritable, replacing
from bench.core.machine import cache_folder
from bench.core.progress import progress_bar
from bench.core.seeding import data_order, generator, seed_of
from bench.data import datasets
from bench.data.base import Records, Shape
from bench.nets.base import with_channels
from bench.nets.recipes import QUARTERS, RECIPES, ConvolutionalRecipe, TransformerRecipe

SHIPPED = Path(__file__).parent / "shipped"


class NetOutput(NamedTuple):
    """Output of a local network."""

    maps: tuple[Tensor, ...]  # feature map after each layer, [B, C_l, H_l, W_l]
    pooled: Tensor  # [B, D]: mean of the last map, or class token
    logits: Tensor  # [B, classes], or [B, 4] of rotations


class ConvolutionalNet(nn.Module):
    """Convolutions with batch norm, average pooling, and a linear classifier."""

    def __init__(self, recipe: ConvolutionalRecipe, shape: Shape) -> None:
        super().__init__()
        self.recipe, self.channels = recipe, shape.channels
        widths = (shape.channels, *recipe.widths)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, recipe.kernel, padding=recipe.kernel // 2, bias=False)
            for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in recipe.widths)
        self.classifier = nn.Linear(recipe.widths[-1], recipe.outputs(shape.classes))

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

    def fused(self) -> ConvolutionalNet:
        """The same function in eval mode, other last digits: batch norms are part of the convolutions.

        The channels of a position lie side by side in memory, which is faster on a CPU.
        """
        fused = copy.deepcopy(self)
        for place, norm in enumerate(self.norms):
            convolution = self.convolutions[place]
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            fused.convolutions[place] = fuse_conv_bn_eval(convolution, norm)
            fused.norms[place] = nn.Identity()
        return fused.to(memory_format=torch.channels_last)


class TransformerNet(nn.Module):
    """timm's vision transformer for small images, with a 3x3 convolution before its patches.

    It then trains on few images (Xiao et al. 2021, arXiv 2106.14881).
    """

    def __init__(self, recipe: TransformerRecipe, shape: Shape) -> None:
        super().__init__()
        from timm.layers.patch_embed import PatchEmbed
        from timm.models.vision_transformer import VisionTransformer

        class Stem(PatchEmbed):
            def __init__(self, *, in_chans: int, embed_dim: int, patch_size: int, **options: Any) -> None:
                super().__init__(in_chans=in_chans, embed_dim=embed_dim, patch_size=patch_size, **options)
                self.proj = nn.Sequential(  # type: ignore[assignment]
                    nn.Conv2d(in_chans, embed_dim // 2, 3, padding=1),
                    nn.GELU(),
                    nn.Conv2d(embed_dim // 2, embed_dim, patch_size, patch_size),
                )

        self.recipe, self.channels, self.size = recipe, shape.channels, shape.size
        self.transformer: Any = VisionTransformer(
            img_size=shape.size,
            patch_size=recipe.patch,
            in_chans=shape.channels,
            num_classes=recipe.outputs(shape.classes),
            embed_dim=recipe.width,
            depth=recipe.depth,
            num_heads=recipe.heads,
            mlp_ratio=recipe.mlp_ratio,
            embed_layer=Stem,
            weight_init="jax",  # of Xavier: the default is too small for narrow networks
        )

    def forward(self, images: Tensor) -> NetOutput:
        """Images [B, C, S, S] in [-1, 1], S the size of the data set. Raises UserError for another size."""
        _refuse_size("this network", self.size, images.shape[-2:])
        blocks = list(range(self.recipe.depth))
        tokens, maps = self.transformer.forward_intermediates(images, indices=blocks)
        return NetOutput(tuple(maps), tokens[:, 0], self.transformer.forward_head(tokens))


LocalNet = ConvolutionalNet | TransformerNet


def local_net(name: str, device: torch.device | str = "cpu") -> LocalNet:
    """The frozen network of that name, in eval mode; it is trained if there are no weights yet.

    Raises:
        UserError: for an unknown name, if its data set is not there, and if it does not reach the required
            accuracy.
    """
    path = weight_file(name)
    net = _initialised(name)
    if path is not None:
        try:
            net.load_state_dict(load_file(path))
        except (
            FileNotFoundError,
            SafetensorError,
            RuntimeError,
        ):  # not trained yet, or damaged
            train(name, path)
            net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False).to(device)


def weight_file(name: str) -> Path | None:
    """Path of the weights of a local network, which may not exist yet; None if it is never trained.

    Raises:
        UserError: for an unknown name.
    """
    if name not in RECIPES:
        raise unknown("local network", name, RECIPES)
    recipe = RECIPES[name]
    if recipe.epochs == 0:
        return None
    _, _, prepared = datasets.get(recipe.data).identity.partition("@")
    made_of = f"{recipe.fingerprint}-{prepared}" if prepared else recipe.fingerprint
    shipped = SHIPPED / f"{name}-{made_of}.safetensors"
    return shipped if shipped.is_file() else cache_folder() / shipped.name


def refuse_images(name: str, channels: int, size: int) -> None:
    """Raises UserError if a local network does not support images of this number of channels and size."""
    recipe = RECIPES[name]
    shape = datasets.get(recipe.data).shape
    with_channels(torch.empty(0, channels, size, size), shape.channels, name)
    if isinstance(recipe, TransformerRecipe):
        _refuse_size(name, shape.size, (size, size))


def _refuse_size(name: str, size: int, found: tuple[int, ...]) -> None:
    if found != (size, size):
        raise UserError(
            f"{name} takes images of {size} x {size} pixels, these have {found[0]} x {found[1]}: "
            "resize them, or leave that network out."
        )


def train(name: str, path: Path, device: torch.device | str = "cpu") -> None:
    """Train a local network and save it.

    Raises:
        UserError: if it does not reach its accuracy, and before it is trained if it cannot be saved.
    """
    refuse_unwritable(path.parent, "name another folder of the cache in $ALIGNMENT_BENCH_CACHE")
    net, recipe = _initialised(name), RECIPES[name]
    data = datasets.get(recipe.data).open()
    _train(name, net.to(device), data, device)
    reached = accuracy(net.cpu(), data)
    print(f"trained {name}: {reached:.1%} of the held-out images classified right", flush=True)
    if reached < recipe.required_accuracy:
        raise UserError(
            f"{name} reaches {reached:.1%} on held-out images, {recipe.required_accuracy:.0%} is "
            f"required; this torch ({torch.__version__}) may train it badly: report it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        save_file(net.state_dict(), unfinished)


def _initialised(name: str) -> LocalNet:
    recipe = RECIPES[name]
    shape = datasets.get(recipe.data).shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(recipe.seed, "local net"))
        if isinstance(recipe, TransformerRecipe):
            return TransformerNet(recipe, shape)
        assert isinstance(recipe, ConvolutionalRecipe)
        return ConvolutionalNet(recipe, shape)


def _train(name: str, net: LocalNet, data: Records, device: torch.device | str) -> None:
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
        images, label = batch.x0, batch.label
        if recipe.task == "rotations":
            label = torch.randint(len(QUARTERS), label.shape, generator=draw)
            images = turned(images, label)
        # Small shifts keep the class and keep the images from being memorised.
        margin, size = recipe.shift, data.size
        row, column = torch.randint(2 * margin + 1, (2,), generator=draw).tolist()
        padded = F.pad(images, (margin,) * 4, value=-1.0)
        seen = padded[..., row : row + size, column : column + size]
        if recipe.mirror and torch.rand((), generator=draw) < 0.5:
            seen = seen.flip(-1)
        loss = F.cross_entropy(net(seen.to(device)).logits, label.to(device), label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.update()
    bar.close()
    net.eval()


def turned(images: Tensor, quarters: Tensor) -> Tensor:
    """Square images [B, C, S, S], each turned by its number of quarters [B], anticlockwise."""
    result = images.clone()
    for quarter in QUARTERS[1:]:
        result[quarters == quarter] = images[quarters == quarter].rot90(quarter, dims=(2, 3))
    return result


@torch.no_grad()
def accuracy(net: LocalNet, data: Records) -> float:
    """Accuracy on the held-out reference images."""
    images, labels = data.reference()
    if net.recipe.task == "rotations":
        labels = torch.arange(len(images)) % len(QUARTERS)
        images = turned(images, labels)
    right = [
        net(image.float() / 127.5 - 1).logits.argmax(dim=1) == label
        for image, label in zip(images.split(1000), labels.split(1000), strict=True)
    ]
    return torch.cat(right).float().mean().item()


if __name__ == "__main__":
    import sys

    for chosen in sys.argv[1:]:
        if path := weight_file(chosen):
            train(chosen, SHIPPED / path.name)
