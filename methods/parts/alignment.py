"""Base class of methods that align a hidden state with a frozen encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from methods.base import (
    TEACHER,
    BackboneInfo,
    Context,
    EncoderInfo,
    EncoderLayers,
    Features,
    GetEncoder,
    Method,
    Needs,
    joined,
)

PAPER_DEPTHS = {12: 4, 24: 8, 28: 8}  # blocks -> alignment depth, REPA's appendix G


class EncoderAlignment(Method):
    """Compares the hidden state after one block with the patch tokens of frozen encoders.

    Subclasses define the `projector`, the `target` and the `losses`.

    Options:
        weight: of the alignment loss; 0: the baseline, no encoder is loaded.
        depth: align after this block, 1-based; 0: REPA's, for other depths a third of the network,
            rounded up.
        encoder: name of the frozen encoder; "teacher": the one recommended for the data set. Several,
            joined by "+", have a projector each and share the weight, as in REPA's released code.
        align_until: fraction of training after which alignment ends; 1 in most papers, less in HASTE.
    """

    weight: float = 0.5
    depth: int = 0
    encoder: str = TEACHER
    align_until: float = 1.0
    captured = EncoderLayers()  # of each encoder, besides its patch tokens; set before `build`

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        self.alignment_depth = block_number(self.depth, backbone.depth, PAPER_DEPTHS)
        if not 0 < self.align_until <= 1:
            raise ValueError(f"align_until={self.align_until} must lie in (0, 1]")
        if self.weight == 0:
            return  # no encoder, no projector: exactly the baseline
        targets = [encoder(name) for name in self.encoders]
        for target in targets:
            require_grid(target, backbone)
        self.projectors = nn.ModuleList(self.projector(backbone, target) for target in targets)

    def projector(self, backbone: BackboneInfo, encoder: EncoderInfo) -> nn.Module:
        """The trainable map from a hidden state [B, N, D] to the width of the encoder."""
        raise NotImplementedError

    def target(self, features: Features) -> Tensor:
        """The target of the projected hidden state, [B, N, D']."""
        return features.patch_tokens

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the frozen encoders."""
        return joined(self.encoder)

    def aligns(self, step: int, steps: int) -> bool:
        """Whether there is an alignment loss at `step` of `steps`."""
        return self.weight != 0 and step < self.align_until * steps

    def needs(self, step: int, steps: int) -> Needs:
        if not self.aligns(step, steps):
            return Needs()
        layers = dict.fromkeys(self.encoders, self.captured) if self.captured != EncoderLayers() else {}
        return Needs((self.alignment_depth,), encoders=self.encoders, encoder_layers=layers)

    def compare(self, measure: Callable[[Tensor, Tensor], Tensor], context: Context) -> Tensor:
        """`measure(projected hidden state, target)` per sample, averaged over encoders, [B]."""
        hidden = context.hidden[self.alignment_depth]
        pairs = zip(self.projectors, self.encoders, strict=True)
        values = [measure(phi(hidden), self.target(context.features[name])) for phi, name in pairs]
        return torch.stack(values).mean(dim=0)


def block_number(
    asked: int, depth: int, published: Mapping[int, int], fraction: float = 1 / 3, option: str = "depth"
) -> int:
    """The 1-based block that an option selects in a network.

    Args:
        asked: value of the option; 0: the published block or, for other depths, `fraction` of the network,
            rounded up.
        depth: number of blocks of the network.
        published: number of blocks -> block.
        fraction: in (0, 1].
        option: name of the option, for the error message.

    Raises:
        ValueError: the network has no such block.
    """
    if not 0 <= asked <= depth:
        raise ValueError(f"{option}={asked} is outside the backbone's blocks 1..{depth}")
    return asked or published.get(depth, math.ceil(fraction * depth - 1e-9))


def require_grid(encoder: EncoderInfo, backbone: BackboneInfo) -> None:
    """Raises ValueError if tokens of the encoder and of the backbone do not correspond."""
    if encoder.grid != backbone.grid:
        raise ValueError(
            f"encoder {encoder.name} gives {encoder.grid} tokens, the backbone has {backbone.grid}"
        )


def require_heads(encoder: EncoderInfo, what: str) -> None:
    """Raises ValueError if the encoder has no attention heads, from which the method takes `what`."""
    if not encoder.heads:
        raise ValueError(
            f"encoder {encoder.name} has no {what}: choose a vision transformer, such as digits-vit or "
            "dinov2-b"
        )
