"""Extra parts of the state of a backbone: tokens or maps that are noised and predicted with the image.

Each has a linear map to tokens, and one from the modulated tokens of the final layer, initialised to zero:

    token   [B, w]         Linear, LayerNorm -> a token before the image tokens, without position
    map     [B, w, H, W]   patches, Linear -> added to the image tokens, as if it were more channels

Their parameters have names of their own, so that those of the official networks do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Extra:
    """An additional part of the state, with the same t as the image.

    It is stored with the backbone, so that sampling needs neither the method nor an encoder.
    """

    name: str
    width: int  # channels
    kind: Literal["token", "map"] = "token"  # [B, width], or [B, width, H, W] at the latent's resolution
    weight: float = 1.0  # of its loss term, "denoise NAME"
    guided: bool = False  # whether classifier-free guidance acts on it

    def shape(self, size: int) -> tuple[int, ...]:
        """Shape of one sample, for latents of `size` rows and columns."""
        return (self.width,) if self.kind == "token" else (self.width, size, size)


class ExtraState(nn.Module):
    """The linear maps of all extras of a backbone."""

    def __init__(self, extras: tuple[Extra, ...], width: int, patch: int) -> None:
        """Raises ValueError unless all names are distinct identifiers."""
        super().__init__()
        names = [extra.name for extra in extras]
        if len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
            raise ValueError(f"extras {', '.join(names)} need names that are distinct words")
        self.extras, self.patch = extras, patch
        self.tokens = [extra for extra in extras if extra.kind == "token"]
        self.maps = [extra for extra in extras if extra.kind == "map"]
        self.embed, self.predict = nn.ModuleDict(), nn.ModuleDict()
        for extra in extras:
            inputs = extra.width if extra.kind == "token" else extra.width * patch**2
            into, out = nn.Linear(inputs, width), nn.Linear(width, inputs)
            nn.init.xavier_uniform_(into.weight)
            for zero in (into.bias, out.weight, out.bias):
                nn.init.zeros_(zero)
            token = extra.kind == "token"
            self.embed[extra.name] = nn.Sequential(into, nn.LayerNorm(width)) if token else into
            self.predict[extra.name] = out

    def embedded(self, values: Mapping[str, Tensor], image: Tensor) -> Tensor:
        """Add noised extras to image tokens, [B, N, D] -> [B, E + N, D] with E extra tokens in front."""
        for extra in self.maps:
            patches = F.pixel_unshuffle(values[extra.name], self.patch).flatten(2).transpose(1, 2)
            image = image + self.embed[extra.name](patches)
        front = [self.embed[extra.name](values[extra.name])[:, None] for extra in self.tokens]
        return torch.cat([*front, image], dim=1) if front else image

    def predicted(self, tokens: Tensor, side: int) -> dict[str, Tensor]:
        """Predictions of all extras from modulated tokens [B, E + N, D], N = side * side."""
        found: dict[str, Tensor] = {}
        for place, extra in enumerate(self.tokens):
            found[extra.name] = self.predict[extra.name](tokens[:, place])
        for extra in self.maps:
            patches = self.predict[extra.name](tokens[:, len(self.tokens) :])
            maps = patches.transpose(1, 2).unflatten(2, (side, side))
            found[extra.name] = F.pixel_shuffle(maps, self.patch)
        return found
