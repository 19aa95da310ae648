"""Image encoders of timm and open_clip as feature spaces.

    dinov2-b, dinov2-l              DINOv2 (Oquab et al. 2023); Stein et al. (2023) take FD in the latter
    clip-vit-b-32, clip-vit-l-14    OpenAI's CLIP
    timm:NAME, clip:ARCH/TAG        any other of their models

Images are resized to the model's input by the antialiased bicubic rule and normalised as in its training.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, normalize, resize

from bench.core.errors import UserError
from bench.nets.base import Activations

DINOV2_SIDE = 224  # pixels; the checkpoints' own 518 is for dense tasks
ALIASES = {
    "dinov2-b": "timm:vit_base_patch14_dinov2.lvd142m",
    "dinov2-l": "timm:vit_large_patch14_dinov2.lvd142m",
    "clip-vit-b-32": "clip:ViT-B-32-quickgelu/openai",
    "clip-vit-l-14": "clip:ViT-L-14-quickgelu/openai",
}


class Encoder(NamedTuple):
    """A model and the images it was trained on."""

    encode: Callable[[Tensor], Tensor]  # [B, 3, *size] normalised -> [B, D]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class PretrainedEncoder:
    """One pooled vector an image: timm's pre-logits, or CLIP's image embedding."""

    classifies = False

    def __init__(self, name: str, device: torch.device | str = "cpu", weights: Path | None = None) -> None:
        """`weights` None: from the library's cache, or downloaded into it.

        Raises UserError for a model that the library does not know, or weights that cannot be had.
        """
        self.name, self.device = name, device
        library, _, model = ALIASES.get(name, name).partition(":")
        load = _timm_encoder if library == "timm" else _open_clip_encoder
        try:
            self.encoder = load(model, weights, device)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"the encoder {name} ({library} {model}) cannot be loaded: {reason.rstrip('.')}. Without "
                f"internet, put its weights into the library's cache or give the file: --weights {name}=FILE"
            ) from None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Activations:
        encode, size, mean, std = self.encoder
        x = images.to(self.device).float() / 255
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x = resize(x, list(size), InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        return Activations(encode(normalize(x, list(mean), list(std))).float())


def _timm_encoder(model: str, weights: Path | None, device: torch.device | str) -> Encoder:
    import timm
    from timm.data.config import resolve_model_data_config

    options: dict[str, Any] = {"img_size": DINOV2_SIDE} if "dinov2" in model else {}
    overlay = {"file": str(weights)} if weights else None
    net = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options)
    config = resolve_model_data_config(net)
    net.eval().requires_grad_(False).to(device)
    return Encoder(net, config["input_size"][1:], config["mean"], config["std"])


def _open_clip_encoder(model: str, weights: Path | None, device: torch.device | str) -> Encoder:
    import open_clip

    architecture, _, tag = model.partition("/")
    net: Any = open_clip.create_model(architecture, pretrained=str(weights) if weights else tag)
    net.eval().requires_grad_(False).to(device)
    side = net.visual.image_size
    size = side if isinstance(side, tuple) else (side, side)
    return Encoder(net.encode_image, size, net.visual.image_mean, net.visual.image_std)
