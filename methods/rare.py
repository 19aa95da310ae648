"""RARE: per-token weights of the alignment, and its release ("What visual generators need from teachers",
2026).

iREPA on a teacher layer that is whitened to its first 128 principal axes with fixed statistics of 20K
training images. Tokens that are poorly aligned weigh more, and the alignment ends once it stops improving:

    L = -lambda (1/N) sum_k w_k cos_k,      w_k = clip(eta_k / mean eta, 1/4, 4), divided by its mean,
    eta = (1 - cos) / 2 without gradient

lambda is 1 until the release, then decays to 0 along a half cosine over an eighth of training. The release
happens when a fast and a slow moving average of mean eta (0.999 and 0.99995 at 400K steps, bias-corrected)
agree, (slow - fast) / slow < 2%, not before an eighth of training and at the latest at 250K of 400K steps.
After the last division w may exceed [1/4, 4].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from methods.base import BackboneInfo, Context, EncoderInfo, EncoderLayers, Features, Loss, Needs
from methods.irepa import IREPA
from methods.parts.distances import at_least_float32, spatial_norm, token_cosines
from methods.parts.projectors import TokenConvolution
from methods.parts.statistics import PrincipalAxes

WINDOWS = (1 / 400, 1 / 20)  # of the averages, as fractions of training: 1,000 and 20,000 of 400K steps
RAMP, LATEST, TOLERANCE = 1 / 8, 0.625, 0.02


class RARE(IREPA):
    """iREPA with a whitened teacher, token weights and a release.

    Options, in addition to those of iREPA:
        layer: encoder layer, 1 the first, -1 the last; 0: its patch tokens.
        components: principal axes of the whitened teacher; 0: no whitening.
        records: training images used for the statistics.
        clip: token weights are clipped to [1 / clip, clip] and divided by their mean; 1: no weights.
        release: end the alignment as described; false: at `align_until`.
    """

    layer: int = 0
    components: int = 128
    records: int = 20_000
    clip: float = 4.0
    release: bool = True

    def build(self, backbone: BackboneInfo, encoder: Callable[[str], EncoderInfo]) -> None:
        if self.clip < 1:
            raise ValueError(f"clip={self.clip} must be at least 1")
        self.layers = EncoderLayers(hidden=(self.layer,) if self.layer else ())
        super().build(backbone, encoder)
        if len(self.encoders) > 1:
            raise ValueError(f"encoder={self.encoder}: rare aligns with one encoder")
        # Fast and slow average of eta; number of averaged steps; step of the release, -1 before it.
        self.averages = nn.Buffer(torch.zeros(2, dtype=torch.float64))
        self.seen, self.released = (nn.Buffer(torch.tensor(value)) for value in (0, -1))
        self._eta: list[Tensor] = []  # (sum over samples, number of samples) of the step's micro-batches

    def projector(self, backbone: BackboneInfo, encoder: EncoderInfo) -> nn.Module:
        width = min(self.components, encoder.width) or encoder.width
        if self.components:
            self.whitening = PrincipalAxes(encoder.width, width)
            seen = (self.tokens(found) for found in encoder.sample(self.records, self.layers))
            self.whitening.fit(seen, standardise=False, whiten=True)
        return TokenConvolution(backbone.width, width, backbone.grid, self.kernel)

    def tokens(self, features: Features) -> Tensor:
        """The teacher's tokens before whitening."""
        return features.hidden[self.layer] if self.layer else features.patch_tokens

    def target(self, features: Features) -> Tensor:
        tokens = at_least_float32(self.tokens(features))
        return spatial_norm(self.whitening(tokens) if self.components else tokens, self.gamma)

    def strength(self, step: int, steps: int) -> float:
        """lambda at `step` of `steps`, in [0, 1]."""
        released = int(self.released) if self.weight else -1
        if released < 0 or step < released:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - released) / (RAMP * steps))))

    def needs(self, step: int, steps: int) -> Needs:
        needs = super().needs(step, steps)
        if not needs.encoders or self.strength(step, steps) == 0:
            return Needs()
        return replace(needs, encoder_layers={self.encoder: self.layers})

    def losses(self, context: Context) -> dict[str, Loss]:
        strength = self.strength(context.step, context.steps)
        if not self.aligns(context.step, context.steps) or strength == 0:
            return {}
        cosines = self.compare(token_cosines, context)  # [B, N]
        eta = (1 - cosines.detach()) / 2
        self._eta += [torch.stack([eta.mean(dim=1).sum().double(), eta.new_tensor(len(eta)).double()])]
        self._now = context.step, context.steps
        value = -(token_weights(eta, self.clip) * cosines).mean(dim=1)
        return {"rare": Loss(value, self.weight * strength)}

    def after_backward(self, total: Callable[[Tensor], Tensor]) -> None:
        """Update the averages with the mean eta of the step; release the alignment if they agree."""
        if not self._eta or not self.release:
            self._eta.clear()
            return
        summed, samples = total(torch.stack(self._eta).sum(dim=0))
        self._eta.clear()
        step, steps = self._now
        momenta = self.averages.new_tensor([1 - 1 / max(1, window * steps) for window in WINDOWS])
        self.averages.mul_(momenta).add_((1 - momenta) * summed / samples)
        self.seen += 1
        fast, slow = self.averages / (1 - momenta**self.seen)
        agree = step >= RAMP * steps and bool((slow - fast) / slow < TOLERANCE)
        if self.released < 0 and (agree or step >= LATEST * steps):
            self.released.fill_(step + 1)


def token_weights(eta: Tensor, clip: float) -> Tensor:
    """Weight of each token, with mean 1 over a sample, [B, N] -> [B, N]."""
    clipped = (eta / eta.mean(dim=1, keepdim=True).clamp(min=1e-12)).clamp(1 / clip, clip)
    return clipped / clipped.mean(dim=1, keepdim=True)
