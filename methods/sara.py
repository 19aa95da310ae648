"""SARA, structural and adversarial alignment (arXiv 2503.08253).

Three terms between the projected hidden state z and the teacher's tokens y:

    weight * REPA,   structure * |G(z) - G(y)|^2,   adversarial * softplus(-J(z))

G(a) is the N x N matrix of cosines between the tokens of a sample, J a discriminator trained jointly with
softplus(-J(y)) + softplus(J(z)). One backward pass gives all gradients: z is detached in the loss of J, and
the weights of J are detached in the adversarial term.

The equations and the weights 0.5, 0.5, 0.05 are those of a third-party implementation; the authors' code was
not public. It sums the structural term over N^2 entries (65,536 for 256 tokens), which is `summed=true`; here
they are averaged. Deviation: J is an MLP per token with one hidden layer, trained by the optimiser of the
run; the third-party J is a small ResNet with its own learning rate 2e-4, trained every fifth step after a
warm-up of 500.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from methods.base import BackboneInfo, Context, GetEncoder, Loss
from methods.parts.distances import at_least_float32, cosine
from methods.parts.projectors import mlp
from methods.repa import REPA


class SARA(REPA):
    """REPA with a structural and an adversarial term.

    Options, in addition to those of REPA:
        structure: weight of the structural term; 0: none.
        adversarial: weight of the adversarial term; 0: neither it nor the discriminator.
        summed: sum the structural term over pairs of tokens instead of averaging it.
    """

    structure: float = 0.5
    adversarial: float = 0.05
    summed: bool = False

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        super().build(backbone, encoder)
        if len(self.encoders) > 1:
            raise ValueError(f"encoder={self.encoder}: sara aligns with one encoder")
        if self.weight and self.adversarial:
            width = encoder(self.encoder).width
            self.discriminator = mlp(width, width, 1)

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.aligns(context.step, context.steps):
            return {}
        student = self.projectors[0](context.hidden[self.alignment_depth])
        teacher = context.features[self.encoder].patch_tokens
        losses = {"repa": Loss(-cosine(student, teacher), self.weight)}
        if self.structure:
            losses["structure"] = Loss(structure(student, teacher, self.summed), self.structure)
        if self.adversarial:
            frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
            fooling = functional_call(self.discriminator, frozen, (student,))
            losses["fool"] = Loss(softplus_mean(-fooling), self.adversarial)
            real, fake = self.discriminator(teacher), self.discriminator(student.detach())
            losses["discriminate"] = Loss(softplus_mean(-real) + softplus_mean(fake))
        return losses


def structure(student: Tensor, teacher: Tensor, summed: bool) -> Tensor:
    """|G(student) - G(teacher)|^2 over pairs of tokens, [B, N, D] x [B, N, D] -> [B]."""
    units = (F.normalize(at_least_float32(tokens), dim=-1) for tokens in (student, teacher))
    ours, theirs = (unit @ unit.transpose(1, 2) for unit in units)
    squares = (ours - theirs).square().flatten(1)
    return squares.sum(dim=1) if summed else squares.mean(dim=1)


def softplus_mean(scores: Tensor) -> Tensor:
    """Mean over tokens of softplus, [B, N, ...] -> [B]."""
    return F.softplus(at_least_float32(scores)).flatten(1).mean(dim=1)
