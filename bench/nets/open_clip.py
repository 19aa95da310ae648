"""Networks of open_clip, `clip:ARCHITECTURE/TAG`, as in clip:ViT-L-14-quickgelu/openai, used in two ways.

As teachers (`OpenClipEncoder`): the tokens of the image tower after its final norm, before the projection to
the joint space of images and texts, of images prepared as in published.py. For metrics (`whole_image`) and
rewards (`build`): the embedding in the joint space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.core.errors import UserError, unknown
from bench.nets import table, weights
from bench.nets.base import NO_LAYERS, EncoderOptions, WholeImage, first_line
from bench.nets.layers import capture, refuse
from bench.nets.published import Precision, PublishedEncoder
from methods.base import EncoderInfo, EncoderLayers, Features


class OpenClipEncoder(PublishedEncoder):
    """A frozen image tower: images [B, 1 or 3, R, R] uint8 -> features."""

    def __init__(
        self,
        name: str,
        options: EncoderOptions,
        grid: tuple[int, int],
        device: torch.device,
        precision: Precision = "fp32",
    ) -> None:
        """Raises UserError for an unknown tower or one without patches, and if its weights are absent."""
        self.info = describe(name, grid)
        patch = _vision(name)["patch_size"]
        size = (grid[0] * patch, grid[1] * patch)
        file = weights.find(name, options.weights, f"or name a file: {name}[weights=FILE]")
        tower = build(name, file, size).visual
        statistics = (tower.image_mean, tower.image_std)
        super().__init__(_architecture(name), file, options, size, statistics, device, precision)
        tower.output_tokens, tower.proj = True, None
        self.norm = tower.ln_post if tower.final_ln_after_pool else torch.nn.Identity()
        self.net = tower.to(device)
        self.forward = torch.compile(self.net) if options.compile else self.net

    @torch.no_grad()
    def __call__(self, images: Tensor, layers: EncoderLayers = NO_LAYERS) -> Features:
        """Images [B, 1 or 3, R, R] uint8 -> features in float32, without gradient.

        Raises:
            UserError: for `layers` that the tower does not have.
        """
        refuse(self.info, layers)
        x = self.preprocess(images)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            forward = self.forward if layers == NO_LAYERS else self.net
            with capture(self.net.transformer.resblocks, layers) as seen:
                pooled, tokens = forward(x)
            tokens = self.norm(tokens).float()
        return seen.features(tokens, pooled.float(), layers, self.info.layers)


def describe(name: str, grid: tuple[int, int]) -> EncoderInfo:
    """Properties of the encoder, without its weights.

    Raises:
        UserError: for an unknown tower, and for one without patch tokens.
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
    """A network of open_clip that gives one vector per image: its embedding."""
    net = build(name, path).to(device)
    side = net.visual.image_size
    size = side if isinstance(side, tuple) else (side, side)
    return WholeImage(net.encode_image, size, net.visual.image_mean, net.visual.image_std)


def build(name: str, path: Path, size: tuple[int, int] | None = None) -> Any:
    """Both frozen towers, with the weights of a file.

    `size`: rows and columns of the input; None: the network's own. Raises UserError for an unknown
    architecture, and for weights of another network.
    """
    import open_clip

    _config(name)
    record = open_clip.get_pretrained_cfg(*table.network(name).model.partition("/")[::2])
    own = {key: record[key] for key in ("mean", "std") if key in record}  # not recorded in a file of weights
    try:
        net: Any = open_clip.create_model(
            _architecture(name), pretrained=str(path), force_image_size=size, force_preprocess_cfg=own
        )
    except Exception as error:
        raise UserError(f"the weights {path} cannot be used for {name}: {first_line(error)}") from None
    return net.eval().requires_grad_(False)


def tokenizer(name: str) -> Any:
    """A function of sentences that gives the tokens [N, L] of the text tower."""
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
