"""Dispersive loss: hidden states of different samples repel each other (arXiv 2506.09027).

    L = log( (1 / B^2) sum_ij exp(-|z_i - z_j|^2 / (D tau)) )

over all pairs of a group of B samples, including i = j; z is the hidden state after one block, all its
tokens flattened to a vector of D numbers. No encoder and no parameters. Defaults are the paper's and its JAX
code's: weight 0.5, tau 0.5, the block at a quarter of the network. Its PyTorch code: weight 0.25, tau 1,
the last block.

In both releases a group is the batch of one device (16 samples in the JAX run), so the loss depends on the
number of devices. Here a group is the whole batch, or `group` consecutive samples of it on any machine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base import BackboneInfo, Context, GetEncoder, Loss, Method, Needs
from methods.parts.alignment import block_number
from methods.parts.distances import at_least_float32


class Dispersive(Method):
    """Repulsion between the samples of a batch at one block.

    Options:
        weight: of the loss.
        tau: temperature.
        depth: the block, 1-based; 0: a quarter of the network; -1: the last.
        group: samples per group; 0: the whole batch. Must divide the batch size.
    """

    weight: float = 0.5
    tau: float = 0.5
    depth: int = 0
    group: int = 0

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        last = backbone.depth if self.depth == -1 else self.depth
        self.block = block_number(last, backbone.depth, {}, fraction=1 / 4)
        if self.tau <= 0:
            raise ValueError(f"tau={self.tau} must be positive")
        if self.group < 0 or self.group == 1:
            raise ValueError(f"group={self.group}: at least 2 samples repel each other, or 0 for all")

    def needs(self, step: int, steps: int) -> Needs:
        return Needs(hidden_depths=(self.block,), whole_batch=True) if self.weight else Needs()

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.weight:
            return {}
        batch, group = context.share.batch_size, self.group or context.share.batch_size
        if batch % group:
            raise ValueError(f"dispersive: group={group} does not divide a batch of {batch} samples")
        everyone = context.share.gather(context.hidden[self.block].flatten(1), gradient=True)
        values = repulsion(everyone.reshape(-1, group, everyone.shape[1]), self.tau)
        return {"dispersive": Loss(values.repeat_interleave(group)[context.share.rows], self.weight)}


def repulsion(vectors: Tensor, tau: float) -> Tensor:
    """The loss of each group, [G, B, D] -> [G]."""
    centred = at_least_float32(vectors)
    centred = centred - centred.mean(dim=1, keepdim=True)  # leaves distances unchanged, improves precision
    squares = centred.square().sum(dim=2)
    distances = squares[:, :, None] + squares[:, None] - 2 * centred @ centred.transpose(1, 2)
    apart = ~torch.eye(vectors.shape[1], dtype=torch.bool, device=vectors.device)
    exponents = -(distances * apart).clamp(min=0) / (vectors.shape[2] * tau)
    return exponents.exp().mean(dim=(1, 2)).log()
