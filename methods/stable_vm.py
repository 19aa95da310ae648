"""StableVM, a denoising target of lower variance: part of Stable Velocity (arXiv 2602.05435).

At noise levels t >= xi the target of a sample is replaced by an estimate of its posterior mean over clean
images x_j with the same label (after label dropout), weighted by their likelihood given x_t:

    u* = sum_j w_j (x_t - x_j) / t,        w = softmax_j(-|x_t - (1 - t) x_j|^2 / (2 t^2))

on the linear path, and in general u* = u - (sum_j w_j x_j - x0) / |d x0_hat / d u|. Below xi, and if x0 is
the only x_j, it is the usual target u. Defaults are the paper's: xi = 0.5 and 256 latents per
class.

The x_j are the samples of the batch with that label and a bank of the most recent ones, saved with the run
(2.1 GB for ImageNet latents); for the null label, all samples of the batch and a bank of all labels.
Deviation: in the released code the training images themselves are drawn from the bank, so that the order of
the data differs from other methods; here it does not. Requires velocity prediction (SiT).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.base import BackboneInfo, Context, GetEncoder, Loss, Method, Needs
from methods.parts.distances import at_least_float32, mean_square


class StableVM(Method):
    """Flow matching with a target averaged over likely clean images.

    Options:
        xi: noise level from which the target is replaced.
        bank: latents kept per label; 0: only the samples of the batch.
    """

    xi: float = 0.5
    bank: int = 256
    replaces = ("denoise",)

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        if backbone.family != "sit":
            raise ValueError("stable-vm replaces a velocity, which dit-* does not predict: choose sit-*")
        if self.bank < 0:
            raise ValueError(f"bank={self.bank} must not be negative")
        self.null, side = backbone.classes, [tokens * backbone.patch for tokens in backbone.grid]
        shape = (self.null + 1, self.bank, backbone.channels, *side)
        self.latents = nn.Buffer(torch.zeros(shape, dtype=torch.float16))  # the last row: all labels
        self.kept = nn.Buffer(torch.zeros(self.null + 1, dtype=torch.long))  # number ever stored, per row

    def needs(self, step: int, steps: int) -> Needs:
        return Needs(whole_batch=True)

    def losses(self, context: Context) -> dict[str, Loss]:
        images, labels = context.share.gather(context.x0), context.share.gather(context.label)
        target = at_least_float32(context.target).clone()
        for row in map(int, (context.noise_level >= self.xi).nonzero()[:, 0]):
            label = int(context.label[row])
            here = images if label == self.null else images[labels == label]
            references = torch.cat([here, self.latents[label, : int(self.kept[label])].to(here)])
            mean = posterior_mean(context.x0[row], context.noise[row], context.noise_level[row], references)
            target[row] -= (mean - context.x0[row]) / context.x0_hat_scale[row]
        self.remember(images, labels)
        return {"denoise": Loss(mean_square(context.prediction, target))}

    @torch.no_grad()
    def remember(self, images: Tensor, labels: Tensor) -> None:
        """Store the images of a batch [B, C, H, W] in the bank, replacing the oldest."""
        if not self.bank:
            return
        for image, label in zip(images, map(int, labels), strict=True):
            for row in {label, self.null}:
                self.latents[row, self.kept[row] % self.bank] = image.to(self.latents)
                self.kept[row] += 1


def posterior_mean(x0: Tensor, noise: Tensor, noise_level: Tensor, references: Tensor) -> Tensor:
    """sum_j w_j x_j of one sample, [C, H, W]; `references` [R, C, H, W], `noise_level` a scalar below 1."""
    ratio = (1 - noise_level).clamp(min=1e-4) / noise_level  # signal / noise
    distance = at_least_float32(noise) + ratio * (at_least_float32(x0) - at_least_float32(references))
    weights = (-distance.square().flatten(1).sum(dim=1) / 2).softmax(dim=0)
    return torch.einsum("r,rchw->chw", weights, at_least_float32(references))
