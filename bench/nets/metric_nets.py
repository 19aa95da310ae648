"""Feature networks of metrics by name, which give one vector per image.

    pixels       the image itself, 0..1, flattened
    random-conv  a convolutional network with fixed random weights: unrelated to any that was ever trained
    digits-cnn   a small classifier of the embedded data set, never a teacher of the suite's methods
    cifar10-16-rotation   a small network trained without labels, to tell how an image is turned
    inception    the network of the ADM suite (inception.py)
    clean, legacy-pytorch, legacy-tensorflow   clean-fid's (inception.py)
    dinov2-b     and the other networks of timm and open_clip in table.py, `timm:MODEL`, `clip:ARCH/TAG`

The first four need no download. Stein et al. (2023) take FD in dinov2-l.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.data import datasets
from bench.nets import open_clip, table, timm, weights
from bench.nets.base import Activations, FeatureNet, with_channels
from bench.nets.inception import AdmInception, CleanFid
from bench.nets.local import RECIPES, local_net, train, weight_file


def names() -> tuple[str, ...]:
    """The feature networks of the table; there are also `timm:MODEL` and `clip:ARCHITECTURE/TAG`."""
    return table.names("fixed", "local", "inception", "timm", "open_clip")


def feature_nets(
    wanted: Iterable[str], device: torch.device | str = "cpu", files: Mapping[str, Path] | None = None
) -> list[FeatureNet]:
    """The networks of those names without duplicates; `files`: name -> file of weights."""
    return [feature_net(name, device, (files or {}).get(name)) for name in dict.fromkeys(wanted)]


def feature_net(name: str, device: torch.device | str = "cpu", file: Path | None = None) -> FeatureNet:
    """The network of that name; `file`: weights used instead of the cached ones.

    Raises:
        UserError: for an unknown network, and for weights that are absent or of another network.
    """
    library = _library(name)
    if library == "local" or library == "fixed":
        if file:
            raise UserError(f"the feature network {name} takes no file of weights.")
        if library == "local":
            return LocalClassifier(name, device)
        return Pixels() if name == "pixels" else RandomConv(device)
    if name == AdmInception.name:
        return AdmInception(device, file)
    if library == "inception":
        return CleanFid(name, device, file)
    return PretrainedFeatures(name, device, file)


def require(name: str) -> None:
    """Raises UserError for an unknown name and absent weights, without loading."""
    if _library(name) not in ("local", "fixed"):
        weights.find(name)


def checksums(wanted: Iterable[str]) -> dict[str, str]:
    """Network -> first 16 digits of the SHA-256 of its weights, for networks whose weights exist.

    Raises:
        UserError: for an unknown network.
    """
    return {name: found[:16] for name in dict.fromkeys(wanted) if (found := _checksum(name))}


def _checksum(name: str) -> str:
    library, known = _library(name), table.network(name).sha256
    if library == "fixed" or known:
        return known
    try:
        path = weight_file(name) if library == "local" else weights.find(name)
        return weights.digest(path) if path and path.is_file() else ""
    except UserError:  # absent
        return ""


def train_missing(wanted: Iterable[str]) -> None:
    """Train local networks without weights, so that their checksums are known.

    Those whose data set is not here are left out.
    """
    for name in dict.fromkeys(wanted):
        local = _library(name) == "local" and datasets.get(RECIPES[name].data).available
        if local and (path := weight_file(name)) and not path.is_file():
            train(name, path)


def refuse_others(recorded: Iterable[str]) -> None:
    """Raises UserError if weights on this machine differ from the recorded checksums, NET@SHA256."""
    expected = dict(text.rsplit("@", 1) for text in recorded)
    here = checksums(expected)
    for name, checksum in expected.items():
        if here.get(name) != checksum:
            raise UserError(
                f"the weights of {name} on this machine are others than those of the run's protocol (SHA-256 "
                f"{here.get(name, 'none')}, not {checksum}): copy that file here, or start the run anew."
            )


def _library(name: str) -> table.Library:
    library = table.network(name, "feature network", names()).library
    if library == "torchvision":
        raise UserError(f"{name} is a reward network, not a feature network; there are {', '.join(names())}.")
    if library == "file":
        raise UserError(
            f"the Python file {name} cannot be a feature network; there are {', '.join(names())}."
        )
    return library


class Pixels:
    """The pixels of the image."""

    name = "pixels"
    classifies = False

    def __call__(self, images: Tensor) -> Activations:
        return Activations(images.flatten(1).float() / 255)


class RandomConv:
    """3x3 convolutions with fixed random weights and pooling to 4x4, then to 2x2.

    Any image size and number of channels; always 4 * WIDTH = 128 dimensions. Random features of this kind
    tell distributions of images apart without the bias of a trained network (compare Naeem et al. 2020,
    section 4).
    """

    name = "random-conv"
    classifies = False
    WIDTH = 32

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Activations:
        x = images.to(self.device).float() / 127.5 - 1
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x, depth = self._layer(x, depth=0), 1
        while min(x.shape[-2:]) > 4:
            x, depth = self._layer(F.avg_pool2d(x, 2), depth), depth + 1
        return Activations(F.adaptive_avg_pool2d(x, 2).flatten(1))

    def _layer(self, x: Tensor, depth: int) -> Tensor:
        draw = generator(0, "random-conv", depth)
        fan_in = 9 * x.shape[1]
        weight = torch.randn(self.WIDTH, x.shape[1], 3, 3, generator=draw) * (2 / fan_in) ** 0.5
        bias = torch.randn(self.WIDTH, generator=draw) / 4  # without it contrast would only scale features
        return F.relu(F.conv2d(x, weight.to(x.device), bias.to(x.device), padding=1))


class LocalClassifier:
    """A local network as feature network."""

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        self.name, self.device = name, device
        self.net = local_net(name, device)
        self.classifies = self.net.recipe.task == "classes"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Activations:
        images = with_channels(images.to(self.device), self.net.channels, self.name)
        output = self.net(images.float() / 127.5 - 1)
        return Activations(output.pooled, logits=output.logits if self.classifies else None)


class PretrainedFeatures:
    """One vector per image: timm's pre-logits, or CLIP's image embedding.

    Images are resized to the network's input by the antialiased bicubic rule and normalised as in its
    training.
    """

    classifies = False

    def __init__(self, name: str, device: torch.device | str = "cpu", file: Path | None = None) -> None:
        """Raises UserError for a model that the library does not know, and absent or wrong weights."""
        self.name, self.device = name, device
        library = timm if table.network(name).library == "timm" else open_clip
        path = weights.find(name, file, f"or give the file: --net-weights {name}=FILE")
        self.network = library.whole_image(name, path, device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Activations:
        from torchvision.transforms.functional import InterpolationMode, normalize, resize  # takes seconds

        encode, size, mean, std = self.network
        x = with_channels(images.to(self.device), 3, self.name).float() / 255
        x = resize(x, list(size), InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        return Activations(encode(normalize(x, list(mean), list(std))).float())
