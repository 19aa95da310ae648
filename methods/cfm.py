"""Contrastive flow matching, DeltaFM (arXiv 2506.05350).

The prediction of a sample is pushed away from the target of another sample j of the same step:

    L_i = |v_i - u_i|^2 - weight * |v_i - u_j|^2,        j != i uniform, means over entries

u_j is the target of sample j, from its own image and noise, without gradient. The default weight is the
paper's 0.05; the released trainer's is 1.0, for which the loss has no lower bound, so weights of 1 and more
are refused.

In the released code j is another sample of the same device; here it is one of the step's whole batch, so
that the number of devices does not matter. The released sampler also subtracts a stored mean velocity when
it guides; that is not part of training and is left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.base import BackboneInfo, Context, GetEncoder, Loss, Method, Needs
from methods.parts.distances import mean_square


class CFM(Method):
    """Flow matching with a negative target from another sample.

    Options:
        weight: of the negative term, lambda in [0, 1).
        negatives: "other" draws from all other samples, "other-class" from those of another label if any.
        skip_null: samples with the null label (dropped, for guidance) get no negative, and the terms of the
            others are scaled to the same mean; an option of the released code.
    """

    weight: float = 0.05
    negatives: Literal["other", "other-class"] = "other"
    skip_null: bool = False

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        if not 0 <= self.weight < 1:
            raise ValueError(
                f"weight={self.weight} must lie in [0, 1): from 1 on the loss is unbounded below"
            )
        self.null = backbone.classes

    def needs(self, step: int, steps: int) -> Needs:
        return Needs(whole_batch=self.weight > 0)

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.weight:
            return {}
        share = context.share
        if share.batch_size < 2:
            raise ValueError("cfm needs at least 2 samples in a batch")
        labels = share.gather(context.label)
        other = self.partners(labels, context.generator)[share.rows]
        value = mean_square(context.prediction, share.gather(context.target.detach())[other])
        weight = torch.full_like(value, -self.weight)
        if self.skip_null:
            named = (labels != self.null).to(value)
            weight = weight * named[share.rows] * len(named) / named.sum().clamp(min=1)
        return {"contrastive": Loss(value, weight)}

    def partners(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Index of a uniformly drawn other sample for each sample of the step, labels [B] -> [B]."""
        allowed = ~torch.eye(len(labels), dtype=torch.bool)
        if self.negatives == "other-class":
            others = (labels[:, None] != labels).cpu()
            allowed = torch.where(others.any(dim=1, keepdim=True), others, allowed)
        return torch.multinomial(allowed.float(), 1, generator=generator)[:, 0].to(labels.device)
