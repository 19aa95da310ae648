"""What all alignments of a hidden state with a frozen encoder have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from methods.base import TEACHER, BackboneInfo, Context, EncoderInfo, Features, Method, Needs, joined

PAPER_DEPTHS = {12: 4, 24: 8, 28: 8}  # blocks -> alignment depth, REPA's appendix G


class EncoderAlignment(Method):
    """Compares the hidden state after one block with the patch tokens of frozen encoders.

    A subclass says by which `projector` and with which `target`, and what `losses` come out of it.

    Options:
        weight: of the alignment loss; 0 loads no encoder and is the baseline.
        depth: align after this block, 1-based; 0 takes REPA's, or for other sizes the block at a third of
            the network, rounded up.
        encoder: name of the frozen encoder; "teacher" takes the one the data set recommends. Several,
            joined by "+", get a projector each and share the weight, as in REPA's released code.
        align_until: alignment ends after this part of training; 1 in most papers, less in HASTE (2505.16792).
    """

    weight: float = 0.5
    depth: int = 0
    encoder: str = TEACHER
    align_until: float = 1.0

    def build(self, backbone: BackboneInfo, encoder: Callable[[str], EncoderInfo]) -> None:
        self.alignment_depth = block_number(self.depth, backbone.depth, PAPER_DEPTHS)
        if not 0 < self.align_until <= 1:
            raise ValueError(f"align_until={self.align_until} must lie in (0, 1]")
        if self.weight == 0:
            return  # no encoder is loaded, no projector made: exactly the baseline
        targets = [encoder(name) for name in self.encoders]
        for target in targets:
            if target.grid != backbone.grid:
                raise ValueError(
                    f"encoder {target.name} gives {target.grid} tokens, the backbone has {backbone.grid}"
                )
        self.projectors = nn.ModuleList(self.projector(backbone, target) for target in targets)

    def projector(self, backbone: BackboneInfo, encoder: EncoderInfo) -> nn.Module:
        """The trainable map of a hidden state [B, N, D] to the encoder's width."""
        raise NotImplementedError

    def target(self, features: Features) -> Tensor:
        """What the projected hidden state is compared with, [B, N, D']."""
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
        return Needs(hidden_depths=(self.alignment_depth,), encoders=self.encoders)

    def compare(self, measure: Callable[[Tensor, Tensor], Tensor], context: Context) -> Tensor:
        """`measure(projected hidden state, target)` of each sample, mean over encoders: [B]."""
        hidden = context.hidden[self.alignment_depth]
        pairs = zip(self.projectors, self.encoders, strict=True)
        values = [measure(phi(hidden), self.target(context.features[name])) for phi, name in pairs]
        return torch.stack(values).mean(dim=0)


def block_number(
    asked: int, depth: int, published: Mapping[int, int], fraction: float = 1 / 3, option: str = "depth"
) -> int:
    """The block that an option asks for, 1-based, of a network of `depth` blocks.

    0 takes the block published for that depth or, for other depths, the one at `fraction` of the network,
    rounded up. Raises ValueError if the network has no such block.
    """
    if not 0 <= asked <= depth:
        raise ValueError(f"{option}={asked} is outside the backbone's blocks 1..{depth}")
    return asked or published.get(depth, math.ceil(fraction * depth - 1e-9))
