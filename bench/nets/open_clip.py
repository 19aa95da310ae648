"""Networks of open_clip, `clip:ARCHITECTURE/TAG`, as in clip:ViT-L-14-quickgelu/openai, read in two ways.

As teachers (`OpenClipEncoder`): patch tokens of the image tower after its final norm, without the class
token, which is given apart, before the projection into the space that images share with texts. Images are
prepared as in timm.py. For metrics (`whole_image`) and rewards (`build`): the embedding in that space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bench.core.errors import UserError, unknown
from bench.core.files import sha256
from bench.nets import layers as inside
from bench.nets import table, weights
from bench.nets.base import NO_LAYERS, EncoderOptions, WholeImage, first_line, with_channels
from bench.nets.timm import normalised_then_resized
from methods.base import EncoderInfo, EncoderLayers, Features


class OpenClipEncoder:
    """A frozen image tower: images [B, 1 or 3, R, R] uint8 -> features."""

    def __init__(
        self,
        name: str,
        options: EncoderOptions,
        grid: tuple[int, int],
        device: torch.device,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        """Raises UserError for an unknown tower or one of another kind, and if its weights are absent."""
        self.architecture = _architecture(name)
        self.info = describe(name, grid)
        patch = _vision(name)["patch_size"]
        self.size = (grid[0] * patch, grid[1] * patch)
        self.weights = weights.find(name, options.weights, f"or name a file: {name}[weights=FILE]")
        tower = build(name, self.weights, self.size).visual
        tower.output_tokens, tower.proj = True, None
        self.norm = tower.ln_post if tower.final_ln_after_pool else torch.nn.Identity()
        self.net = tower.to(device)
        self.forward = torch.compile(self.net) if options.compile else self.net
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (tower.image_mean, tower.image_std)
        )
        self.antialias, self.cache = options.antialias, options.cache
        self.device, self.precision = device, precision

    @property
    def key(self) -> dict[str, Any]:
        """What decides the features of an image, but for the grid."""
        own = {"encoder": self.architecture, "weights": sha256(self.weights), "size": self.size}
        return own | {"antialias": self.antialias, "precision": self.precision}

    @torch.no_grad()
    def __call__(self, images: Tensor, layers: EncoderLayers = NO_LAYERS) -> Features:
        """Images [B, 1 or 3, R, R] uint8 -> features in float32, without gradient.

        Raises UserError for `layers` that the tower does not have.
        """
        inside.refuse(self.info, layers)
        images = with_channels(images.to(self.device), 3, self.info.name)
        x = normalised_then_resized(images, self.size, self.mean, self.std, self.antialias)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            forward = self.forward if layers == NO_LAYERS else self.net
            with inside.capture(self.net.transformer.resblocks, layers) as seen:
                pooled, tokens = forward(x)
            tokens = self.norm(tokens).float()
        return seen.features(tokens, pooled.float(), layers, self.info.layers)


def describe(name: str, grid: tuple[int, int]) -> EncoderInfo:
    """What a method may know of the encoder, without its weights.

    Raises UserError for an unknown tower, and for one without patch tokens.
    """
    vision = _vision(name)
    width, head_width = vision.get("width", 768), vision.get("head_width", 64)
    return EncoderInfo(name, width, grid, vision.get("layers", 12), width // head_width)


def _vision(name: str) -> dict[str, Any]:
    vision: dict[str, Any] = _config(name)["vision_cfg"]
    if not vision.get("patch_size") or vision.get("attentional_pool"):
        raise UserError(f"{name} has no patch tokens after a final norm: take a ViT of open_clip's own.")
    return vision


def whole_image(name: str, path: Path, device: torch.device | str) -> WholeImage:
    """A network of open_clip as the features of whole images: their embeddings."""
    net = build(name, path).to(device)
    side = net.visual.image_size
    size = side if isinstance(side, tuple) else (side, side)
    return WholeImage(net.encode_image, size, net.visual.image_mean, net.visual.image_std)


def build(name: str, path: Path, size: tuple[int, int] | None = None) -> Any:
    """Both towers with the weights of a file, frozen; for images of `size`, else the network's own.

    Raises UserError for an architecture that open_clip does not know, and weights that are not its own.
    """
    import open_clip

    _config(name)
    record = open_clip.get_pretrained_cfg(*table.network(name).model.partition("/")[::2])
    own = {key: record[key] for key in ("mean", "std") if key in record}  # not known from a file alone
    try:
        net: Any = open_clip.create_model(
            _architecture(name), pretrained=str(path), force_image_size=size, force_preprocess_cfg=own
        )
    except Exception as error:
        raise UserError(f"the weights {path} cannot be used for {name}: {first_line(error)}") from None
    return net.eval().requires_grad_(False)


def tokenizer(name: str) -> Any:
    """What turns sentences into tokens [N, L] for the network's text tower."""
    import open_clip

    return open_clip.get_tokenizer(_architecture(name))


def _architecture(name: str) -> str:
    return table.network(name).model.partition("/")[0]


def _config(name: str) -> dict[str, Any]:
    """open_clip's description of the architecture. Raises UserError for one that it does not know."""
    import open_clip

    config = open_clip.get_model_config(_architecture(name))
    if config is None:
        raise unknown("architecture of open_clip", _architecture(name), open_clip.list_models())
    return config
